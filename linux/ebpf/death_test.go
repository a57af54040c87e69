//go:build linux

package ebpf

import (
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// A deathFile keeps what a deathLog gives it, whatever becomes of the process.
type deathFile struct{ loadIDs []string }

// next returns the log of the next process.
func (f *deathFile) next() *deathLog {
	return newDeathLog(func() []string { return slices.Clone(f.loadIDs) },
		func(ids []string) { f.loadIDs = slices.Clone(ids) }, new(atomic.Int64))
}

// noDeaths returns a log that keeps nothing.
func noDeaths() *deathLog { return newDeathLog(nil, nil, new(atomic.Int64)) }

func TestAnImageThatKilledTwoRecordersIsSkipped(t *testing.T) {
	var file deathFile
	for range maxDeaths {
		d := file.next() // killed while it reads the bomb
		require.True(t, d.begin("other"))
		d.end()
		require.True(t, d.begin("bomb"))
	}
	for range 2 {
		d := file.next()
		require.True(t, d.begin("other"))
		d.end()
		require.False(t, d.begin("bomb"))
		require.EqualValues(t, 1, d.skipped.Load())
		require.True(t, d.begin("next"))
		d.end()
	}
}

// A recorder that ends while it reads an image was not killed by it.
func TestAStopWhileAnImageIsReadIsNoDeath(t *testing.T) {
	var file deathFile
	for range 2 * maxDeaths {
		d := file.next()
		require.True(t, d.begin("large"))
		d.stop()
		d.end()
		require.False(t, d.begin("next"), "the run is over")
		require.Zero(t, d.skipped.Load())
	}
}

func TestRememberedDeathsAreBounded(t *testing.T) {
	var file deathFile
	for n := range 2 * maxDead {
		require.True(t, file.next().begin(strconv.Itoa(n)))
	}
	d := file.next()
	require.Len(t, d.loadIDs, maxDead)
	require.Equal(t, strconv.Itoa(2*maxDead-1), d.loadIDs[maxDead-1], "the oldest is forgotten")
}

// The event of a skipped image names its columns in missing.
func TestASkippedImageIsMissing(t *testing.T) {
	file := deathFile{[]string{"bomb", "bomb"}}
	ring := make(fakeRing, 10)
	p := newPictured()
	p.read, p.flush, p.deaths = ring.read, ring.flush, file.next()
	p.wake = func() error {
		if len(p.t.read) == 2 {
			close(ring)
		}
		return nil
	}
	image := imageText(1, 100)
	for tid, loadID := range []string{"bomb", "other"} {
		ring <- chunkOf(uint32(tid), image, 0, len(image))
		job := p.wantedOf(uint32(tid))
		job.loadID = loadID
		p.ask(job)
	}
	p.run()
	require.Len(t, p.t.read, 2)
	require.Equal(t, unread, p.t.read[0].image.columns.Missing.String())
	require.Equal(t, sum(image), p.t.read[1].image.columns.SHA256)
	require.Equal(t, []string{"bomb", "bomb"}, file.loadIDs)
	require.Zero(t, p.t.imageMemory)

	s := New(Options{})
	require.Empty(t, s.Sensor().Reason)
	s.skipped.Add(1)
	require.Equal(t, "1 images were not read, because 2 recorders were killed while they read each", s.Sensor().Reason)
}
