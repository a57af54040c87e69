package source

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// syncing calls Sync, which has been asked for when it returns.
func syncing(ctx context.Context, h *Health) <-chan error {
	done := make(chan error, 1)
	go func() { done <- h.Sync(ctx) }()
	synctest.Wait()
	return done
}

func TestSyncReturnsAtOnceIfTheSourceDoesNotRun(t *testing.T) {
	h := New(kmodquery.SourceKmsg)
	require.NoError(t, h.Sync(t.Context()))
	h.Started(nil, "", func() { t.Error("woken") })
	h.Stopped(nil)
	require.NoError(t, h.Sync(t.Context()))
	require.False(t, h.HasPending())
}

func TestSyncWaitsForItsRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(kmodquery.SourceKmsg)
		woken := 0
		h.Started(nil, "", func() { woken++ })
		first, second := syncing(t.Context(), h), syncing(t.Context(), h)
		require.Equal(t, 2, woken)
		require.Len(t, h.Requests(), 1)
		require.True(t, h.HasPending())

		pending := h.TakePending()
		require.Len(t, pending, 2)
		require.False(t, h.HasPending())
		require.Empty(t, h.TakePending())
		third := syncing(t.Context(), h)
		require.Empty(t, first)
		pending.Release()
		require.NoError(t, <-first)
		require.NoError(t, <-second)
		synctest.Wait()
		require.Empty(t, third, "it came later")
		h.TakePending().Release()
		require.NoError(t, <-third)
	})
}

func TestSyncEndsWithTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(kmodquery.SourceKmsg)
		h.Started(nil, "", nil)
		taken := syncing(t.Context(), h)
		h.TakePending()
		waits := syncing(t.Context(), h)
		h.Stopped(nil)
		require.NoError(t, <-taken)
		require.NoError(t, <-waits)
		h.Started(nil, "", nil)
		require.False(t, h.HasPending(), "the next run owes them nothing")
	})
}

// A caller that asks again and again and gives up leaves nothing behind in a source
// that hangs.
func TestCancelledSyncsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(kmodquery.SourceKmsg)
		h.Started(nil, "", nil)
		stays := syncing(t.Context(), h)
		ctx, cancel := context.WithCancel(t.Context())
		givesUp := syncing(ctx, h)
		cancel()
		err := <-givesUp
		require.ErrorIs(t, err, context.Canceled)
		require.EqualError(t, err, "wait for the records of kmsg: context canceled")
		pending := h.TakePending()
		require.Len(t, pending, 1)
		pending.Release()
		require.NoError(t, <-stays)
	})
}

// Each of many concurrent calls returns, and none is released twice.
func TestConcurrentSyncs(t *testing.T) {
	h := New(kmodquery.SourceKmsg)
	h.Started(nil, "", nil)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-h.Requests():
				h.TakePending().Release()
			case <-stop:
				return
			}
		}
	}()
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for range 500 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%2 == 0 {
					cancel()
				}
				if err := h.Sync(ctx); err != nil && i%2 == 1 {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	callers.Wait()
	close(stop)
	<-ended
	require.False(t, h.HasPending())
}
