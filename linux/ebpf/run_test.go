//go:build linux

package ebpf

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/source"
)

func TestSyncWaitsForRecordsAndAttempts(t *testing.T) {
	held := func(isImaging bool) *recorded {
		r := newRecorded()
		r.add(readFile, start)
		if isImaging {
			r.expectImage("a")
		}
		return r
	}
	imaged := held(true)
	imaged.setImage("a", found)
	none := newRecorded()
	for _, test := range []struct {
		name     string
		left     int
		after    time.Duration // since the Sync
		attempts *recorded
		isDue    bool
		due      time.Duration
	}{
		{"nothing is held", 0, 0, none, true, 0},
		{"records are left", 1, 0, none, false, 0},
		{"records are left, and every grace is over", 1, imageGrace, held(true), false, imageGrace},
		{"a load is under way", 0, 0, held(false), false, grace},
		{"grace is about to end", 0, grace - 1, held(false), false, grace},
		{"grace is over", 0, grace, held(false), true, grace},
		{"an image is being read", 0, 0, held(true), false, grace},
		{"grace is over, an image is being read", 0, grace, held(true), false, imageGrace},
		{"and was read", 0, grace, imaged, true, grace},
		{"the grace of images is over too", 0, imageGrace, held(true), true, imageGrace},
		{"grace is over, and nothing is held", 0, grace, none, true, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				health := source.New(kmodquery.SourceEBPF)
				health.Started(nil, "", nil)
				r := run{reader: &reader{attempts: test.attempts.attempts}, sync: health.NewBarrier(imageGrace), left: test.left}
				r.sync.Begin()
				require.False(t, r.isDue(), "no Sync waits")
				require.Zero(t, r.sync.Due(r.quiet()))

				began := time.Now()
				r.sync.BeginLast()
				time.Sleep(test.after)
				require.Equal(t, test.isDue, r.isDue())
				require.Equal(t, test.due, r.sync.Due(r.quiet()).Sub(began))
			})
		})
	}
}

// A load whose records wait in the ring buffer for long is given the same time for its image.
func TestSyncWaitsForImagesOfLoadsThatAreReadLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		health := source.New(kmodquery.SourceEBPF)
		health.Started(nil, "", nil)
		late := newRecorded()
		r := run{reader: &reader{attempts: late.attempts}, sync: health.NewBarrier(imageGrace), left: 3}
		r.sync.BeginLast()
		time.Sleep(2 * imageGrace)
		r.took(1)
		require.False(t, r.isDue())
		late.add(readFile, time.Now())
		late.expectImage("a")
		r.took(2)
		require.False(t, r.isDue())
		time.Sleep(imageGrace - 1)
		require.False(t, r.isDue())
		time.Sleep(time.Nanosecond)
		require.True(t, r.isDue())
		late.finish(r.sync.Began())
		require.Len(t, late.events, 1)
	})
}
