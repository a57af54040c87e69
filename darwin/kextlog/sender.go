package kextlog

import "strings"

// Two of the trusted programs.
const (
	kernel = "/kernel"
	helper = "/usr/libexec/kernelmanager_helper"
)

const (
	// firstUser is the lowest user ID that macOS gives to a person, and guest that
	// of its guest account. The other IDs below firstUser are root and system
	// services.
	firstUser = 501
	guest     = 201
)

// isTrusted reports whether a message of one of the programs is trusted. Any user can
// start the daemons and make them log, so a daemon must run as a system user.
func (r *Record) isTrusted() bool {
	switch {
	case r.process == kernel:
		// The message of an extension also has the kernel as its process, and the
		// extension as its sender.
		return r.pid == 0 && !strings.Contains(r.sender, ".kext")
	case r.pid <= 0:
		return false
	case r.userID == nil || *r.userID == 0:
		return true
	}
	return r.process == helper && *r.userID > 0 && *r.userID < firstUser && *r.userID != guest
}
