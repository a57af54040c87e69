package progress

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLoopWithoutRoundsIsStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Checker
		var busy, stuck Loop
		require.Zero(t, stuck.Last())
		stuck.Round()
		began := time.Now()
		for time.Since(began) < Limit-Interval/2 {
			time.Sleep(Interval / 2)
			busy.Round()
			c.Tick(time.Now())
			require.False(t, c.IsStalled(stuck.Last()))
		}
		time.Sleep(Interval)
		busy.Round()
		c.Tick(time.Now())
		require.True(t, c.IsStalled(stuck.Last()))
		require.False(t, c.IsStalled(busy.Last()))
		require.Equal(t, began, stuck.Last())
		stuck.End()
		require.Zero(t, stuck.Last())
	})
}

// As after a suspend, or on a host that is too busy to run the process.
func TestCheckerThatMissedItsTickStartsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Checker
		c.Tick(time.Now())
		var loop Loop
		loop.Round()
		time.Sleep(time.Hour)
		c.Tick(time.Now())
		require.False(t, c.IsStalled(loop.Last()))
		for range 2 {
			time.Sleep(Interval)
			c.Tick(time.Now())
			require.False(t, c.IsStalled(loop.Last()))
		}
		time.Sleep(Interval)
		c.Tick(time.Now())
		require.True(t, c.IsStalled(loop.Last()))
	})
}
