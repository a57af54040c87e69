package tables

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestGuardReturnsTheResultOfATable(t *testing.T) {
	want := []map[string]string{{"a": "b"}}
	g := newGuard(time.Minute, 1)
	rows, err := g.run(t.Context(), func(context.Context) ([]map[string]string, error) { return want, nil })
	require.NoError(t, err)
	require.Equal(t, want, rows)

	broken := errors.New("broken")
	_, err = g.run(t.Context(), func(context.Context) ([]map[string]string, error) { return nil, broken })
	require.Equal(t, broken, err)
}

func TestGuardSurvivesPanics(t *testing.T) {
	logger := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	defer slog.SetDefault(logger)
	g := newGuard(time.Minute, 1)
	for range 3 {
		rows, err := g.run(t.Context(), func(context.Context) ([]map[string]string, error) { panic("at the disco") })
		require.Nil(t, rows)
		require.EqualError(t, err, "internal error, please report it: at the disco")
	}
}

func TestGuardKeepsTheDeadline(t *testing.T) {
	for name, generate := range map[string]func(context.Context) ([]map[string]string, error){
		"of one that heeds its context": func(ctx context.Context) ([]map[string]string, error) { <-ctx.Done(); return nil, ctx.Err() },
		"of one that does not": func(context.Context) ([]map[string]string, error) {
			time.Sleep(time.Hour)
			return []map[string]string{{}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				rows, err := newGuard(time.Minute, 1).run(t.Context(), generate)
				require.Nil(t, rows)
				require.EqualError(t, err, "no answer within 1m0s; ask for less, such as a window of time")
				require.Equal(t, time.Minute, time.Since(start))
				time.Sleep(time.Hour) // until the table has ended too
			})
		})
	}
}

func TestGuardReturnsWhenItsCallerEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := newGuard(time.Minute, 1).run(ctx, func(ctx context.Context) ([]map[string]string, error) {
		cancel()
		<-ctx.Done()
		return nil, errors.New("interrupted")
	})
	require.Equal(t, context.Canceled, err)
}

func TestGuardBoundsConcurrentCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(time.Minute, 2)
		var running atomic.Int32
		results := make(chan error)
		for range 4 {
			go func() {
				_, err := g.run(t.Context(), func(context.Context) ([]map[string]string, error) {
					running.Add(1)
					time.Sleep(40 * time.Second) // ignores the deadline
					return nil, nil
				})
				results <- err
			}()
			synctest.Wait()
		}
		require.EqualValues(t, 2, running.Load())
		require.NoError(t, <-results)
		require.NoError(t, <-results)
		synctest.Wait()
		require.EqualValues(t, 4, running.Load())
		for range 2 {
			require.EqualError(t, <-results, "no answer within 1m0s; ask for less, such as a window of time")
		}
		time.Sleep(time.Minute)
	})
}

func TestGuardReportsThatAllSlotsAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(time.Minute, 1)
		stuck := func(context.Context) ([]map[string]string, error) { time.Sleep(time.Hour); return nil, nil }
		_, err := g.run(t.Context(), stuck)
		require.Error(t, err)
		_, err = g.run(t.Context(), stuck)
		require.EqualError(t, err, "1 queries are running already: no answer within 1m0s; ask for less, such as a window of time")
		time.Sleep(time.Hour)
	})
}
