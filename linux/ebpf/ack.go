//go:build linux

package ebpf

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery/bpf"
)

const (
	// maxUnreleased bounds the bytes of records that stay in the ring buffer after
	// they were read, a quarter of it: the rest is for what is still to come.
	// Beyond it the oldest are released though they are needed, and a process that
	// dies then takes what they say with it.
	maxUnreleased = 4 << 20
	// maxUnreleasedImages bounds those of images, in a ring buffer of their own. Without
	// them the file is read.
	maxUnreleasedImages = 12 << 20
	// maxUnreleasedTime bounds for how long they stay while no event comes of them.
	maxUnreleasedTime = 2 * time.Minute
)

// An ackTracker isKnown which records of the ring buffer are still needed: those of
// attempts that are not over, and of events that are not stored. The others it
// releases, in their order. So a record is in the ring until what it says is
// safe, and the process that comes after a crash reads it again; what was stored
// already is recognized by its key. An ackTracker outlives the programs, which
// may be attached anew. Its methods may be called concurrently.
type ackTracker struct {
	mu         sync.Mutex
	ring       releaser // nil between two runs
	records    queue
	images     queue
	groups     map[string]*group // open ones, by the attempt's load_id
	byPosition map[bpf.Position]*group
	events     map[string]*group   // by key, of events that are on their way to the store
	stored     map[string]struct{} // keys of events of records that are stored
	newest     string              // position that the next event is to carry
}

// A releaser gives records back to the kernel (bpf.Programs).
type releaser interface {
	Release(records, images, first bpf.Position)
}

// A queue is the records of one ring buffer, in the order in which they were read.
type queue struct {
	held    []ringRecord
	size    int          // bytes of those
	max     int          // beyond which they are released anyway
	release bpf.Position // what may be released
}

// A ringRecord is one that was read and not released.
type ringRecord struct {
	position bpf.Position
	size     int
	at       time.Time
	group    *group
}

// A group is the records of one attempt.
type group struct {
	attempt  string
	held     int  // of them, those that are not released
	open     bool // more may come of it
	events   int  // that are on their way to the store
	recorded bool // it has more than parts of an image
}

func newAckTracker() *ackTracker {
	return &ackTracker{
		groups: map[string]*group{}, byPosition: map[bpf.Position]*group{},
		events: map[string]*group{}, stored: map[string]struct{}{},
	}
}

// start takes the records of a run of the programs. The keys are
// those of events that are stored.
func (c *ackTracker) start(r releaser, keys []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ring, c.records, c.images = r, queue{max: maxUnreleased}, queue{max: maxUnreleasedImages}
	c.groups, c.byPosition = map[string]*group{}, map[bpf.Position]*group{}
	for _, key := range keys {
		c.addStored(key)
	}
}

// stop releases nothing any more.
func (c *ackTracker) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ring = nil
}

// keyOf names the event that a record gives.
func keyOf(m bpf.Position) string { return fmt.Sprintf("%016x_%016x", m.Set, m.Offset) }

// callKey names another one that the same record gives: the system call that
// has not returned.
func callKey(key string) string { return key + "c" }

// track notes a record that was read. The attempt is its load_id, "" where it has
// none.
func (c *ackTracker) track(position bpf.Position, size int, attempt string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.hold(&c.records, position, size, attempt, now)
	g.recorded = true
	c.byPosition[position] = g
	c.advance(now)
}

// trackImage notes a part of an attempt's image that was read.
func (c *ackTracker) trackImage(position bpf.Position, size int, attempt string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold(&c.images, position, size, attempt, now)
	c.advance(now)
}

// drained notes that the ring buffer of the records was seen empty: the parts of
// images of which it told nothing belong to attempts that are over.
func (c *ackTracker) drained(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, part := range c.images.held {
		if g := part.group; g.open && !g.recorded && now.Sub(part.at) > orphanAfter {
			g.open = false
		}
	}
	for attempt, g := range c.groups {
		if !g.open {
			delete(c.groups, attempt)
		}
	}
	c.advance(now)
}

// orphanAfter is how long after a part of an image, at most, the record comes that
// tells of it: the program has only to end.
const orphanAfter = time.Second

