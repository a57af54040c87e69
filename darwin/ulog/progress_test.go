package ulog

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/progress"
)

func TestReaderCompletesARoundEveryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		s.timeouts.header = time.Hour // until then log show is not started
		r := newReader(s, &command{lines: make(chan []byte)}, position{}, func(kmodquery.Delivery) {})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = r.run(ctx, func() {}) }()
		for range 10 {
			time.Sleep(progress.Interval)
			synctest.Wait()
			require.LessOrEqual(t, time.Since(s.LastRound()), progress.Interval)
		}
		cancel()
	})
}
