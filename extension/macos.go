package main

import (
	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/darwin"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// A macKernel is what only the kernel itself can be asked for.
type macKernel struct {
	release func() string      // what uname -r prints
	boot    func() darwin.Boot // the present one
}

// macOS is the platform of Macs, on whichever system this runs: all that it
// knows comes from the programs and from the kernel.
func macOS(programs darwin.Programs, kernel macKernel) *platform {
	return &platform{
		sourceNames: []string{kmodquery.SourceEndpointSecurity},
		// Endpoint Security sees who asks for a kernel extension and the verdict,
		// the log what came of it and what policy says.
		sideBySide: true,
		// It means nothing here, and configurations may be shared.
		maxImageLimit: 32 << 20,
		hasModules:    func() bool { return true },
		openSource: func(name string, _ *config, _ *sqlite.Store) collectors.Source {
			switch name {
			case kmodquery.SourceEndpointSecurity:
				return darwin.NewEndpointSecurity(darwin.EndpointSecurityOptions{Eslogger: programs.Eslogger, Boot: kernel.boot})
			}
			panic("no source is called " + name)
		},
		openViews:     func() collectors.Views { return nil },
		viewsSource:   kmodquery.SourceShowloaded,
		stamp:         func() kmodquery.Event { return kernel.boot().Stamp() },
		newInventory:  func(recorder) tables.Inventory { return nil },
		hasPins:       func(string) bool { return false }, // nothing stays in this kernel
		removePins:    func(string) error { return nil },
		kernelRelease: kernel.release,
	}
}
