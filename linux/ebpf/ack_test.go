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
	first    bpf.Position
	calls    int
	repeated int // releases of what was released before
}

func (f *fakeRelease) Release(records, images, first bpf.Position) {
	f.first = first
	f.calls++
	f.release(&f.released, records)
	f.release(&f.images, images)
}

// release takes a position, unless it is that of nothing.
func (f *fakeRelease) release(before *uint64, m bpf.Position) {
	if m == (bpf.Position{}) {
		return
	}
	if m.Offset <= *before {
		f.repeated++
	}
	*before = m.Offset
}

func at(position uint64) bpf.Position { return bpf.Position{Set: 7, Offset: position} }

func TestAckTrackerReleasesWhatIsStored(t *testing.T) {
	ring, c := &fakeRelease{}, newAckTracker()
	c.start(ring, nil)
	c.track(at(10), 10, "a", start)
	c.track(at(20), 10, "b", start)
	c.track(at(30), 10, "a", start)
	position, isNew := c.reserve(keyOf(at(30)))
	require.True(t, isNew)
	require.Empty(t, position)
	_, isNew = c.reserve(keyOf(at(20)))
	require.True(t, isNew)
	c.close("b", start)
	c.acked(keyOf(at(20)), start)
	require.Zero(t, ring.released, "a's record comes before b's")
	c.acked(keyOf(at(30)), start)
	require.Zero(t, ring.released, "more may come of a")
	c.close("a", start)
	require.EqualValues(t, 30, ring.released)
	c.track(at(40), 10, "c", start)
	position, isNew = c.reserve(keyOf(at(40)))
	require.True(t, isNew)
	require.Equal(t, keyOf(at(30)), position, "everything before was stored")
}

func TestAckTrackerTellsNothingTwice(t *testing.T) {
	c := newAckTracker()
	stored, call := keyOf(at(10)), callKey(keyOf(at(20)))
	c.start(&fakeRelease{}, []string{stored, call})
	c.track(at(10), 10, "a", start)
	_, isNew := c.reserve(stored)
	require.False(t, isNew)
	require.True(t, c.isKnown(call))
	require.False(t, c.isKnown(keyOf(at(20))), "it is another event of the same record")

	// One that is on its way when the programs are attached anew is not told
	// again, and its record stays until it is stored.
	c.track(at(30), 10, "b", start)
	_, isNew = c.reserve(keyOf(at(30)))
	require.True(t, isNew)
	c.stop()
	again := &fakeRelease{}
	c.start(again, nil)
	c.track(at(30), 10, "b", start)
	_, isNew = c.reserve(keyOf(at(30)))
	require.False(t, isNew)
	c.close("b", start)
	require.Zero(t, again.released)
	c.acked(keyOf(at(30)), start)
	require.EqualValues(t, 30, again.released)
}

func TestAckTrackerLeavesRoomInTheRing(t *testing.T) {
	ring, c := &fakeRelease{}, newAckTracker()
	c.start(ring, nil)
	c.track(at(1), maxUnreleased, "stuck", start)
	require.Zero(t, ring.released)
	c.track(at(2), 1, "next", start)
	require.EqualValues(t, 1, ring.released)
	c.track(at(3), 1, "later", start.Add(maxUnreleasedTime))
	require.EqualValues(t, 2, ring.released, "nothing has come of it for long")
	require.Len(t, c.groups, 1, "nor does anything else remember it")
}

// Nothing happens, but an older set of programs is to be removed.
func TestAckTrackerReleasesWhenNothingHappens(t *testing.T) {
	ring, c := &fakeRelease{}, newAckTracker()
	c.start(ring, nil)
	c.drained(start)
	require.Equal(t, 1, ring.calls)
}

