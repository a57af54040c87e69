//go:build linux

package ebpf

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/bpf"
)

func TestBarrier(t *testing.T) {
	const size = 100
	now := time.Now()
	past, soon, begun, later := now.Add(-time.Hour), now.Add(time.Hour), now.Add(2*time.Hour), now.Add(3*time.Hour)
	due := begun.Add(loadPatience)
	held := func(isImaging bool) *recorded {
		r := newRecorded()
		r.add(readFile, begun)
		if isImaging {
			r.expectImage("a")
		}
		return r
	}
	imaged := held(true)
	imaged.setImage("a", found)
	none := newRecorded()
	tests := []struct {
		name          string
		left          int
		until, images time.Time
		attempts      *recorded
		want          bool
		deadline      time.Time
	}{
		{"nothing is held back", 0, soon, later, none, true, soon},
		{"records are left", 1, soon, later, none, false, soon},
		{"records are left, and every grace is over", 1, past, past, none, false, past},
		{"a load is under way", 0, soon, later, held(false), false, soon},
		{"grace is over", 0, past, later, held(false), true, due},
		{"grace is over, an image is being read", 0, past, later, held(true), false, due},
		{"and was read", 0, past, later, imaged, true, due},
		{"the grace of images is over too", 0, past, past, held(true), true, past},
		{"grace is over, and nothing is held back", 0, past, later, none, true, later},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := &barrier{left: test.left, until: test.until, images: test.images}
			require.Equal(t, test.want, b.done(test.attempts.attempts))
			require.Equal(t, test.deadline, b.deadline(test.attempts.attempts))
		})
	}

	b := &barrier{left: 2 * bpf.RingSize(size)}
	b.took(make([]byte, size))
	require.False(t, b.done(none.attempts))
	b.took(make([]byte, size))
	require.True(t, b.done(none.attempts))
	b.left = size
	b.drained()
	require.True(t, b.done(none.attempts))

	b = nil // no Sync waits
	b.took(nil)
	b.drained()
	require.False(t, b.done(none.attempts))
	require.Zero(t, b.deadline(none.attempts))
	require.Equal(t, due, b.deadline(held(false).attempts))
}
