package main

import (
	"context"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/collectors/crossview"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// A platform is everything in which operating systems differ, so that the whole
// command can run as on another one. It never changes.
type platform struct {
	// sourceNames are its sources of events in the order of preference. Unless
	// the user chooses, the first that works watches, or all of them sideBySide,
	// where each sees what the others do not.
	sourceNames []string
	sideBySide  bool
	// recall names those that can tell at the start what happened before.
	backfill []string
	// defaultPoll is the --poll where nothing else was asked for: three looks fall
	// into it.
	defaultPoll time.Duration
	// maxImageLimit is the greatest --image-limit, and the default.
	maxImageLimit int64
	// hasModules reports whether the running kernel can load modules.
	hasModules func() bool
	// openSource returns one of the sources.
	openSource func(name string, c *config, store *sqlite.Store) collectors.Source
	// openViews returns the views of the kernel, nil where there are none, and
	// viewsSource is their name as a source.
	openViews   func() crossview.Views
	viewsSource string
	// stamp is an event of the present moment.
	stamp func() kmodquery.Event
	// newInventory returns what is loaded, nil where nothing can be looked at.
	newInventory func(recorder) tables.Inventory
	// hasPins reports whether something stays attached to the kernel in a folder
	// while nothing records, and removePins removes it.
	hasPins    func(dir string) bool
	removePins func(dir string) error
	// kernelRelease is what uname -r prints.
	kernelRelease func() string
}

// automatic says which sources run unless the user chooses.
func (p *platform) automatic() string {
	if p.sideBySide {
		return "all of them"
	}
	return "the first of them that works"
}

// withEvents adds what the events say of loaded modules to what views show.
func withEvents(ctx context.Context, r recorder, shown []kmodquery.Module) ([]kmodquery.Module, error) {
	ctx, cancel := tables.SyncContext(ctx)
	defer cancel()
	loaded, err := r.Loaded(ctx)
	if err != nil {
		return nil, err
	}
	return kmodquery.JoinModules(shown, loaded), nil
}
