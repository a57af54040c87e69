//go:build linux

package host

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A time that carries the monotonic clock is compared by that alone, which shows no
// step of the wall clock.
func TestBootClockFollowsTheWallClock(t *testing.T) {
	var c BootClock
	for range 2 {
		at := c.BootTime()
		require.NotContains(t, at.String(), "m=")
		require.InDelta(t, time.Now().Add(-SinceBoot()).UnixNano(), at.UnixNano(), float64(ClockStep))
		require.Equal(t, at, c.BootTime(), "it did not step")
		c.boot = at.Add(-2 * ClockStep)
	}
}
