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
