//go:build linux

package klog

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/progress"
)

func TestServeCompletesARoundEveryInterval(t *testing.T) {
	s := newLogSource(kmodquery.SourceKmsg, nil)
	c := s.newCorrelator(func(kmodquery.Delivery) {})
	end, waits := errors.New("end"), 0
	err := s.serve(t.Context(), func() {}, c, func() (bool, error) { return true, nil }, func(deadline time.Time) error {
		require.LessOrEqual(t, time.Until(deadline), progress.Interval)
		require.Less(t, time.Since(s.LastRound()), time.Minute)
		if waits++; waits == 3 {
			return end
		}
		return nil
	})
	require.Equal(t, end, err)
}

func TestJournalCompletesARoundEveryInterval(t *testing.T) {
	for name, ready := range map[string]func(){"backfilling": func() {}, "ready": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewJournal(nil)
				s.program = "/nonexistent"
				r := journalReader{source: s, correlator: s.newCorrelator(func(kmodquery.Delivery) {}), ready: ready}
				r.source.timeouts.backfill = time.Hour
				ctx, cancel := context.WithCancel(t.Context())
				entries, unread := make(chan []byte), journalEntry{journalPosition: journalPosition{cursor: "never read"}}
				go r.follow(ctx, entries, &unread)
				for range 10 {
					time.Sleep(progress.Interval)
					synctest.Wait()
					require.LessOrEqual(t, time.Since(s.LastRound()), progress.Interval)
				}
				cancel()
			})
		})
	}
}

// A log holds more than is read at a time, and its last record is read before the source is
// ready and before a Sync returns.
func TestServeIsReadyWhenAllWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLogSource(kmodquery.SourceKmsg, nil)
		s.health.Started(nil, "", nil)
		c := s.newCorrelator(func(kmodquery.Delivery) {})
		ctx, cancel := context.WithCancel(t.Context())
		parts, synced := 0, make(chan int, 1)
		read := func() (bool, error) { parts++; return parts%5 == 0, nil }
		err := s.serve(ctx, func() {
			require.Equal(t, 5, parts)
			go func() {
				_ = s.Sync(ctx)
				synced <- parts
				cancel()
			}()
		}, c, read, func(time.Time) error {
			time.Sleep(time.Millisecond)
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 10, <-synced)

		// Root writes records as fast as they are read.
		ctx, cancel = context.WithCancel(t.Context())
		began := time.Now()
		err = s.serve(ctx, cancel, c, func() (bool, error) { return false, nil }, func(time.Time) error {
			time.Sleep(time.Second)
			return nil
		})
		require.NoError(t, err)
		require.InDelta(t, maxBacklog, time.Since(began), float64(2*time.Second))
		s.health.Stopped(nil)
	})
}
