package sqlite

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// Reads that always overlap do not make the write-ahead log grow without bound.
func TestTheWriteAheadLogIsBoundedDuringOverlappingReads(t *testing.T) {
	elapsed := time.Hour
	s := openStore(t, Options{Elapsed: func() time.Duration { return elapsed }})
	s.walLimit = 1 << 20
	batch := make([]kmodquery.Event, 500)
	for i := range batch {
		batch[i] = full()
	}
	require.NoError(t, appendEvents(t.Context(), s, batch))
	ctx, stop := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	for range 3 {
		reading.Go(func() {
			for ctx.Err() == nil {
				if err := s.Events(ctx, kmodquery.Filter{}, func(*kmodquery.Event) error { return nil }); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	truncatedAt := 0
	for truncatedAt < 3 {
		before := sizeOf(s.path + "-wal")
		elapsed += truncateInterval
		require.NoError(t, appendEvents(t.Context(), s, batch[:20]))
		after := sizeOf(s.path + "-wal")
		require.Less(t, after, 4*s.walLimit)
		if after < before {
			truncatedAt++
		}
	}
	stop()
	reading.Wait()
}
