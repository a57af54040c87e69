//go:build linux

package ebpf

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery/bpf"
)

const (
	// maxUnreleased bounds the bytes of records that stay in the ring buffer after
	// they were read, to a quarter of the buffer. Beyond it the oldest are released
	// even if they are needed: if the process is killed then, their events are lost.
	maxUnreleased = 4 << 20
	// maxUnreleasedImages bounds the bytes of chunks in the ring buffer of images in
	// the same way. Without its chunks an image is read from the module's file.
	maxUnreleasedImages = 12 << 20
	// maxStoredKeys is the number of stored keys at which those of released records
	// are dropped. The ring buffer has room for fewer records.
	maxStoredKeys = 1 << 16
)

// An ackTracker tracks which events are stored. The records of an attempt stay in the
// ring buffer until its events are, so that a process which starts after a crash
// reads them again. It recognizes the stored ones by their dedup keys. An ackTracker
// is used by every run of a source. Methods other than start, stop and acked expect
// that mu is locked.
type ackTracker struct {
	mu       sync.Mutex          // guards the attempts of a run too
	run      *attempts           // nil between two runs
	stored   map[string]struct{} // keys of stored events
	unstored map[string]*attempt // attempts of events that were emitted and are not stored, by key; nil without an attempt
	position string              // position that the next event carries; empty if an event carried it
}

func newAckTracker() *ackTracker {
	return &ackTracker{stored: map[string]struct{}{}, unstored: map[string]*attempt{}}
}

// start adds the keys of stored events before a run.
func (c *ackTracker) start(keys []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		c.addStored(key)
	}
}

// stop ends a run. No record is released until the next run.
func (c *ackTracker) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run = nil
}

// keyOf returns the dedup key of the event of the record at a position. Keys sort as
// the positions do.
func keyOf(p bpf.Position) string { return fmt.Sprintf("%016x_%016x", p.Set, p.Offset) }

// callMark is the prefix of the keys of init_module events without a result. The
// load_id follows: the process that reads the return cannot read the earlier records of
// the attempt again. These keys sort after all positions, so the store keeps them.
const callMark = "init_module_"

func callKey(loadID string) string { return callMark + loadID }

// reserve notes that an event is emitted, and returns the position that it carries.
// isNew is false if the event is stored or was emitted before: then it must not be
// emitted again.
func (c *ackTracker) reserve(a *attempt, key string) (position string, isNew bool) {
	if _, isStored := c.stored[key]; isStored {
		return "", false
	}
	before, isUnstored := c.unstored[key]
	if before != nil { // an attempt of an earlier run
		before.unstored--
	}
	if a != nil {
		a.unstored++
	}
	c.unstored[key] = a
	if isUnstored {
		return "", false
	}
	position, c.position = c.position, ""
	return position, true
}

// isKnown reports whether an event is stored or was emitted.
func (c *ackTracker) isKnown(key string) bool {
	_, isStored := c.stored[key]
	_, isUnstored := c.unstored[key]
	return isStored || isUnstored
}

// acked notes that an event was stored, or dropped by the recorder. Any goroutine may
// call it.
func (c *ackTracker) acked(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, isUnstored := c.unstored[key]
	if !isUnstored {
		return
	}
	delete(c.unstored, key)
	c.addStored(key)
	if a != nil {
		a.unstored--
	}
	if c.run != nil {
		c.run.release()
	}
}

// addStored notes that the event of a record is stored. Rows of denied calls have no
// record, and their number is not bounded.
func (c *ackTracker) addStored(key string) {
	if !isOfDenied(key) {
		c.stored[key] = struct{}{}
	}
}

// released notes that the records up to a position cannot be read again.
func (c *ackTracker) released(until bpf.Position) {
	c.position = keyOf(until)
	if len(c.stored) < maxStoredKeys {
		return
	}
	maps.DeleteFunc(c.stored, func(key string, _ struct{}) bool {
		return key <= c.position || strings.HasPrefix(key, callMark)
	})
}

// A ringQueue holds the records that were read from a ring buffer and are not
// released, in their order.
type ringQueue struct {
	held    []ringRecord
	size    int          // bytes of held
	max     int          // size beyond which the oldest are released even if they are needed
	release bpf.Position // end of the last record that may be released
}

type ringRecord struct {
	position bpf.Position
	size     int
	attempt  *attempt
}

// A releaser gives records back to the kernel (bpf.Programs).
type releaser interface {
	// Release gives back the records and the chunks of images up to two positions,
	// either of which may be zero. first is the first record that is still needed;
	// zero if none is.
	Release(records, images, first bpf.Position)
}

// add adds the next record.
func (q *ringQueue) add(a *attempt, position bpf.Position, size int) {
	a.isOpen = true
	q.held = append(q.held, ringRecord{position, size, a})
	q.size += size
}

// advance removes the records at the head that are not needed.
func (q *ringQueue) advance() {
	for len(q.held) > 0 {
		head := q.held[0]
		if isNeeded := head.attempt.isOpen || head.attempt.unstored > 0; isNeeded && q.size <= q.max {
			return
		}
		q.held[0] = ringRecord{}
		q.held = q.held[1:]
		q.size -= head.size
		q.release = head.position
	}
}

// release gives records that are not needed back to the kernel.
func (t *attempts) release() {
	t.records.advance()
	t.chunks.advance()
	var first bpf.Position
	if len(t.records.held) > 0 {
		first = t.records.held[0].position
	}
	if t.acks.run != t {
		return
	}
	t.ring.Release(t.records.release, t.chunks.release, first)
	if t.records.release != (bpf.Position{}) {
		t.acks.released(t.records.release)
	}
	t.records.release, t.chunks.release = bpf.Position{}, bpf.Position{}
}

// orphanAfter is longer than the time between seeing the ring buffer empty and the
// call of drained: calls that began in between are not orphans.
const orphanAfter = time.Second

// drained notes that the ring buffer of records was seen empty. The first event of a
// call is recorded before the chunks of its image. Chunks without an event belong to
// a call whose records were released before, and drained forgets them.
func (t *attempts) drained(now time.Time) {
	for _, c := range t.chunks.held {
		if a := c.attempt; !a.hasEvent && now.Sub(a.begun) > orphanAfter {
			t.forget(a)
		}
	}
}
