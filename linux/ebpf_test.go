//go:build linux

package linux

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/bpf"
)

func TestGapBeforeThePrograms(t *testing.T) {
	now := time.Now()
	boot := now.Add(-bootTimeNow()).Unix()
	for _, test := range []struct {
		name    string
		watched time.Time
		start   int64
	}{
		{"nobody ever watched", time.Time{}, boot},
		{"in an earlier boot", time.Unix(boot-60, 0), boot},
		{"in this one", time.Unix(boot+1, 0), boot + 1},
		{"the clock was set back", now.Add(time.Hour), boot},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := NewEBPF(EBPFOptions{Watched: func() time.Time { return test.watched }})
			s.noteGap(&bpf.Programs{})
			sensor := s.Sensor()
			require.InDelta(t, test.start, sensor.GapStart, 1)
			require.InDelta(t, now.Unix(), sensor.GapEnd, 2)
		})
	}
}

// What a set that is pinned has lost is counted once, however often it is read.
func TestLossesOfSets(t *testing.T) {
	var l losses
	require.Zero(t, l.since(nil))
	now := losses{1: 5, 2: 0}
	require.EqualValues(t, 5, l.since(now))
	l = now
	require.Zero(t, l.since(now))
	require.EqualValues(t, 3+4+1, l.since(losses{1: 8, 2: 4, 3: 1}))
}
