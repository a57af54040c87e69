//go:build linux

package ebpf

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/bpf"
)

// fakeRelease records what was released.
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

// release releases up to a position, unless it is zero.
func (f *fakeRelease) release(before *uint64, p bpf.Position) {
	if p == (bpf.Position{}) {
		return
	}
	if p.Offset <= *before {
		f.repeated++
	}
	*before = p.Offset
}

func at(offset uint64) bpf.Position { return bpf.Position{Set: 7, Offset: offset} }

// tracked is the attempts of one run with their ring buffers.
type tracked struct {
	*attempts
	ring *fakeRelease
}

func newTracked(acks *ackTracker, stored ...string) *tracked {
	acks.start(stored)
	ring := &fakeRelease{}
	return &tracked{newAttempts(acks, ring, nil), ring}
}

// take has records of an attempt been read.
func (r *tracked) take(name string, size int, positions ...uint64) {
	r.update(func() {
		for _, position := range positions {
			a := r.get(attemptOf(name), start)
			a.hasEvent = true
			r.records.add(a, at(position), size)
		}
	})
}

// takeChunk has a chunk of an attempt's image been read.
func (r *tracked) takeChunk(name string, size int, position uint64) {
	id := attemptOf(name)
	r.addChunk(&bpf.Chunk{Attempt: id.begin, Tid: id.tid, Size: 1, Position: at(position), RingSize: size}, start)
}

// emit reserves the event of an attempt's record. It reports whether it is new and
// which position it carries.
func (r *tracked) emit(name string, position uint64) (carried string, isNew bool) {
	r.update(func() { carried, isNew = r.acks.reserve(r.byID[attemptOf(name)], keyOf(at(position))) })
	return carried, isNew
}

func (r *tracked) isKnown(key string) bool { return r.acks.isKnown(key) }

func (r *tracked) ack(position uint64) { r.acks.acked(keyOf(at(position))) }

// end forgets an attempt.
func (r *tracked) end(name string) {
	r.update(func() { r.forget(r.byID[attemptOf(name)]) })
}

func (r *tracked) drain(after time.Duration) { r.update(func() { r.drained(start.Add(after)) }) }

func TestRecordsAreReleasedWhenTheirEventsAreStored(t *testing.T) {
	r := newTracked(newAckTracker())
	r.take("a", 10, 10)
	r.take("b", 10, 20)
	r.take("a", 10, 30)
	carried, isNew := r.emit("a", 30)
	require.True(t, isNew)
	require.Empty(t, carried)
	_, isNew = r.emit("b", 20)
	require.True(t, isNew)
	r.end("b")
	r.ack(20)
	require.Zero(t, r.ring.released, "a's record comes before b's")
	r.ack(30)
	require.Zero(t, r.ring.released, "more may come of a")
	r.end("a")
	require.EqualValues(t, 30, r.ring.released)
	r.take("c", 10, 40)
	carried, isNew = r.emit("c", 40)
	require.True(t, isNew)
	require.Equal(t, keyOf(at(30)), carried, "everything before was stored")
}

func TestStoredEventsAreNotEmittedAgain(t *testing.T) {
	stored, call := keyOf(at(10)), callKey("5a")
	acks := newAckTracker()
	r := newTracked(acks, stored, call)
	r.take("a", 10, 10)
	_, isNew := r.emit("a", 10)
	require.False(t, isNew)
	require.True(t, r.isKnown(call))
	require.False(t, r.isKnown(keyOf(at(20))), "it is another event of the same record")

	// One that is on its way when the programs are attached again is not emitted
	// again, and its record stays until it is stored.
	r.take("b", 10, 30)
	_, isNew = r.emit("b", 30)
	require.True(t, isNew)
	acks.stop()
	again := newTracked(acks)
	again.take("b", 10, 30)
	_, isNew = again.emit("b", 30)
	require.False(t, isNew)
	again.end("b")
	require.Zero(t, again.ring.released)
	again.ack(30)
	require.EqualValues(t, 30, again.ring.released)
	require.Zero(t, r.ring.released, "the run is over")
}

