package main

import (
	"context"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/collectors/crossview"
	"github.com/kmodquery/kmodquery/extension/doctor"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// A platform holds everything that differs between operating systems, so that tests can
// run the whole command as on another one. It is not modified.
type platform struct {
	// sourceNames are the sources in the order of preference. Unless the user
	// chooses, the first that works watches. If sideBySide is set, all of them watch,
	// because each sees something that the others do not.
	sourceNames []string
	sideBySide  bool
	// backfill names the sources that can emit events from before their start.
	backfill []string
	// defaultPoll is the default of --poll, in which three cross-view checks are
	// made.
	defaultPoll time.Duration
	// maxImageLimit is the maximum of --image-limit and its default.
	maxImageLimit int64
	// hasModules reports whether the running kernel can load modules.
	hasModules func() bool
	// openSource returns one of the sources.
	openSource func(name string, c *config, store *sqlite.Store) collectors.Source
	// openViews returns the views of the kernel, or nil if there are none.
	// viewsSource is their name as a source.
	openViews   func() crossview.Views
	viewsSource string
	// stamp returns an event with the current time and the boot, and nothing else.
	stamp func() kmodquery.Event
	// newInventory returns the inventory of modules, or nil if there is none.
	newInventory func(recorder) tables.Inventory
	// newAutostart returns the places that load modules. It is nil if there are none.
	newAutostart func() tables.Autostart
	// hasPins reports whether programs are pinned in a folder, and removePins removes
	// them.
	hasPins    func(dir string) bool
	removePins func(dir string) error
	// restartsAlways is set if the service manager restarts the service whatever its exit
	// status is, as launchd does. The service then waits for the correction of a mistake in
	// the configuration file.
	restartsAlways bool
	// kernelRelease returns what uname -r prints.
	kernelRelease func() string
	// users returns a function that returns the name of a user id. It is nil if names are
	// not known.
	users func() func(uid int64) string
	// memoryLimit returns how many bytes of memory the host lets this process use, or 0 if
	// it sets no limit. threadTime returns a clock of the processor time that the calling
	// thread uses. Either may be nil.
	memoryLimit func() int64
	threadTime  func() func() time.Duration
	// checks returns what the command doctor checks of the kernel and of the sources, and
	// osquery where the packages of osquery put their files.
	checks  func(c *config) []doctor.Check
	osquery func() doctor.Osquery
}

// withEvents joins the modules that views show with the events of their loads.
func withEvents(ctx context.Context, r recorder, shown []kmodquery.Module) ([]kmodquery.Module, error) {
	ctx, cancel := tables.SyncContext(ctx)
	defer cancel()
	loaded, err := r.Loaded(ctx)
	if err != nil {
		return nil, err
	}
	return kmodquery.JoinModules(shown, loaded), nil
}
