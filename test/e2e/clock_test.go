//go:build linux

package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/linux/ebpf"
)

// TestGuestEventTimesFollowClockSteps sets the wall clock while a recorder runs, as on
// a host whose hardware clock is wrong until it has a network connection.
func TestGuestEventTimesFollowClockSteps(t *testing.T) {
	needPinned(t)
	w := watchWith(t, ebpf.Options{ImageLimit: ebpf.MaxImage})
	for _, step := range []time.Duration{time.Hour, -time.Hour} {
		w.mu.Lock()
		before := len(w.events)
		w.mu.Unlock()
		stepClock(t, step)
		require.Equal(t, loadAndUnload, w.observe(t, "dummy"))
		now := time.Now().Round(0)
		w.mu.Lock()
		require.Greater(t, len(w.events), before)
		for _, e := range w.events[before:] {
			require.WithinDuration(t, now, time.Unix(0, e.TimeNanos), time.Minute, e.EventName)
		}
		w.mu.Unlock()
	}
}

func stepClock(t *testing.T, by time.Duration) {
	t.Helper()
	at, err := unix.TimeToTimespec(time.Now().Add(by))
	require.NoError(t, err)
	require.NoError(t, unix.ClockSettime(unix.CLOCK_REALTIME, &at))
}
