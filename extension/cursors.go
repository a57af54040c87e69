package main

import (
	"context"
	"errors"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// A cursorKeeper keeps the positions of named queries in the recorder.
type cursorKeeper interface {
	tables.Cursors
	// registered is called after each registration with osquery.
	registered()
}

// ownCursors are the cursors in the process that records.
type ownCursors struct {
	*sqlite.Store
	osquery string // its socket
}

func (c ownCursors) Cursor(ctx context.Context, name string, q kmodquery.CursorQuery) (kmodquery.Cursor, error) {
	q.Asker = c.osquery
	return c.Store.Cursor(ctx, name, q)
}

func (c ownCursors) registered() { c.Registered(c.osquery) }

// remoteCursors are the cursors in a reader. They are moved by the recorder. Without one
// the same rows are given again. Cursor brings what happened before it to the store, too.
type remoteCursors struct {
	recorder *collectors.Remote
	store    *sqlite.Store
	osquery  string // its socket
}

func (c remoteCursors) Cursor(ctx context.Context, name string, q kmodquery.CursorQuery) (kmodquery.Cursor, error) {
	q.Asker = c.osquery
	asking, cancel := tables.SyncContext(ctx) // leaves time to answer without the recorder
	defer cancel()
	cursor, err := c.recorder.Cursor(asking, name, q)
	if errors.Is(err, collectors.ErrNoRecorder) {
		return c.store.Cursor(ctx, name, q)
	}
	return cursor, err
}

func (c remoteCursors) Advance(ctx context.Context, cursor kmodquery.Cursor, to int64, rows int) (bool, error) {
	return c.recorder.Advance(ctx, cursor, to, rows)
}

// registeredWithin bounds the message to the recorder, because osquery waits for its
// tables meanwhile. If no recorder runs, the next one holds everything anew when it starts.
const registeredWithin = 2 * time.Second

func (c remoteCursors) registered() {
	ctx, cancel := context.WithTimeout(context.Background(), registeredWithin)
	defer cancel()
	_ = c.recorder.Registered(ctx, c.osquery)
}
