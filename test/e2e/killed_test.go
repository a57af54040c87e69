//go:build linux

package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stormPause limits a storm to about ten loads a second. The rings hold half a minute
// of that.
const stormPause = 200 * time.Millisecond

// killedPause limits it to about three: an emulator takes seconds to start a recorder.
// A recorder that is killed before it has stored its first events makes no progress,
// and the others must keep up with the storm.
const killedPause = time.Second

// TestGuestKillsLoseNoEvent kills the recorder repeatedly at random moments during a
// storm.
func TestGuestKillsLoseNoEvent(t *testing.T) {
	needPinned(t)
	rounds := rounds(t, 3, 15, 300)
	chance, p := seeded(t), newDeployment(t)
	recorder := p.startRecorder(t, guestExtension)
	p.awaitActive(t)
	attached := time.Now().Unix()
	storm := startStorm(t, killedPause)
	recorder.kill(t)

	// start is the measured time from a recorder's start to its first batch.
	recorder = p.startRecorder(t, guestExtension)
	start := recorder.awaitAppend(t, p)
	t.Logf("the first batch is stored %v after the start", start.Round(time.Millisecond))
	upTo := func(limit time.Duration) time.Duration { return time.Duration(chance.Int64N(int64(limit))) }
	during := map[string]int{}
	began := time.Now()
	for range rounds {
		switch n := chance.IntN(10); {
		case n < 4:
			during["its start"]++
			time.Sleep(upTo(upTo(start) + 1)) // favours early moments: an emulator starts slowly
		case n < 7:
			during["the first batches"]++
			start = (3*start + recorder.awaitAppend(t, p)) / 4
			time.Sleep(upTo(50 * time.Millisecond))
		default:
			during["later"]++
			recorder.awaitAppend(t, p)
			time.Sleep(upTo(2 * time.Second))
		}
		recorder.kill(t)
		if chance.IntN(4) == 0 {
			during["nothing recorded for a while"]++
			time.Sleep(upTo(500 * time.Millisecond))
		}
		recorder = p.startRecorder(t, guestExtension)
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
	// The gap before the first recorder is shown until the kernel's log of it was read.
	if end := rows[0]["gap_end"]; end != "" {
		require.LessOrEqual(t, integer(t, end), attached, "the hooks have watched all the time")
	}

	// A query process that records gets the same events.
	recorder.terminate(t)
	require.Empty(t, done.named().differences(p.stored(t).named()))
}