func (c *ackTracker) hold(q *queue, position bpf.Position, size int, attempt string, now time.Time) *group {
	g := c.groups[attempt]
	if g == nil {
		g = &group{attempt: attempt, open: attempt != ""}
		if g.open {
			c.groups[attempt] = g
		}
	}
	g.held++
	q.held = append(q.held, ringRecord{position, size, now, g})
	q.size += size
	return g
}

// close notes that nothing more comes of an attempt's records so far.
func (c *ackTracker) close(attempt string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g := c.groups[attempt]; g != nil {
		g.open = false
		delete(c.groups, attempt)
		c.advance(now)
	}
}

// reserve notes that the event with a key is on its way to the store, and reports
// whether it was not told before. It returns the position that the event is to
// carry.
func (c *ackTracker) reserve(key string) (position string, isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, stored := c.stored[key]; stored {
		return "", false
	}
	g := c.byPosition[positionOf(key)]
	before, underway := c.events[key]
	if before != nil {
		before.events--
	}
	if g != nil {
		g.events++
	}
	c.events[key] = g
	if underway {
		return "", false
	}
	position, c.newest = c.newest, ""
	return position, true
}

// isKnown reports whether an event was told before.
func (c *ackTracker) isKnown(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, stored := c.stored[key]
	_, underway := c.events[key]
	return stored || underway
}

// acked notes that an event is safe, or given up by those who keep it.
func (c *ackTracker) acked(key string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, underway := c.events[key]
	if !underway {
		return
	}
	delete(c.events, key)
	c.addStored(key)
	if g != nil {
		g.events--
		c.advance(now)
	}
}

// addStored notes that an event of a record is told. Of denied calls the kernel
// keeps what is: there is no end to them.
func (c *ackTracker) addStored(key string) {
	if !isOfDenied(key) {
		c.stored[key] = struct{}{}
	}
}

// advance releases the records at the heads that nobody needs.
func (c *ackTracker) advance(now time.Time) {
	c.records.advance(now, func(r ringRecord) {
		delete(c.byPosition, r.position)
		c.drop(r.group)
	})
	c.images.advance(now, func(r ringRecord) { c.drop(r.group) })
	if c.ring == nil {
		return
	}
	first := bpf.Position{}
	if len(c.records.held) > 0 {
		first = c.records.held[0].position
	}
	c.ring.Release(c.records.release, c.images.release, first)
	if m := c.records.release; m != (bpf.Position{}) {
		c.forget(m)
		c.newest = keyOf(m)
	}
	c.records.release, c.images.release = bpf.Position{}, bpf.Position{}
}

// drop lets go of a group when its last record is released: of one whose other
// records were lost nobody says that it is over.
func (c *ackTracker) drop(g *group) {
	if g.held--; g.held == 0 && c.groups[g.attempt] == g {
		delete(c.groups, g.attempt)
	}
}

// advance takes those out that nobody needs.
func (q *queue) advance(now time.Time, dropped func(ringRecord)) {
	for len(q.held) > 0 {
		head := q.held[0]
		isNeeded := head.group.events > 0 || head.group.open && now.Sub(head.at) < maxUnreleasedTime
		if isNeeded && q.size <= q.max {
			return
		}
		q.held[0] = ringRecord{}
		q.held = q.held[1:]
		q.size -= head.size
		q.release = head.position
		dropped(head)
	}
}

// forget lets go of the keys of records that nobody can read again.
func (c *ackTracker) forget(released bpf.Position) {
	if len(c.stored) < maxStoredKeys {
		return
	}
	until := keyOf(released)
	for key := range c.stored {
		if key <= until {
			delete(c.stored, key)
		}
	}
}

// maxStoredKeys is how many keys are remembered before those of no use are looked
// for. The ring buffer has room for fewer records.
const maxStoredKeys = 1 << 16

// positionOf is the position of the record that a key is of, zero where it is of
// none.
func positionOf(key string) (m bpf.Position) {
	set, position, _ := strings.Cut(strings.TrimSuffix(key, "c"), "_")
	var err, other error
	m.Set, err = strconv.ParseUint(set, 16, 64)
	m.Offset, other = strconv.ParseUint(position, 16, 64)
	if err != nil || other != nil {
		return bpf.Position{}
	}
	return m
}
