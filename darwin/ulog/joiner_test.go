package ulog

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/darwin/kextlog"
)

func TestALoadIDIsTheSameWheneverTheLogIsRead(t *testing.T) {
	w := newWorld(t)
	allowed := logRecord(0, "/usr/libexec/syspolicyd", "Kernel Extension ALLOWED: Kext ("+testTeam+", "+testKext+")")
	w.write("show", allowed)
	require.NoError(t, w.start())
	before := w.take(1)[0]
	w.stop()
	// The load was logged while no process ran.
	w.restart()
	w.write("show", allowed, loaded(3, testKext))
	require.NoError(t, w.start())
	after := w.take(1)[0]
	w.stop()
	require.Equal(t, before.LoadID, after.LoadID)
	require.Equal(t, testTeam, after.TeamID)

	// The load is live, the permission is backfilled.
	w.restart()
	w.position = ""
	w.write("show", allowed)
	require.NoError(t, w.start())
	w.take(1)
	w.stream(loaded(3, testKext))
	require.Equal(t, before.LoadID, w.take(1)[0].LoadID)

	// A second load is another attempt.
	w.stream(loaded(3.5, testKext))
	require.NotEqual(t, before.LoadID, w.take(1)[0].LoadID)
	w.stop()
}

// Repeated attempts that follow each other within attemptTime are separate attempts.
func TestRepeatedRefusalsAreSeparateAttempts(t *testing.T) {
	for _, message := range []struct{ process, text string }{
		{"/usr/libexec/syspolicyd", "Kernel Extension BLOCKED: Kext ((null), com.example.a)"},
		{"/kernel", "Kext com.example.a start failed (result 0x5)."},
	} {
		j, events := newJoiner(), 0
		loadIDs := map[string]bool{}
		for n := range 100 {
			for _, again := range []float64{0, 0.1} { // two messages about one refusal
				line, err := kextlog.ParseLine([]byte(logRecord(1.9*float64(n)+again, message.process, message.text)))
				require.NoError(t, err)
				for _, e := range j.add(&line.Record, "") {
					events++
					loadIDs[e.LoadID] = true
				}
			}
		}
		require.Greater(t, events, 40, message.text)
		require.Len(t, loadIDs, events)
	}
}
