//go:build linux

package linux

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/bpf"
)

// fakeRelease remembers what was released.
type fakeRelease struct {
	released uint64
	images   uint64
	holds    func(first bpf.Mark) bool
}

func (f *fakeRelease) Release(records, images, first bpf.Mark) bool {
	if f.holds != nil && f.holds(first) {
		return false
	}
	f.released, f.images = max(f.released, records.Position), max(f.images, images.Position)
	return true
}

func at(position uint64) bpf.Mark { return bpf.Mark{Set: 7, Position: position} }

func TestCustodyReleasesWhatIsStored(t *testing.T) {
	ring, c := &fakeRelease{}, newCustody()
	c.begin(ring, nil)
	c.take(at(10), 10, "a", start)
	c.take(at(20), 10, "b", start)
	c.take(at(30), 10, "a", start)
	position, isNew := c.claim(receiptOf(at(30)))
	require.True(t, isNew)
	require.Empty(t, position)
	_, isNew = c.claim(receiptOf(at(20)))
	require.True(t, isNew)
	c.over("b", start)
	c.stored(receiptOf(at(20)), start)
	require.Zero(t, ring.released, "a's record comes before b's")
	c.stored(receiptOf(at(30)), start)
	require.Zero(t, ring.released, "more may come of a")
	c.over("a", start)
	require.EqualValues(t, 30, ring.released)
	c.take(at(40), 10, "c", start)
	position, isNew = c.claim(receiptOf(at(40)))
	require.True(t, isNew)
	require.Equal(t, receiptOf(at(30)), position, "everything before was stored")
}

func TestCustodyTellsNothingTwice(t *testing.T) {
	c := newCustody()
	stored, call := receiptOf(at(10)), callReceipt(receiptOf(at(20)))
	c.begin(&fakeRelease{}, []string{stored, call})
	c.take(at(10), 10, "a", start)
	_, isNew := c.claim(stored)
	require.False(t, isNew)
	require.True(t, c.knows(call))
	require.False(t, c.knows(receiptOf(at(20))), "it is another event of the same record")

	// One that is on its way when the programs are attached anew is not told
	// again, and its record stays until it is stored.
	c.take(at(30), 10, "b", start)
	_, isNew = c.claim(receiptOf(at(30)))
	require.True(t, isNew)
	c.end()
	again := &fakeRelease{}
	c.begin(again, nil)
	c.take(at(30), 10, "b", start)
	_, isNew = c.claim(receiptOf(at(30)))
	require.False(t, isNew)
	c.over("b", start)
	require.Zero(t, again.released)
	c.stored(receiptOf(at(30)), start)
	require.EqualValues(t, 30, again.released)
}

func TestCustodyLeavesRoomInTheRing(t *testing.T) {
	ring, c := &fakeRelease{}, newCustody()
	c.begin(ring, nil)
	c.take(at(1), maxCustody, "stuck", start)
	require.Zero(t, ring.released)
	c.take(at(2), 1, "next", start)
	require.EqualValues(t, 1, ring.released)
	c.take(at(3), 1, "later", start.Add(maxKept))
	require.EqualValues(t, 2, ring.released, "nothing has come of it for long")
}

func TestCustodyHoldsBackWhileAnOlderSetIsNeeded(t *testing.T) {
	holds := true
	var first bpf.Mark
	ring, c := &fakeRelease{}, newCustody()
	ring.holds = func(m bpf.Mark) bool { first = m; return holds }
	c.begin(ring, nil)
	c.take(at(10), 10, "", start)
	require.Zero(t, ring.released)
	c.take(at(20), 10, "a", start)
	require.Equal(t, at(20), first)
	require.Zero(t, ring.released)
	holds = false
	c.over("a", start)
	require.EqualValues(t, 20, ring.released)
	require.Zero(t, first)
}

func TestCustodyKeepsImages(t *testing.T) {
	ring, c := &fakeRelease{}, newCustody()
	c.begin(ring, nil)
	c.takeImage(at(64), 64, "a", start)
	c.take(at(10), 10, "a", start)
	_, isNew := c.claim(receiptOf(at(10)))
	require.True(t, isNew)
	c.over("a", start)
	require.Zero(t, ring.images)
	c.stored(receiptOf(at(10)), start)
	require.EqualValues(t, 64, ring.images)
	c.takeImage(at(128), maxImageCustody, "b", start)
	require.EqualValues(t, 64, ring.images)
	c.takeImage(at(256), 1, "b", start)
	require.EqualValues(t, 128, ring.images, "it is too large to stay")

	// One whose records were released before, by this process or an earlier one.
	c.drained(start.Add(orphanAfter))
	require.EqualValues(t, 128, ring.images, "they may still come")
	c.drained(start.Add(orphanAfter + 1))
	require.EqualValues(t, 256, ring.images)
}

func TestMarkOf(t *testing.T) {
	require.Equal(t, at(10), markOf(receiptOf(at(10))))
	require.Equal(t, at(10), markOf(callReceipt(receiptOf(at(10)))))
	for _, text := range []string{"", "~abc_1", "7", "x_y"} {
		require.Zero(t, markOf(text), text)
	}
}

func TestHandover(t *testing.T) {
	older := func(kind bpf.Kind, begin, boot time.Duration) bpf.Record {
		r := bpf.Record{Kind: kind, Tid: 5, Attempt: begin, Context: begin, Boot: boot}
		if kind == bpf.ProcessPath {
			r.Attempt = 0
		}
		return r
	}
	h := newHandover(1000)
	for _, r := range []bpf.Record{
		older(bpf.ProcessPath, 100, 101), older(bpf.ReadFile, 100, 102), older(bpf.SystemCall, 100, 200),
		older(bpf.ProcessPath, 300, 301), older(bpf.ReadFile, 300, 302),
	} {
		require.False(t, h.merge(&r, 1))
	}
	for _, test := range []struct {
		name   string
		record bpf.Record
		isTold bool
		begin  time.Duration
	}{
		{"the newer one looked first", older(bpf.ReadFile, 95, 103), true, 100},
		{"the newer one looked second", older(bpf.SystemCall, 95, 201), true, 100},
		{"attached within the call", older(bpf.ReadFile, 310, 311), true, 300},
		{"what only the newer one saw", older(bpf.ModuleLoad, 310, 400), false, 300},
		{"the process, told again", older(bpf.ProcessPath, 310, 402), true, 0},
		{"a return after the older one had gone", older(bpf.SystemCall, 310, 450), false, 300},
		{"the next call", older(bpf.ReadFile, 500, 501), false, 500},
		{"a later call", older(bpf.ReadFile, 1001, 1002), false, 1001},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := test.record
			require.Equal(t, test.isTold, h.merge(&r, 2))
			require.Equal(t, test.begin, r.Attempt)
		})
	}
	other := bpf.Record{Kind: bpf.ReadFile, Tid: 6, Attempt: 310}
	require.False(t, h.merge(&other, 2))
	require.EqualValues(t, 310, other.Attempt)

	load := bpf.Record{Kind: bpf.ReadFile, Tid: 9, Attempt: 700, Request: 312, RequestTid: 5}
	require.False(t, (*handover)(nil).merge(&load, 2))
}
