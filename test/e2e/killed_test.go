//go:build linux

package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stormPause makes some ten loads a second of a storm, of which the rings hold
// half a minute.
const stormPause = 200 * time.Millisecond

// killedPause makes some three of them: an emulator takes seconds to start a recorder.
// One that is killed before or while it stores what it has read gets nowhere, and the
// others must keep up with the storm.
const killedPause = time.Second

// TestGuestKillsLoseNoEvent kills the recorder again and again, wherever it is, while a
// storm goes on.
func TestGuestKillsLoseNoEvent(t *testing.T) {
	needPinned(t)
	rounds := rounds(t, 5, 15, 300)
	chance, p := seeded(t), newPost(t)
	recorder := p.relieve(t, guestExtension)
	p.awaitActive(t)
	storm := startStorm(t, killedPause)
	recorder.kill(t)

	// How long it takes from its start to its first batch, by what it took.
	recorder = p.relieve(t, guestExtension)
	start := recorder.appends(t, p)
	t.Logf("the first batch is stored %v after the start", start.Round(time.Millisecond))
	upTo := func(limit time.Duration) time.Duration { return time.Duration(chance.Int64N(int64(limit))) }
	during := map[string]int{}
	began := time.Now()
	for range rounds {
		switch n := chance.IntN(10); {
		case n < 4:
			during["its start"]++
			time.Sleep(upTo(upTo(start) + 1)) // more of them early: an emulator starts slowly
		case n < 7:
			during["the first batches"]++
			start = (3*start + recorder.appends(t, p)) / 4
			time.Sleep(upTo(50 * time.Millisecond))
		default:
			during["later"]++
			recorder.appends(t, p)
			time.Sleep(upTo(2 * time.Second))
		}
		recorder.kill(t)
		if chance.IntN(4) == 0 {
			during["nothing recorded for a while"]++
			time.Sleep(upTo(500 * time.Millisecond))
		}
		recorder = p.relieve(t, guestExtension)
	}
	took := time.Since(began)
	t.Logf("%d rounds in %v, %v each; killed during %v", rounds, took.Round(time.Second), (took / time.Duration(rounds)).Round(time.Millisecond), during)
	done := storm.end(t)
	p.requireExactly(t, done)
	require.Len(t, pinnedSets(t), 1)
	p.awaitActive(t)
	rows, err := p.host.Query(t.Context(), "SELECT gap_start, gap_end FROM kernel_module_sensors WHERE source = 'ebpf'")
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Empty(t, rows[0]["gap_start"]+rows[0]["gap_end"], "the hooks have watched all the time")

	// And so it is for one that records by itself.
	recorder.terminate(t)
	require.Empty(t, done.named().differences(p.told(t).named()))
}
