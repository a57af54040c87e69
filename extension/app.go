package main

import (
	"context"
	"errors"
	"log"
	"time"

	osquery "github.com/osquery/osquery-go"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/signatures"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// An app is the whole way from the sources to the tables, running.
type app struct {
	plugins  []osquery.OsqueryPlugin
	store    *sqlite.Store
	recorder *collectors.Recorder // nil where another process records
	door     *door                // its readers'; nil likewise
}

// A recorder is that of this process or of another.
type recorder interface {
	tables.Recorder
	// Loaded returns the modules that are loaded according to the events.
	Loaded(ctx context.Context) ([]kmodquery.Module, error)
}

// open opens the event store, starts the sources unless another process
// records into it, and makes the tables.
func open(ctx context.Context, c *config, report *log.Logger) (*app, error) {
	store, err := sqlite.Open(ctx, c.stateDir, sqlite.Options{
		MaxAge:          c.retentionAge,
		MaxEvents:       c.retentionEvents,
		MaxUnprivileged: c.retentionDenied,
		Now:             time.Now,
		Report:          func(err error) { report.Print(err) },
	})
	if err != nil {
		return nil, err
	}
	// Its role it always knows, and what it cannot read the sensors tell.
	status, _ := store.Status(ctx)
	a := &app{store: store}
	var recorder recorder
	if status.Role == kmodquery.RoleRecorder {
		expire(ctx, store, expireFor, report)
		recorder = a.record(ctx, c, report)
	} else {
		recorder = collectors.NewRemote(dialRecorder(c.stateDir), sensorNames(c))
	}
	a.plugins = tables.Plugins(tables.Config{
		Store:      store,
		Recorder:   recorder,
		Inventory:  c.platform.newInventory(recorder),
		Signatures: signatures.All(),
		Kernel:     c.platform.kernelRelease(),
		ReplyBytes: c.replyLimit,
		Timeout:    c.queryTimeout,
	})
	return a, nil
}

// expireFor bounds the time that events may take to expire before the sources run:
// nothing sees a load meanwhile, and of a store of a million events that are too old,
// as after months without power, it takes a minute.
const expireFor = 2 * time.Second

// expire has what is beyond the bounds leave the store, since an idle host appends
// nothing, and with that nothing would. What it has no time for leaves with the events
// to come. It goes on where nothing can be deleted.
func expire(ctx context.Context, store *sqlite.Store, within time.Duration, report *log.Logger) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := store.Expire(ctx); err != nil && ctx.Err() == nil {
		report.Print(err)
	}
}

// record starts the sources and answers the readers of the same store.
func (a *app) record(ctx context.Context, c *config, report *log.Logger) *collectors.Recorder {
	print := func(err error) { report.Print(err) }
	a.door = openDoor(c.stateDir, a.store.IsRecorder, print)
	a.recorder = collectors.NewRecorder(a.store, print, recorderOptions(c, a.store))
	a.recorder.Start(ctx)
	a.door.serve(a.recorder.Share)
	return a.recorder
}

// describe reports what this process watches.
func (a *app) describe(report *log.Logger) {
	if a.recorder == nil {
		report.Print("another process records into this event store; this one reads it")
		return
	}
	for _, sensor := range a.recorder.Sensors(context.Background()) {
		report.Printf("%s is %s %s", sensor.Source, sensor.State, sensor.Hooks)
	}
}

// Close stops the sources, stores what they had seen and closes the store.
func (a *app) Close() error {
	var errs []error
	if a.recorder != nil {
		a.door.close()
		errs = append(errs, a.recorder.Close())
	}
	return errors.Join(append(errs, a.store.Close())...)
}
