package main

import (
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/darwin"
)

// sources lists the platform's sources of events.
func sources() []collectors.Source {
	return []collectors.Source{darwin.NewEndpointSecurity()}
}

// kernelRelease is what uname -r prints.
func kernelRelease() string {
	release, err := unix.Sysctl("kern.osrelease")
	if err != nil {
		return ""
	}
	return release
}
