package tables

import (
	"context"
	"errors"
	"fmt"

	"github.com/kmodquery/kmodquery"
)

// settle waits until what happened before the call is stored. Where the store
// takes no events it does not wait: what is in it still answers, and that events
// are missing is for the sensors to tell.
func settle(ctx context.Context, r Recorder) error {
	if err := r.Sync(ctx); err != nil && !errors.Is(err, kmodquery.ErrNotStored) {
		return fmt.Errorf("wait for events under way: %w", err)
	}
	return nil
}
