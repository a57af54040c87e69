package tables

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kmodquery/kmodquery"
)

// syncBeforeRead waits until the events that happened before the call are stored. It
// waits for half of the time that ctx has left. After that, or if the store accepts no
// events, the stored events still answer the query, and the sensors say what is missing.
func syncBeforeRead(ctx context.Context, r Recorder) error {
	ctx, cancel := SyncContext(ctx)
	defer cancel()
	if err := r.Sync(ctx); err != nil && !errors.Is(err, kmodquery.ErrNotStored) {
		return fmt.Errorf("wait for pending events: %w", err)
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