func TestRingKeepsRoomForNewRecords(t *testing.T) {
	r := newTracked(newAckTracker())
	r.take("s", maxUnreleased, 1)
	require.Zero(t, r.ring.released)
	r.take("n", 1, 2)
	require.EqualValues(t, 1, r.ring.released)
}

func TestRecordsOfAnAttemptThatIsGivenUpAreReleased(t *testing.T) {
	r := newTracked(newAckTracker())
	r.take("a", 10, 10)
	r.update(func() { r.expire(start.Add(loadPatience), start) })
	require.EqualValues(t, 10, r.ring.released)
	r.take("a", 10, 20)
	require.EqualValues(t, 10, r.ring.released, "more may come of it")
	_, isNew := r.emit("a", 20)
	require.True(t, isNew)
	r.take("b", 10, 30)
	r.end("b")
	r.update(func() { r.giveUp(r.byID[attemptOf("a")]) })
	require.EqualValues(t, 10, r.ring.released, "its event is on its way")
	r.ack(20)
	require.EqualValues(t, 30, r.ring.released)
}

func TestFirstNeededRecordIsReported(t *testing.T) {
	r := newTracked(newAckTracker())
	require.Zero(t, r.ring.first)
	r.take("a", 10, 10)
	require.Equal(t, at(10), r.ring.first)
	r.take("b", 10, 20)
	r.end("a")
	require.Equal(t, at(20), r.ring.first)
	r.end("b")
	require.Zero(t, r.ring.first)
	require.Zero(t, r.ring.repeated)
}

// Nothing happens, but an older set of programs is to be removed.
func TestReleaseIsCalledWhenTheRingIsDrained(t *testing.T) {
	r := newTracked(newAckTracker())
	require.Zero(t, r.ring.calls)
	r.drain(0)
	require.Equal(t, 1, r.ring.calls)
}

func TestChunksAreReleasedWithTheirAttempt(t *testing.T) {
	r := newTracked(newAckTracker())
	r.takeChunk("a", 64, 64)
	r.take("a", 10, 10)
	_, isNew := r.emit("a", 10)
	require.True(t, isNew)
	r.end("a")
	require.Zero(t, r.ring.images)
	r.ack(10)
	require.EqualValues(t, 64, r.ring.images)
	r.takeChunk("b", maxUnreleasedImages, 128)
	require.EqualValues(t, 64, r.ring.images)
	r.takeChunk("b", 1, 256)
	require.EqualValues(t, 128, r.ring.images, "it is too large to stay")

	// One whose records were released before, by this process or an earlier one.
	r.drain(orphanAfter)
	require.EqualValues(t, 128, r.ring.images, "they may still come")
	r.drain(orphanAfter + 1)
	require.EqualValues(t, 256, r.ring.images)
}

// The chunks of an image come before their record, and the ring buffer of records
// may be seen empty between them.
func TestChunksWaitForTheirRecord(t *testing.T) {
	r := newTracked(newAckTracker())
	r.takeChunk("a", 64, 64)
	r.take("a", 10, 10)
	r.takeChunk("b", 64, 128)
	r.drain(2 * orphanAfter)
	require.Zero(t, r.ring.images, "the load takes its time")
	r.end("a")
	require.EqualValues(t, 128, r.ring.images)
	require.EqualValues(t, 10, r.ring.released)
	require.Empty(t, r.byID, "b has no record, and gets none")

	r.take("b", 10, 20)
	r.drain(4 * orphanAfter)
	require.EqualValues(t, 10, r.ring.released, "though it comes after all, it is needed")
	r.end("b")
	require.EqualValues(t, 20, r.ring.released)
}

