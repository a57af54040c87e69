package main

import (
	"context"
	"errors"
	"log"
	"sync"
	"time"

	osquery "github.com/osquery/osquery-go"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/signatures"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// An app holds the running parts from the sources to the tables.
type app struct {
	plugins  []osquery.OsqueryPlugin
	store    *sqlite.Store
	cursors  cursorKeeper
	watchdog *watchdog            // of the osquery that asks; nil without one
	calls    sync.WaitGroup       // of the plugins, by osquery
	checks   sync.WaitGroup       // of the store's rows
	recorder *collectors.Recorder // nil if another process records
	readers  *readerSocket        // nil likewise, and until the sources have started
	stop     context.CancelFunc   // ends the start of the recorder; nil likewise
	started  chan struct{}        // closed when the sources have started, or if another process records
}

// A recorder is the recorder of this process, or a client of another process's.
type recorder interface {
	tables.Recorder
	// Loaded returns the modules that are loaded according to the events.
	Loaded(ctx context.Context) ([]kmodquery.Module, error)
}

// open opens the event store, begins to start the sources unless another process records
// into it, and creates the tables. They may be asked before the sources have started.
func open(ctx context.Context, c *config, report *log.Logger) (*app, error) {
	maxAge := c.retentionAge
	if c.command == "query" {
		// Who asks what happened, perhaps of a copy of a store that was made long ago, must not
		// delete it. The recorder that runs next does.
		maxAge = 0
	}
	store, err := sqlite.Open(ctx, c.stateDir, sqlite.Options{
		MaxAge:          maxAge,
		MaxEvents:       c.retentionEvents,
		MaxUnprivileged: c.retentionDenied,
		ReadOnly:        c.watch.isReader,
		Now:             time.Now,
		Kernel:          c.platform.kernelRelease(),
		BootID:          c.platform.stamp().BootID,
		Users:           c.platform.users,
		Report:          func(err error) { report.Print(err) },
	})
	if err != nil {
		return nil, err
	}
	// The role is always known; the sensors show the error.
	status, _ := store.Status(ctx)
	a := &app{store: store, started: make(chan struct{})}
	var recorder recorder
	if status.Role == kmodquery.RoleRecorder {
		recorder = a.record(ctx, c, report)
		a.cursors = ownCursors{store, c.socket}
	} else {
		remote := collectors.NewRemote(dialRecorder(c.stateDir), sensorNames(c))
		close(a.started)
		recorder, a.cursors = remote, remoteCursors{remote, store, c.socket}
	}
	var autostart tables.Autostart
	if c.platform.newAutostart != nil {
		autostart = c.platform.newAutostart()
	}
	a.plugins = tables.Plugins(tables.Config{
		Store:       store,
		Cursors:     a.cursors,
		CursorsSync: a.recorder == nil,
		Recorder:    recorder,
		Inventory:   c.platform.newInventory(recorder),
		Autostart:   autostart,
		Signatures:  signatures.All(),
		Rules:       openRules(c, func(err error) { report.Print(err) }).RuleSet,
		Kernel:      c.platform.kernelRelease(),
		ReplyBytes:  c.replyLimit,
		Worker:      func() int64 { return a.watchdog.workerBytes() },
		Timeout:     c.queryTimeout,
	})
	return a, nil
}

// expireFor bounds the deletion of events before the sources start, because no source
// sees a load meanwhile. Deleting a million expired events, as after months without
// power, would take a minute.
const expireFor = 2 * time.Second

// expire deletes events beyond the bounds from the store. Append does so too, but an idle
// host appends none. Later appends delete the events for which the time did not suffice.
func expire(ctx context.Context, store *sqlite.Store, within time.Duration, report *log.Logger) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := store.Expire(ctx); err != nil && ctx.Err() == nil {
		report.Print(err)
	}
}

// record begins to start the sources, and serves the readers of the store.
func (a *app) record(ctx context.Context, c *config, report *log.Logger) *collectors.Recorder {
	print := func(err error) { report.Print(err) }
	a.recorder = collectors.NewRecorder(a.store, print, recorderOptions(c, a.store))
	ctx, a.stop = context.WithCancel(ctx)
	go func() {
		defer close(a.started)
		expire(ctx, a.store, expireFor, report)
		a.readers = openReaderSocket(c.stateDir, a.store.IsRecorder, print, a.recorder.Share)
		a.recorder.Start(ctx)
	}()
	a.checks.Go(func() { a.store.Verify(ctx) })
	return a.recorder
}

// awaitStart returns when the sources that are wanted watch or have failed, or the context
// of open has ended. It reports their states if the user wants that.
func (a *app) awaitStart(c *config, report *log.Logger) {
	<-a.started
	if c.verbose {
		a.describe(report)
	}
}

// describe reports the state of each sensor.
func (a *app) describe(report *log.Logger) {
	if a.recorder == nil {
		report.Print("another process records into this event store; this one reads it")
		return
	}
	for _, sensor := range a.recorder.Sensors(context.Background()) {
		report.Printf("%s is %s %s", sensor.Source, sensor.State, sensor.Hooks)
	}
}

// Close stops the sources, stores their events and closes the store.
func (a *app) Close() error {
	var errs []error
	if a.recorder != nil {
		a.stop()
		<-a.started
		a.readers.close()
		errs = append(errs, a.recorder.Close())
		a.checks.Wait()
	}
	return errors.Join(append(errs, a.store.Close())...)
}
