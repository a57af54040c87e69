package main

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/darwin"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// sourceNames are the platform's sources of events in the order of preference.
var sourceNames = []string{kmodquery.SourceEndpointSecurity}

// hasModules reports whether kernel extensions can be loaded here.
func hasModules() bool { return true }

// openSource returns one of them.
func openSource(string, *config, *sqlite.Store) collectors.Source {
	return darwin.NewEndpointSecurity()
}

// recall names those that can tell at the start what happened before.
var recall []string

// openViews returns nil: there are none yet.
func openViews() collectors.Views { return nil }

// stamp is an event of the present moment.
func stamp() kmodquery.Event {
	now := time.Now()
	return kmodquery.Event{Time: now.Unix(), TimeNanos: now.UnixNano()}
}

// newInventory returns none: nothing is looked at yet.
func newInventory(recorder) tables.Inventory { return nil }

// hasPins reports whether something stays in the kernel: nothing does here.
func hasPins(string) bool { return false }

func removePins(string) error { return nil }

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