func TestPositionIsEmittedOnce(t *testing.T) {
	r := newTracked(newAckTracker())
	emit := func(position uint64) (carried string) {
		t.Helper()
		r.take("x", 10, position)
		carried, isNew := r.emit("x", position)
		require.True(t, isNew)
		r.end("x")
		return carried
	}
	r.take("a", 10, 5)
	r.end("a")
	require.EqualValues(t, 5, r.ring.released)
	r.take("b", 10, 10)
	for range 2 {
		carried, isNew := r.emit("b", 10)
		require.Equal(t, isNew, carried != "", "only an event that is emitted carries it")
	}
	require.Empty(t, emit(20), "it was said")
	require.Empty(t, emit(30))
	r.end("b")
	require.EqualValues(t, 5, r.ring.released, "its event is on its way")
	require.True(t, r.isKnown(keyOf(at(10))))
	r.ack(10)
	require.EqualValues(t, 10, r.ring.released, "it was reserved twice and is stored once")
	require.Equal(t, keyOf(at(10)), emit(40))
	require.True(t, r.isKnown(keyOf(at(10))))
	r.take("b", 10, 50)
	_, isNew := r.emit("b", 10)
	require.False(t, isNew, "it is stored")
	r.end("b")
	r.ack(10)
	r.ack(7)
	require.EqualValues(t, 10, r.ring.released)
	for _, position := range []uint64{20, 30} {
		r.ack(position)
		require.EqualValues(t, position, r.ring.released)
	}
	r.ack(40)
	require.EqualValues(t, 50, r.ring.released)
	require.Empty(t, r.records.held)
	require.Empty(t, r.acks.unstored)
	require.Empty(t, r.byID)
}

func TestNothingIsReleasedBetweenTwoRuns(t *testing.T) {
	acks := newAckTracker()
	r := newTracked(acks)
	r.take("a", 10, 10)
	r.takeChunk("a", 64, 64)
	_, isNew := r.emit("a", 10)
	require.True(t, isNew)
	r.end("a")
	acks.stop()
	r.ack(10)
	require.Zero(t, r.ring.released, "the ring buffer is closed")
	require.Zero(t, r.ring.images)

	again := newTracked(acks)
	again.takeChunk("a", 64, 64)
	again.take("a", 10, 10)
	_, isNew = again.emit("a", 10)
	require.False(t, isNew)
	require.Zero(t, again.ring.released)
	r.takeChunk("a", 64, 128) // that the run before was about to take
	require.Zero(t, r.ring.images)
	again.end("a")
	require.EqualValues(t, 10, again.ring.released)
	require.EqualValues(t, 64, again.ring.images)
	require.Zero(t, r.ring.released)
}

func TestUnreleasedBytesAreCounted(t *testing.T) {
	r := newTracked(newAckTracker())
	for n := range uint64(5) {
		r.take("x", maxUnreleased/2, n+1)
		r.takeChunk("x", maxUnreleasedImages/2, n+1)
		r.end("x")
		require.EqualValues(t, n+1, r.ring.released)
		require.EqualValues(t, n+1, r.ring.images)
	}
	r.take("a", maxUnreleased/2, 6)
	r.take("b", maxUnreleased/2, 7)
	r.takeChunk("a", maxUnreleasedImages/2, 6)
	r.takeChunk("b", maxUnreleasedImages/2, 7)
	require.EqualValues(t, 5, r.ring.released, "what was released takes no room")
	require.EqualValues(t, 5, r.ring.images)
	require.Equal(t, maxUnreleased, r.records.size)
	require.Equal(t, maxUnreleasedImages, r.chunks.size)
}

func TestKeysOfReleasedRecordsAreDropped(t *testing.T) {
	var keys []string
	for position := range uint64(maxStoredKeys - 1) {
		keys = append(keys, keyOf(at(position)))
	}
	release := func(r *tracked, position uint64) {
		r.take("a", 10, position)
		_, _ = r.emit("a", position)
		r.end("a")
		r.ack(position)
	}
	r := newTracked(newAckTracker(), keys...)
	release(r, 9)
	require.Len(t, r.acks.stored, maxStoredKeys-1, "there is room")
	release(r, maxStoredKeys)
	require.Empty(t, r.acks.stored, "all of them are gone from the ring buffer")

	last := keyOf(at(maxStoredKeys))
	r = newTracked(newAckTracker(), append(keys, last)...)
	release(r, 99)
	require.Len(t, r.acks.stored, maxStoredKeys-100)
	require.False(t, r.isKnown(keyOf(at(99))))
	require.True(t, r.isKnown(keyOf(at(100))))
	require.True(t, r.isKnown(last))
}
