//go:build linux

package ebpf

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/bpf"
)

func TestFlush(t *testing.T) {
	const size = 100
	now := time.Now()
	past, soon, begun, later := now.Add(-time.Hour), now.Add(time.Hour), now.Add(2*time.Hour), now.Add(3*time.Hour)
	due := begun.Add(loadPatience)
	held := func(isImaging bool) *joiner {
		r := newRecorded()
		r.add(readFile, begun)
		if isImaging {
			r.expectImage("a")
		}
		return r.joiner
	}
	imaged := held(true)
	imaged.addImage("a", found)
	none := newRecorded().joiner
	tests := []struct {
		name          string
		left          int
		until, images time.Time
		join          *joiner
		want          bool
		deadline      time.Time
	}{
		{"nothing is held back", 0, soon, later, none, true, soon},
		{"records are left", 1, soon, later, none, false, soon},
		{"records are left, and patience is over", 1, past, past, none, false, past},
		{"a load is under way", 0, soon, later, held(false), false, soon},
		{"grace is over", 0, past, later, held(false), true, due},
		{"grace is over, an image is being read", 0, past, later, held(true), false, due},
		{"and was read", 0, past, later, imaged, true, due},
		{"patience with images is over too", 0, past, past, held(true), true, past},
		{"grace is over, and nothing is held back", 0, past, later, none, true, later},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := &flush{left: test.left, until: test.until, images: test.images}
			require.Equal(t, test.want, f.done(test.join))
			require.Equal(t, test.deadline, f.deadline(test.join))
		})
	}

	f := &flush{left: 2 * bpf.RingSize(size)}
	f.took(make([]byte, size))
	require.False(t, f.done(none))
	f.took(make([]byte, size))
	require.True(t, f.done(none))
	f.left = size
	f.drained()
	require.True(t, f.done(none))

	f = nil // nobody asks
	f.took(nil)
	f.drained()
	require.False(t, f.done(none))
	require.Zero(t, f.deadline(none))
	require.Equal(t, due, f.deadline(held(false)))
}
