package kextlog

import "strings"

// A program is one of those whose messages about kernel extensions are trusted.
type program int

const (
	untrusted program = iota
	kernel
	kernelmanagerd
	helper
	syspolicyd
	kextd
)

// daemons maps paths to programs. System Integrity Protection protects these
// files.
var daemons = map[string]program{
	"/usr/libexec/kernelmanagerd":       kernelmanagerd,
	"/usr/libexec/kernelmanager_helper": helper,
	"/usr/libexec/syspolicyd":           syspolicyd,
	"/usr/libexec/kextd":                kextd, // up to macOS 10.15
}

const (
	// firstUser is the lowest user ID that macOS gives to a person, and guest that
	// of its guest account. The other IDs below firstUser are root and system
	// services.
	firstUser = 501
	guest     = 201
)

// program returns the program that logged the record, or untrusted. Any user can
// start these daemons and make them log, so a message is trusted only if the
// daemon runs as a system user.
func (r *Record) program() program {
	if r.process == "/kernel" {
		// The message of an extension also has the kernel as its process, and the
		// extension as its sender.
		if r.pid != 0 || strings.Contains(r.sender, ".kext") {
			return untrusted
		}
		return kernel
	}
	daemon := daemons[r.process]
	switch {
	case daemon == untrusted || r.pid <= 0:
		return untrusted
	case r.userID == nil || *r.userID == 0:
		return daemon
	case daemon == helper && *r.userID > 0 && *r.userID < firstUser && *r.userID != guest:
		return daemon
	}
	return untrusted
}
