//go:build linux

package linux

import (
	"testing"

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
