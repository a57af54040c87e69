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
	recorder *collectors.Recorder
	records  bool
}

// open opens the event store, starts the sources unless another process
// records into it, and makes the tables.
func open(ctx context.Context, c *config, report *log.Logger) (*app, error) {
	store, err := sqlite.Open(ctx, c.stateDir, sqlite.Options{
		MaxAge:    c.retentionAge,
		MaxEvents: c.retentionEvents,
		Now:       time.Now,
	})
	if err != nil {
		return nil, err
	}
	status, err := store.Status(ctx)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	a := &app{
		store:    store,
		recorder: collectors.NewRecorder(store, func(err error) { report.Print(err) }, sources()...),
		records:  status.Role == kmodquery.RoleRecorder,
	}
	if a.records {
		a.recorder.Start(ctx)
	}
	a.plugins = tables.Plugins(tables.Config{
		Store:      store,
		Recorder:   a.recorder,
		Signatures: signatures.All(),
		Kernel:     kernelRelease(),
		ReplyBytes: c.replyLimit,
		Timeout:    c.queryTimeout,
	})
	return a, nil
}

// Close stops the sources, stores what they had seen and closes the store.
func (a *app) Close() error {
	var err error
	if a.records {
		err = a.recorder.Close()
	}
	return errors.Join(err, a.store.Close())
}
