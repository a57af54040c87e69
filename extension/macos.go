package main

import (
	"context"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/collectors/crossview"
	"github.com/kmodquery/kmodquery/darwin/es"
	"github.com/kmodquery/kmodquery/darwin/host"
	"github.com/kmodquery/kmodquery/darwin/loaded"
	"github.com/kmodquery/kmodquery/darwin/ulog"
	"github.com/kmodquery/kmodquery/extension/doctor"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// A macKernel has what only the kernel itself provides.
type macKernel struct {
	release func() string    // what uname -r prints
	boot    func() host.Boot // the current boot
	// remote returns the mount points of the file systems that are not read.
	remote func() ([]string, error)
}

// defaultEslogger is the default of --eslogger.
var defaultEslogger = host.DefaultPrograms().Eslogger

// macOS returns the platform of Macs. It runs on any system, because everything it
// reads comes from the programs and the kernel that it is given.
func macOS(programs host.Programs, kernel macKernel) *platform {
	kexts := loaded.New(programs, kernel.remote)
	return &platform{
		sourceNames: []string{kmodquery.SourceEndpointSecurity, kmodquery.SourceUnifiedLog},
		// Endpoint Security provides the requesting process and the verdict, the log
		// the outcome and the decision of the system policy.
		sideBySide: true,
		// Each poll runs kmutil for up to a second and cannot find hidden extensions.
		defaultPoll: time.Minute,
		// It has no effect on macOS. A configuration may be shared with Linux hosts.
		maxImageLimit: 32 << 20,
		hasModules:    func() bool { return true },
		openSource: func(name string, c *config, store *sqlite.Store) collectors.Source {
			switch name {
			case kmodquery.SourceEndpointSecurity:
				options := es.Options{Eslogger: programs.Eslogger, Boot: kernel.boot}
				if c.eslogger != defaultEslogger {
					options.Eslogger, options.Resolve = c.eslogger, trustedProgram
				}
				return es.New(options)
			case kmodquery.SourceUnifiedLog:
				return ulog.New(ulog.Options{
					Programs: programs, Boot: kernel.boot, Kexts: kexts,
					Position: func(ctx context.Context) (string, error) { return store.Position(ctx, name) },
				})
			}
			panic("unknown source " + name)
		},
		openViews:      func() crossview.Views { return kexts },
		viewsSource:    kmodquery.SourceShowloaded,
		stamp:          func() kmodquery.Event { return kernel.boot().Stamp() },
		newInventory:   func(r recorder) tables.Inventory { return kextInventory{kexts, r} },
		hasPins:        func(string) bool { return false }, // nothing is pinned on macOS
		removePins:     func(string) error { return nil },
		restartsAlways: true,
		kernelRelease:  kernel.release,
		checks:         func(c *config) []doctor.Check { return doctor.MacOS("/", kernel.release(), c.eslogger) },
		osquery:        macOSOsquery,
	}
}

// A kextInventory combines the kernel extensions that macOS lists, and those of its
// history of loads, with the recorded events.
type kextInventory struct {
	*loaded.Kexts
	recorder recorder
}

// Modules returns the loaded extensions and those that were loaded before.
func (i kextInventory) Modules(ctx context.Context) ([]kmodquery.Module, error) {
	modules, err := i.All(ctx)
	if err != nil {
		return nil, err
	}
	return withEvents(ctx, i.recorder, modules)
}
