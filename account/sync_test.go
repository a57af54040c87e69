package account

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// syncing calls Sync, which has been asked for when it returns.
func syncing(ctx context.Context, a *Account) <-chan error {
	done := make(chan error, 1)
	go func() { done <- a.Sync(ctx) }()
	synctest.Wait()
	return done
}

func TestSyncOfWhatDoesNotRun(t *testing.T) {
	a := New(kmodquery.SourceKmsg)
	require.NoError(t, a.Sync(t.Context()))
	a.Begin(nil, "", func() { t.Error("woken") })
	a.Settle(nil)
	require.NoError(t, a.Sync(t.Context()))
	require.False(t, a.IsAsked())
}

func TestSyncWaitsForItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(kmodquery.SourceKmsg)
		woken := 0
		a.Begin(nil, "", func() { woken++ })
		first, second := syncing(t.Context(), a), syncing(t.Context(), a)
		require.Equal(t, 2, woken)
		require.Len(t, a.Asked(), 1)
		require.True(t, a.IsAsked())

		waiting := a.TakeWaiting()
		require.Len(t, waiting, 2)
		require.False(t, a.IsAsked())
		require.Empty(t, a.TakeWaiting())
		third := syncing(t.Context(), a)
		require.Empty(t, first)
		waiting.Answer()
		require.NoError(t, <-first)
		require.NoError(t, <-second)
		synctest.Wait()
		require.Empty(t, third, "it came later")
		a.TakeWaiting().Answer()
		require.NoError(t, <-third)
	})
}

func TestSyncEndsWithTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(kmodquery.SourceKmsg)
		a.Begin(nil, "", nil)
		taken := syncing(t.Context(), a)
		a.TakeWaiting()
		waits := syncing(t.Context(), a)
		a.Settle(nil)
		require.NoError(t, <-taken)
		require.NoError(t, <-waits)
		a.Begin(nil, "", nil)
		require.False(t, a.IsAsked(), "the next run owes them nothing")
	})
}

// Whoever asks again and again, and gives up, gathers nothing behind a source that
// hangs.
func TestThoseWhoGiveUpAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(kmodquery.SourceKmsg)
		a.Begin(nil, "", nil)
		stays := syncing(t.Context(), a)
		ctx, cancel := context.WithCancel(t.Context())
		givesUp := syncing(ctx, a)
		cancel()
		err := <-givesUp
		require.ErrorIs(t, err, context.Canceled)
		require.EqualError(t, err, "wait for the records of kmsg: context canceled")
		waiting := a.TakeWaiting()
		require.Len(t, waiting, 1)
		waiting.Answer()
		require.NoError(t, <-stays)
	})
}

// Syncs and answers from all sides: none is lost and none is answered twice.
func TestSyncsAtOnce(t *testing.T) {
	a := New(kmodquery.SourceKmsg)
	a.Begin(nil, "", nil)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-a.Asked():
				a.TakeWaiting().Answer()
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
				if err := a.Sync(ctx); err != nil && i%2 == 1 {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	callers.Wait()
	close(stop)
	<-ended
	require.False(t, a.IsAsked())
}
