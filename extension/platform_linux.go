package main

import (
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/linux"
)

// sources lists the platform's sources of events.
func sources() []collectors.Source {
	return []collectors.Source{linux.NewEBPF()}
}

// kernelRelease is what uname -r prints.
func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
