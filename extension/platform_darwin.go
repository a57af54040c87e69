package main

import (
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/darwin"
	"github.com/kmodquery/kmodquery/tables"
)

// sources lists the platform's sources of events.
func sources(*config) []collectors.Source {
	return []collectors.Source{darwin.NewEndpointSecurity()}
}

// newInventory returns none: nothing is looked at yet.
func newInventory() tables.Inventory { return nil }

// kernelRelease is what uname -r prints.
func kernelRelease() string {
	release, err := unix.Sysctl("kern.osrelease")
	if err != nil {
		return ""
	}
	return release
}

// maxImageLimit is the greatest --image-limit, and the default; it means
// nothing here, and configurations may be shared.
const maxImageLimit = 32 << 20
