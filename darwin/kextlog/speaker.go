package kextlog

import "strings"

// A speaker is a program whose words on kernel extensions count.
type speaker int

const (
	nobody speaker = iota
	kernel
	kernelmanagerd
	helper
	syspolicyd
	kextd
)

// daemons are the programs by their paths, which System Integrity Protection
// keeps as Apple made them.
var daemons = map[string]speaker{
	"/usr/libexec/kernelmanagerd":       kernelmanagerd,
	"/usr/libexec/kernelmanager_helper": helper,
	"/usr/libexec/syspolicyd":           syspolicyd,
	"/usr/libexec/kextd":                kextd, // up to macOS 10.15
}

const (
	// firstUser is the least id that macOS gives to people, and guest that of its
	// guest account. What is below is root and the system's services.
	firstUser = 501
	guest     = 201
)

// speaker is who spoke. Anybody may start these programs, and so have them
// speak; only as the system's own do they tell of what really happens.
func (r *Record) speaker() speaker {
	if r.Process == "/kernel" {
		// What an extension prints has the kernel's name, too, and the extension
		// as its sender.
		if r.PID != 0 || strings.Contains(r.Sender, ".kext") {
			return nobody
		}
		return kernel
	}
	who := daemons[r.Process]
	switch {
	case who == nobody || r.PID <= 0:
		return nobody
	case r.UserID == nil || *r.UserID == 0:
		return who
	case who == helper && *r.UserID > 0 && *r.UserID < firstUser && *r.UserID != guest:
		return who
	}
	return nobody
}
