//go:build linux

package linux

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

func TestFlush(t *testing.T) {
	const size = 100
	held := func(isImaging bool) *joiner {
		r := newRecorded()
		r.add(readFile, start)
		if isImaging {
			r.expectImage("a")
		}
		return r.joiner
	}
	imaged := held(true)
	imaged.addImage("a", found)
	now := time.Now()
	soon, past := now.Add(time.Hour), now.Add(-time.Hour)
	tests := []struct {
		name          string
		left          int
		until, images time.Time
		join          *joiner
		want          bool
		deadline      time.Time
	}{
		{"nothing is held back", 0, soon, soon, newRecorded().joiner, true, soon},
		{"records are left", 1, soon, soon, newRecorded().joiner, false, soon},
		{"a load is under way", 0, soon, soon.Add(1), held(false), false, start.Add(loadPatience)},
		{"grace is over", 0, past, soon, held(false), true, start.Add(loadPatience)},
		{"grace is over, an image is being read", 0, past, soon, held(true), false, start.Add(loadPatience)},
		{"and was read", 0, past, soon, imaged, true, start.Add(loadPatience)},
		{"patience with images is over too", 0, past, past, held(true), true, past},
		{"grace is over, and nothing is held back", 0, past, soon, newRecorded().joiner, true, soon},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := &flush{left: test.left, until: test.until, images: test.images}
			require.Equal(t, test.want, f.done(test.join))
			if test.deadline.Before(past) {
				require.Equal(t, test.deadline, f.deadline(test.join))
			}
		})
	}

	f := &flush{left: 2 * bpf.RingSize(size)}
	f.took(make([]byte, size))
	require.False(t, f.done(newRecorded().joiner))
	f.took(make([]byte, size))
	require.True(t, f.done(newRecorded().joiner))
	f.left = size
	f.drained()
	require.True(t, f.done(newRecorded().joiner))

	var none *flush
	none.took(nil)
	none.drained()
	require.False(t, none.done(newRecorded().joiner))
	require.Zero(t, none.deadline(newRecorded().joiner))
	require.Equal(t, start.Add(loadPatience), none.deadline(held(false)))
	require.Equal(t, kmodquery.EventSecurityKernelReadFile, readFile.EventName)
}
