package tables

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/kmodquery/kmodquery"
)

// A statement is what the calls of one SQL statement share.
type statement struct{ isSynced atomic.Bool }

type statementKey struct{}

// WithStatement returns a context for the calls of one SQL statement, which may be many,
// as in a join. Only the first of them waits for the events that happened before it.
func WithStatement(ctx context.Context) context.Context {
	return context.WithValue(ctx, statementKey{}, &statement{})
}

// syncBeforeRead waits until the events that happened before the query are stored. It
// waits for half of the time that ctx has left. After that, or if the store accepts no
// events, the stored events still answer the query, and the sensors say what is missing.
func syncBeforeRead(ctx context.Context, c Config, q query) error {
	of, isStatement := ctx.Value(statementKey{}).(*statement)
	if isStatement && of.isSynced.Load() || c.CursorsSync && q.cursor() != "" {
		return nil
	}
	ctx, cancel := SyncContext(ctx)
	defer cancel()
	if err := c.Recorder.Sync(ctx); err != nil && !errors.Is(err, kmodquery.ErrNotStored) {
		return fmt.Errorf("wait for pending events: %w", err)
	}
	if isStatement {
		of.isSynced.Store(true)
	}
	return nil
}

// SyncContext returns a context that ends when half of the time that ctx has left is
// over: for a Sync that must leave time to answer without it.
func SyncContext(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/2)
}