func TestAckTrackerKeepsImages(t *testing.T) {
	ring, c := &fakeRelease{}, newAckTracker()
	c.start(ring, nil)
	c.trackImage(at(64), 64, "a", start)
	c.track(at(10), 10, "a", start)
	_, isNew := c.reserve(keyOf(at(10)))
	require.True(t, isNew)
	c.close("a", start)
	require.Zero(t, ring.images)
	c.acked(keyOf(at(10)), start)
	require.EqualValues(t, 64, ring.images)
	c.trackImage(at(128), maxUnreleasedImages, "b", start)
	require.EqualValues(t, 64, ring.images)
	c.trackImage(at(256), 1, "b", start)
	require.EqualValues(t, 128, ring.images, "it is too large to stay")

	// One whose records were released before, by this process or an earlier one.
	c.drained(start.Add(orphanAfter))
	require.EqualValues(t, 128, ring.images, "they may still come")
	c.drained(start.Add(orphanAfter + 1))
	require.EqualValues(t, 256, ring.images)
}

func TestAckTrackerSaysOnceHowFarItIs(t *testing.T) {
	ring, c := &fakeRelease{}, newAckTracker()
	c.start(ring, nil)
	reserve := func(position uint64) (carried string) {
		t.Helper()
		c.track(at(position), 10, "", start)
		carried, isNew := c.reserve(keyOf(at(position)))
		require.True(t, isNew)
		return carried
	}
	c.track(at(5), 10, "a", start)
	c.close("a", start)
	require.EqualValues(t, 5, ring.released)
	c.track(at(10), 10, "b", start)
	for range 2 {
		carried, isNew := c.reserve(keyOf(at(10)))
		require.Equal(t, isNew, carried != "", "only what is told carries it")
	}
	require.Empty(t, reserve(20), "it was said")
	require.Empty(t, reserve(30))
	c.close("b", start)
	require.EqualValues(t, 5, ring.released, "its event is on its way")
	require.True(t, c.isKnown(keyOf(at(10))))
	c.acked(keyOf(at(10)), start)
	require.EqualValues(t, 10, ring.released, "it was reserved twice and is stored once")
	require.Equal(t, keyOf(at(10)), reserve(40))
	require.True(t, c.isKnown(keyOf(at(10))))
	_, isNew := c.reserve(keyOf(at(10)))
	require.False(t, isNew, "it is stored")
	c.acked(keyOf(at(10)), start)
	c.acked(keyOf(at(7)), start)
	require.EqualValues(t, 10, ring.released)
	for _, position := range []uint64{20, 30, 40} {
		c.acked(keyOf(at(position)), start)
		require.EqualValues(t, position, ring.released)
	}
	require.Empty(t, c.records.held)
	require.Empty(t, c.byPosition)
	require.Empty(t, c.events)
	require.Empty(t, c.groups)
}

func TestAckTrackerOfAnAttemptThatGoesOn(t *testing.T) {
	ring, c := &fakeRelease{}, newAckTracker()
	c.start(ring, nil)
	c.track(at(10), 10, "a", start)
	c.close("a", start)
	require.EqualValues(t, 10, ring.released)
	c.track(at(20), 10, "a", start)
	require.EqualValues(t, 10, ring.released, "it is not over any more")
	_, isNew := c.reserve(keyOf(at(20)))
	require.True(t, isNew)
	c.track(at(30), 10, "b", start.Add(maxUnreleasedTime))
	c.close("b", start.Add(maxUnreleasedTime))
	require.EqualValues(t, 10, ring.released, "an event is waited for, however long that takes")
	c.acked(keyOf(at(20)), start.Add(maxUnreleasedTime-1))
	require.EqualValues(t, 10, ring.released, "more may come of it")
	c.close("a", start.Add(maxUnreleasedTime-1))
	require.EqualValues(t, 30, ring.released)
}

func TestAckTrackerBetweenTwoRuns(t *testing.T) {
	ring, c := &fakeRelease{}, newAckTracker()
	c.start(ring, nil)
	c.track(at(10), 10, "a", start)
	c.trackImage(at(64), 64, "a", start)
	_, isNew := c.reserve(keyOf(at(10)))
	require.True(t, isNew)
	c.close("a", start)
	c.stop()
	c.acked(keyOf(at(10)), start)
	require.Zero(t, ring.released, "the ring is not this run's any more")
	require.Zero(t, ring.images)

	again := &fakeRelease{}
	c.start(again, nil)
	c.trackImage(at(64), 64, "a", start)
	c.track(at(10), 10, "a", start)
	_, isNew = c.reserve(keyOf(at(10)))
	require.False(t, isNew)
	require.Zero(t, again.released)
	c.close("a", start)
	require.EqualValues(t, 10, again.released)
	require.EqualValues(t, 64, again.images)
	require.Zero(t, ring.released)
}

