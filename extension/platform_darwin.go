package main

import (
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/darwin/host"
)

// hostPlatform is macOS.
func hostPlatform() *platform {
	return macOS(host.DefaultPrograms(), macKernel{
		release: func() string {
			release, err := unix.Sysctl("kern.osrelease")
			if err != nil {
				return ""
			}
			return release
		},
		boot:   host.ReadBoot,
		remote: host.RemoteMounts,
	})
}
