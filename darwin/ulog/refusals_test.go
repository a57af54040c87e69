package ulog

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestRepeatedRefusalsAreFolded(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.start())
	var lines []string
	for n := range 500 {
		for _, name := range []string{"com.example.a", fmt.Sprintf("com.example.n%d", n)} {
			lines = append(lines, logRecord(float64(20*n), "/usr/libexec/syspolicyd", "Kernel Extension BLOCKED: Kext ((null), "+name+")"))
		}
	}
	w.stream(append(lines, loaded(1, testKext))...)
	w.await(maxRefused + 1)
	require.NoError(t, w.source.Sync(t.Context()))
	events := w.take(maxRefused + 3)
	w.stop()
	counts := map[string]int64{}
	for _, e := range events {
		if e.EventName == kmodquery.EventKextBlocked {
			counts[e.Name] += *e.Count
		}
	}
	require.EqualValues(t, 500, counts["com.example.a"])
	total := int64(0)
	for _, n := range counts {
		total += n
	}
	require.EqualValues(t, 1000, total)
	require.EqualValues(t, 1000-maxRefused-2, w.source.Sensor().Denied)
}

// A process that is killed has counted refusals that no stored event counts.
func TestCountsThatWereNotStoredAreReadAgain(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.start())
	blocked := func(seconds float64) string {
		return logRecord(seconds, "/usr/libexec/syspolicyd", "Kernel Extension BLOCKED: Kext ((null), com.example.a)")
	}
	records := []string{blocked(0), blocked(20), blocked(40), loaded(50, "com.example.b"), loaded(55, "com.example.c")}
	w.stream(records...)
	w.await(3)
	w.mu.Lock()
	position := w.position
	w.mu.Unlock()
	require.NoError(t, w.source.Sync(t.Context()))
	counted := w.take(4)
	require.Equal(t, []string{"com.example.a", "com.example.b", "com.example.c", "com.example.a"}, names(counted))
	require.EqualValues(t, 2, *counted[3].Count)
	stored := w.position // together with the count
	w.stop()

	for _, test := range []struct {
		position string
		want     []string
	}{
		{position, []string{"com.example.a", "com.example.a"}},
		{stored, nil},
	} {
		w.position = test.position
		w.restart()
		w.write("stream", "")
		w.write("show", records...)
		require.NoError(t, w.start())
		require.NoError(t, w.source.Sync(t.Context()))
		again := w.take(len(test.want))
		w.stop()
		require.Equal(t, test.want, names(again))
		for _, e := range again {
			require.EqualValues(t, 1, *e.Count)
		}
	}
}
