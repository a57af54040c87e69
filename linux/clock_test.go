//go:build linux

package linux

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A time that carries the monotonic clock is compared by that alone, which shows no
// step of the wall clock.
func TestBootClockFollowsTheWallClock(t *testing.T) {
	var c bootClock
	for range 2 {
		at := c.bootTime()
		require.NotContains(t, at.String(), "m=")
		require.InDelta(t, time.Now().Add(-bootTimeNow()).UnixNano(), at.UnixNano(), float64(clockStep))
		require.Equal(t, at, c.bootTime(), "it did not step")
		c.boot = at.Add(-2 * clockStep)
	}
}
