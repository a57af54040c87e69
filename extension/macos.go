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
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// A macKernel is what only the kernel itself can be asked for.
type macKernel struct {
	release func() string    // what uname -r prints
	boot    func() host.Boot // the present one
}

// macOS is the platform of Macs, on whichever system this runs: all that it
// knows comes from the programs and from the kernel.
func macOS(programs host.Programs, kernel macKernel) *platform {
	kexts := loaded.New(programs)
	return &platform{
		sourceNames: []string{kmodquery.SourceEndpointSecurity, kmodquery.SourceUnifiedLog},
		// Endpoint Security sees who asks for a kernel extension and the verdict,
		// the log what came of it and what policy says.
		sideBySide: true,
		// A look has kmutil run, for up to a second, and nothing hides here that it
		// could find.
		defaultPoll: time.Minute,
		// It means nothing here, and configurations may be shared.
		maxImageLimit: 32 << 20,
		hasModules:    func() bool { return true },
		openSource: func(name string, _ *config, store *sqlite.Store) collectors.Source {
			switch name {
			case kmodquery.SourceEndpointSecurity:
				return es.New(es.Options{Eslogger: programs.Eslogger, Boot: kernel.boot})
			case kmodquery.SourceUnifiedLog:
				return ulog.New(ulog.Options{Programs: programs, Position: func(ctx context.Context) (string, error) { return store.Position(ctx, name) }})
			}
			panic("no source is called " + name)
		},
		openViews:     func() crossview.Views { return kexts },
		viewsSource:   kmodquery.SourceShowloaded,
		stamp:         func() kmodquery.Event { return kernel.boot().Stamp() },
		newInventory:  func(r recorder) tables.Inventory { return kextInventory{kexts, r} },
		hasPins:       func(string) bool { return false }, // nothing stays in this kernel
		removePins:    func(string) error { return nil },
		kernelRelease: kernel.release,
	}
}

// A kextInventory is what a Mac lists and remembers of its kernel extensions, and
// the recorder of how they came.
type kextInventory struct {
	*loaded.Kexts
	recorder recorder
}

// Modules are those that are loaded, and those that once were.
func (i kextInventory) Modules(ctx context.Context) ([]kmodquery.Module, error) {
	modules, err := i.All(ctx)
	if err != nil {
		return nil, err
	}
	return withEvents(ctx, i.recorder, modules)
}
