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
	err := s.serve(t.Context(), func() {}, c, func() error { return nil }, func(deadline time.Time) error {
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
