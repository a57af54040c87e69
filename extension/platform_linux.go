package main

import (
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/linux"
)

// sources lists the platform's sources of events.
func sources(c *config) []collectors.Source {
	return []collectors.Source{linux.NewEBPF(linux.EBPFOptions{ImageLimit: c.imageLimit})}
}

// kernelRelease is what uname -r prints.
func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// maxImageLimit is the greatest --image-limit, and the default.
const maxImageLimit = linux.MaxImage
