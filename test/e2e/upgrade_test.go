//go:build linux

package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestGuestUpgradeLosesNothing replaces the recorder by a build that pins another set, and
// that one by the first, in the midst of a storm.
func TestGuestUpgradeLosesNothing(t *testing.T) {
	needPinned(t)
	chance, p := seeded(t), newPost(t)
	builds := []string{guestExtension, otherExtension}
	recorder := p.relieve(t, builds[0])
	p.awaitActive(t)
	first := pinnedSets(t)
	require.Len(t, first, 1)
	storm := startStorm(t, stormPause)
	start := time.Second
	for round := range rounds(t, 2, 3, 30) {
		if round%2 == 0 {
			recorder.kill(t)
		} else {
			recorder.terminate(t)
		}
		recorder = p.relieve(t, builds[(round+1)%2])
		// Some are killed in the midst of it.
		if chance.IntN(3) == 0 {
			time.Sleep(time.Duration(chance.Int64N(int64(start))))
			recorder.kill(t)
			recorder = p.relieve(t, builds[(round+1+chance.IntN(2))%2])
		}
		start = max(start, recorder.appends(t, p))
		// Others are killed as soon as they have stored something. The older sets,
		// each of tens of megabytes, stay until one comes to the end of them.
		if chance.IntN(3) > 0 {
			require.Eventually(t, func() bool { return len(pinnedSets(t)) == 1 }, time.Minute, 100*time.Millisecond, "round %d: sets gather", round)
		}
	}
	// The last one has another set than the first.
	recorder.terminate(t)
	recorder = p.relieve(t, builds[1])
	recorder.appends(t, p)
	done := storm.end(t)
	p.requireExactly(t, done)
	require.Eventually(t, func() bool { return len(pinnedSets(t)) == 1 }, time.Minute, 100*time.Millisecond, "%v", pinnedSets(t))
	require.NotEqual(t, first, pinnedSets(t))
	recorder.terminate(t)
}