func TestAckTrackerCountsWhatItHolds(t *testing.T) {
	ring, c := &fakeRelease{}, newAckTracker()
	c.start(ring, nil)
	for n := range uint64(5) {
		c.track(at(n+1), maxUnreleased/2, "", start)
		c.trackImage(at(n+1), maxUnreleasedImages/2, "", start)
		require.EqualValues(t, n+1, ring.released)
		require.EqualValues(t, n+1, ring.images)
	}
	c.track(at(6), maxUnreleased/2, "a", start)
	c.track(at(7), maxUnreleased/2, "b", start)
	c.trackImage(at(6), maxUnreleasedImages/2, "a", start)
	c.trackImage(at(7), maxUnreleasedImages/2, "b", start)
	require.EqualValues(t, 5, ring.released, "what is gone takes no room")
	require.EqualValues(t, 5, ring.images)
	require.Equal(t, maxUnreleased, c.records.size)
	require.Equal(t, maxUnreleasedImages, c.images.size)
}

func TestAckTrackerSaysWhichRecordIsStillNeeded(t *testing.T) {
	ring, c := &fakeRelease{}, newAckTracker()
	c.start(ring, nil)
	require.Zero(t, ring.first)
	c.track(at(10), 10, "a", start)
	require.Equal(t, at(10), ring.first)
	c.track(at(20), 10, "b", start)
	c.close("a", start)
	require.Equal(t, at(20), ring.first)
	c.close("b", start)
	require.Zero(t, ring.first)
}

// The parts of an image come before the records that tell of it, and the ring of
// the records may be seen empty between them.
func TestAckTrackerOfImagesWhoseRecordsCome(t *testing.T) {
	ring, c := &fakeRelease{}, newAckTracker()
	c.start(ring, nil)
	c.trackImage(at(64), 64, "a", start)
	c.track(at(10), 10, "a", start)
	c.trackImage(at(128), 64, "b", start)
	late := start.Add(2 * orphanAfter)
	c.drained(late)
	require.Zero(t, ring.images, "the load takes its time")
	c.close("a", late)
	require.EqualValues(t, 128, ring.images)
	require.EqualValues(t, 10, ring.released)
	require.Empty(t, c.groups, "b has no record, and gets none")

	c.track(at(20), 10, "b", late)
	c.drained(late.Add(2 * orphanAfter))
	require.EqualValues(t, 10, ring.released, "though it comes after all, it is needed")
	c.close("b", late)
	require.EqualValues(t, 20, ring.released)
}

func TestAckTrackerForgetsWhatNobodyReads(t *testing.T) {
	var keys []string
	for position := range uint64(maxStoredKeys - 1) {
		keys = append(keys, keyOf(at(position)))
	}
	release := func(c *ackTracker, position uint64) {
		c.track(at(position), 10, "a", start)
		_, _ = c.reserve(keyOf(at(position)))
		c.close("a", start)
		c.acked(keyOf(at(position)), start)
	}
	c := newAckTracker()
	c.start(&fakeRelease{}, keys)
	release(c, 9)
	require.Equal(t, maxStoredKeys-1, len(c.stored), "there is room")
	release(c, maxStoredKeys)
	require.Zero(t, len(c.stored), "all of them are gone from the ring")

	c = newAckTracker()
	last := keyOf(at(maxStoredKeys))
	c.start(&fakeRelease{}, append(keys, last))
	release(c, 99)
	require.Equal(t, maxStoredKeys-100, len(c.stored))
	require.False(t, c.isKnown(keyOf(at(99))))
	require.True(t, c.isKnown(keyOf(at(100))))
	require.True(t, c.isKnown(last))
}

func TestPositionOf(t *testing.T) {
	require.Equal(t, at(10), positionOf(keyOf(at(10))))
	require.Equal(t, at(10), positionOf(callKey(keyOf(at(10)))))
	for _, text := range []string{"", "~abc_1", "7", "x_y"} {
		require.Zero(t, positionOf(text), text)
	}
}
