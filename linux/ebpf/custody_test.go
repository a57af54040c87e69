//go:build linux

package ebpf

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/bpf"
)

// fakeRelease remembers what was released.
type fakeRelease struct {
	released uint64
	images   uint64
	repeated int // releases of what was released before
	holds    func(first bpf.Mark) bool
}

func (f *fakeRelease) Release(records, images, first bpf.Mark) bool {
	if f.holds != nil && f.holds(first) {
		return false
	}
	f.release(&f.released, records)
	f.release(&f.images, images)
	return true
}

// release takes a mark, unless it is that of nothing.
func (f *fakeRelease) release(before *uint64, m bpf.Mark) {
	if m == (bpf.Mark{}) {
		return
	}
	if m.Position <= *before {
		f.repeated++
	}
	*before = m.Position
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
	require.Len(t, c.groups, 1, "nor does anything else remember it")
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

// Nothing happens, but an older set of programs is to be let go of.
func TestCustodyLetsGoOfAnOlderSetThatSawNothing(t *testing.T) {
	calls := 0
	ring, c := &fakeRelease{}, newCustody()
	ring.holds = func(first bpf.Mark) bool {
		require.Zero(t, first)
		calls++
		return false
	}
	c.begin(ring, nil)
	require.Zero(t, calls, "nobody knows yet what it saw")
	c.drained(start)
	require.Equal(t, 1, calls)
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

func TestCustodySaysOnceHowFarItIs(t *testing.T) {
	ring, c := &fakeRelease{}, newCustody()
	c.begin(ring, nil)
	claim := func(position uint64) (carried string) {
		t.Helper()
		c.take(at(position), 10, "", start)
		carried, isNew := c.claim(receiptOf(at(position)))
		require.True(t, isNew)
		return carried
	}
	c.take(at(5), 10, "a", start)
	c.over("a", start)
	require.EqualValues(t, 5, ring.released)
	c.take(at(10), 10, "b", start)
	for range 2 {
		carried, isNew := c.claim(receiptOf(at(10)))
		require.Equal(t, isNew, carried != "", "only what is told carries it")
	}
	require.Empty(t, claim(20), "it was said")
	require.Empty(t, claim(30))
	c.over("b", start)
	require.EqualValues(t, 5, ring.released, "its event is on its way")
	require.True(t, c.knows(receiptOf(at(10))))
	c.stored(receiptOf(at(10)), start)
	require.EqualValues(t, 10, ring.released, "it was claimed twice and is stored once")
	require.Equal(t, receiptOf(at(10)), claim(40))
	require.True(t, c.knows(receiptOf(at(10))))
	_, isNew := c.claim(receiptOf(at(10)))
	require.False(t, isNew, "it is stored")
	c.stored(receiptOf(at(10)), start)
	c.stored(receiptOf(at(7)), start)
	require.EqualValues(t, 10, ring.released)
	for _, position := range []uint64{20, 30, 40} {
		c.stored(receiptOf(at(position)), start)
		require.EqualValues(t, position, ring.released)
	}
	require.Empty(t, c.records.held)
	require.Empty(t, c.byMark)
	require.Empty(t, c.events)
	require.Empty(t, c.groups)
}

func TestCustodyOfAnAttemptThatGoesOn(t *testing.T) {
	ring, c := &fakeRelease{}, newCustody()
	c.begin(ring, nil)
	c.take(at(10), 10, "a", start)
	c.over("a", start)
	require.EqualValues(t, 10, ring.released)
	c.take(at(20), 10, "a", start)
	require.EqualValues(t, 10, ring.released, "it is not over any more")
	_, isNew := c.claim(receiptOf(at(20)))
	require.True(t, isNew)
	c.take(at(30), 10, "b", start.Add(maxKept))
	c.over("b", start.Add(maxKept))
	require.EqualValues(t, 10, ring.released, "an event is waited for, however long that takes")
	c.stored(receiptOf(at(20)), start.Add(maxKept-1))
	require.EqualValues(t, 10, ring.released, "more may come of it")
	c.over("a", start.Add(maxKept-1))
	require.EqualValues(t, 30, ring.released)
}

func TestCustodyBetweenTwoRuns(t *testing.T) {
	ring, c := &fakeRelease{}, newCustody()
	c.begin(ring, nil)
	c.take(at(10), 10, "a", start)
	c.takeImage(at(64), 64, "a", start)
	_, isNew := c.claim(receiptOf(at(10)))
	require.True(t, isNew)
	c.over("a", start)
	c.end()
	c.stored(receiptOf(at(10)), start)
	require.Zero(t, ring.released, "the ring is not this run's any more")
	require.Zero(t, ring.images)

	again := &fakeRelease{}
	c.begin(again, nil)
	c.takeImage(at(64), 64, "a", start)
	c.take(at(10), 10, "a", start)
	_, isNew = c.claim(receiptOf(at(10)))
	require.False(t, isNew)
	require.Zero(t, again.released)
	c.over("a", start)
	require.EqualValues(t, 10, again.released)
	require.EqualValues(t, 64, again.images)
	require.Zero(t, ring.released)
}

func TestCustodyCountsWhatItHolds(t *testing.T) {
	ring, c := &fakeRelease{}, newCustody()
	c.begin(ring, nil)
	for n := range uint64(5) {
		c.take(at(n+1), maxCustody/2, "", start)
		c.takeImage(at(n+1), maxImageCustody/2, "", start)
		require.EqualValues(t, n+1, ring.released)
		require.EqualValues(t, n+1, ring.images)
	}
	c.take(at(6), maxCustody/2, "a", start)
	c.take(at(7), maxCustody/2, "b", start)
	c.takeImage(at(6), maxImageCustody/2, "a", start)
	c.takeImage(at(7), maxImageCustody/2, "b", start)
	require.EqualValues(t, 5, ring.released, "what is gone takes no room")
	require.EqualValues(t, 5, ring.images)
	require.Equal(t, maxCustody, c.records.size)
	require.Equal(t, maxImageCustody, c.images.size)
}

func TestCustodyHoldsImagesBackToo(t *testing.T) {
	holds := true
	ring, c := &fakeRelease{holds: func(bpf.Mark) bool { return holds }}, newCustody()
	c.begin(ring, nil)
	c.takeImage(at(64), 64, "a", start)
	c.take(at(10), 10, "a", start)
	c.over("a", start)
	require.Zero(t, ring.images)
	require.Zero(t, ring.released)
	holds = false
	c.take(at(20), 10, "b", start)
	require.EqualValues(t, 64, ring.images)
	require.EqualValues(t, 10, ring.released)
	c.over("b", start)
	require.EqualValues(t, 20, ring.released)
	require.Zero(t, ring.repeated)
}

// The parts of an image come before the records that tell of it, and the ring of
// the records may be seen empty between them.
func TestCustodyOfImagesWhoseRecordsCome(t *testing.T) {
	ring, c := &fakeRelease{}, newCustody()
	c.begin(ring, nil)
	c.takeImage(at(64), 64, "a", start)
	c.take(at(10), 10, "a", start)
	c.takeImage(at(128), 64, "b", start)
	late := start.Add(2 * orphanAfter)
	c.drained(late)
	require.Zero(t, ring.images, "the load takes its time")
	c.over("a", late)
	require.EqualValues(t, 128, ring.images)
	require.EqualValues(t, 10, ring.released)
	require.Empty(t, c.groups, "b has no record, and gets none")

	c.take(at(20), 10, "b", late)
	c.drained(late.Add(2 * orphanAfter))
	require.EqualValues(t, 10, ring.released, "though it comes after all, it is needed")
	c.over("b", late)
	require.EqualValues(t, 20, ring.released)
}

func TestCustodyForgetsWhatNobodyReads(t *testing.T) {
	var receipts []string
	for position := range uint64(maxTold - 1) {
		receipts = append(receipts, receiptOf(at(position)))
	}
	release := func(c *custody, position uint64) {
		c.take(at(position), 10, "a", start)
		_, _ = c.claim(receiptOf(at(position)))
		c.over("a", start)
		c.stored(receiptOf(at(position)), start)
	}
	c := newCustody()
	c.begin(&fakeRelease{}, receipts)
	release(c, 9)
	require.Equal(t, maxTold-1, len(c.told), "there is room")
	release(c, maxTold)
	require.Zero(t, len(c.told), "all of them are gone from the ring")

	c = newCustody()
	last := receiptOf(at(maxTold))
	c.begin(&fakeRelease{}, append(receipts, last))
	release(c, 99)
	require.Equal(t, maxTold-100, len(c.told))
	require.False(t, c.knows(receiptOf(at(99))))
	require.True(t, c.knows(receiptOf(at(100))))
	require.True(t, c.knows(last))
}

func TestMarkOf(t *testing.T) {
	require.Equal(t, at(10), markOf(receiptOf(at(10))))
	require.Equal(t, at(10), markOf(callReceipt(receiptOf(at(10)))))
	for _, text := range []string{"", "~abc_1", "7", "x_y"} {
		require.Zero(t, markOf(text), text)
	}
}
