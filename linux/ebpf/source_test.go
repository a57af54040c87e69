//go:build linux

package ebpf

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kmodquery/kmodquery/linux/host"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/bpf"
)

func TestGapBeforeThePrograms(t *testing.T) {
	now := time.Now()
	boot := now.Add(-host.SinceBoot()).Unix()
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
			s := New(Options{Watched: func() time.Time { return test.watched }})
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

// What waits in the kernel is not touched while nobody knows which of it is stored.
func TestWhatIsPinnedWaitsForTheStore(t *testing.T) {
	unread := errors.New("no store")
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "v1_00ff00ff_0000000000000001"), 0o700))
	require.True(t, bpf.HasPins(dir))
	s := New(Options{PinDir: dir, Keys: func(context.Context) ([]string, error) { return nil, unread }})
	require.Equal(t, unread, s.Run(t.Context(), nil, nil))
}
