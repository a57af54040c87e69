//go:build linux

package ebpf

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery/bpf"
)

const (
	// maxCustody bounds the bytes of records that stay in the ring buffer after
	// they were read, a quarter of it: the rest is for what is still to come.
	// Beyond it the oldest are released though they are needed, and a process that
	// dies then takes what they say with it.
	maxCustody = 4 << 20
	// maxImageCustody bounds those of images, in a ring buffer of their own. Without
	// them the file is read.
	maxImageCustody = 12 << 20
	// maxKept bounds for how long they stay while no event comes of them.
	maxKept = 2 * time.Minute
)

// A custody knows which records of the ring buffer are still needed: those of
// attempts that are not over, and of events that are not stored. The others it
// releases, in their order. So a record is in the ring until what it says is
// safe, and the process that comes after a crash reads it again; what was stored
// already is recognized by its receipt. A custody outlives the programs, which
// may be attached anew. Its methods may be called concurrently.
type custody struct {
	mu      sync.Mutex
	ring    releaser // nil between two runs
	records queue
	images  queue
	groups  map[string]*group // open ones, by the attempt's load_id
	byMark  map[bpf.Mark]*group
	events  map[string]*group   // by receipt, of events that are on their way to the store
	told    map[string]struct{} // receipts of events of records that are stored
	newest  string              // position that the next event is to carry
}

// A releaser is what the programs of one run offer a custody.
type releaser interface {
	// Release gives back what is before the marks of records and of chunks, the
	// first record that is still needed being that of a third, and reports whether
	// it could. Each may be zero: there is none.
	Release(records, images, first bpf.Mark) bool
}

// A queue is the records of one ring buffer, in the order in which they were read.
type queue struct {
	held    []heldRecord
	size    int      // bytes of those
	max     int      // beyond which they are released anyway
	release bpf.Mark // what may be released
}

// A heldRecord is one that was read and not released.
type heldRecord struct {
	mark  bpf.Mark
	size  int
	at    time.Time
	group *group
}

// A group is the records of one attempt.
type group struct {
	attempt  string
	held     int  // of them, those that are not released
	open     bool // more may come of it
	events   int  // that are on their way to the store
	recorded bool // it has more than parts of an image
}

func newCustody() *custody {
	return &custody{
		groups: map[string]*group{}, byMark: map[bpf.Mark]*group{},
		events: map[string]*group{}, told: map[string]struct{}{},
	}
}

// begin takes the records of a run of the programs into custody. The receipts are
// those of events that are stored.
func (c *custody) begin(r releaser, receipts []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ring, c.records, c.images = r, queue{max: maxCustody}, queue{max: maxImageCustody}
	c.groups, c.byMark = map[string]*group{}, map[bpf.Mark]*group{}
	for _, receipt := range receipts {
		c.remember(receipt)
	}
}

// underway are the receipts of events that are on their way to the store.
func (c *custody) underway() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.events))
}

// end releases nothing any more.
func (c *custody) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ring = nil
}

// receiptOf names the event that a record gives.
func receiptOf(m bpf.Mark) string { return fmt.Sprintf("%016x_%016x", m.Set, m.Position) }

// callReceipt names another one that the same record gives: the system call that
// has not returned.
func callReceipt(receipt string) string { return receipt + "c" }

// take notes a record that was read. The attempt is its load_id, "" where it has
// none.
func (c *custody) take(mark bpf.Mark, size int, attempt string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.hold(&c.records, mark, size, attempt, now)
	g.recorded = true
	c.byMark[mark] = g
	c.advance(now)
}

// takeImage notes a part of an attempt's image that was read.
func (c *custody) takeImage(mark bpf.Mark, size int, attempt string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold(&c.images, mark, size, attempt, now)
	c.advance(now)
}

// drained notes that the ring buffer of the records was seen empty: the parts of
// images of which it told nothing belong to attempts that are over.
func (c *custody) drained(now time.Time) {
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

func (c *custody) hold(q *queue, mark bpf.Mark, size int, attempt string, now time.Time) *group {
	g := c.groups[attempt]
	if g == nil {
		g = &group{attempt: attempt, open: attempt != ""}
		if g.open {
			c.groups[attempt] = g
		}
	}
	g.held++
	q.held = append(q.held, heldRecord{mark, size, now, g})
	q.size += size
	return g
}

// over notes that nothing more comes of an attempt's records so far.
func (c *custody) over(attempt string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g := c.groups[attempt]; g != nil {
		g.open = false
		delete(c.groups, attempt)
		c.advance(now)
	}
}

// claim takes an event of the record with a mark into custody, and reports
// whether it was not told before. It returns the position that the event is to
// carry.
func (c *custody) claim(receipt string) (position string, isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, stored := c.told[receipt]; stored {
		return "", false
	}
	g := c.byMark[markOf(receipt)]
	before, underway := c.events[receipt]
	if before != nil {
		before.events--
	}
	if g != nil {
		g.events++
	}
	c.events[receipt] = g
	if underway {
		return "", false
	}
	position, c.newest = c.newest, ""
	return position, true
}

// knows reports whether an event was told before.
func (c *custody) knows(receipt string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, stored := c.told[receipt]
	_, underway := c.events[receipt]
	return stored || underway
}

// stored notes that an event is safe, or given up by those who keep it.
func (c *custody) stored(receipt string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, underway := c.events[receipt]
	if !underway {
		return
	}
	delete(c.events, receipt)
	c.remember(receipt)
	if g != nil {
		g.events--
		c.advance(now)
	}
}

// remember notes that an event of a record is told. Of denied calls the kernel
// keeps what is: there is no end to them.
func (c *custody) remember(receipt string) {
	if !isOfDenied(receipt) {
		c.told[receipt] = struct{}{}
	}
}

// advance releases the records at the heads that nobody needs.
func (c *custody) advance(now time.Time) {
	c.records.advance(now, func(r heldRecord) {
		delete(c.byMark, r.mark)
		c.drop(r.group)
	})
	c.images.advance(now, func(r heldRecord) { c.drop(r.group) })
	if c.ring == nil {
		return
	}
	first := bpf.Mark{}
	if len(c.records.held) > 0 {
		first = c.records.held[0].mark
	}
	if !c.ring.Release(c.records.release, c.images.release, first) {
		return
	}
	if m := c.records.release; m != (bpf.Mark{}) {
		c.forget(m)
		c.newest = receiptOf(m)
	}
	c.records.release, c.images.release = bpf.Mark{}, bpf.Mark{}
}

// drop lets go of a group when its last record is released: of one whose other
// records were lost nobody says that it is over.
func (c *custody) drop(g *group) {
	if g.held--; g.held == 0 && c.groups[g.attempt] == g {
		delete(c.groups, g.attempt)
	}
}

// advance takes those out that nobody needs.
func (q *queue) advance(now time.Time, dropped func(heldRecord)) {
	for len(q.held) > 0 {
		head := q.held[0]
		isNeeded := head.group.events > 0 || head.group.open && now.Sub(head.at) < maxKept
		if isNeeded && q.size <= q.max {
			return
		}
		q.held[0] = heldRecord{}
		q.held = q.held[1:]
		q.size -= head.size
		q.release = head.mark
		dropped(head)
	}
}

// forget lets go of the receipts of records that nobody can read again.
func (c *custody) forget(released bpf.Mark) {
	if len(c.told) < maxTold {
		return
	}
	until := receiptOf(released)
	for receipt := range c.told {
		if receipt <= until {
			delete(c.told, receipt)
		}
	}
}

// maxTold is how many receipts are remembered before those of no use are looked
// for. The ring buffer has room for fewer records.
const maxTold = 1 << 16

// markOf is the mark of the record that a receipt is of, zero where it is of
// none.
func markOf(receipt string) (m bpf.Mark) {
	set, position, _ := strings.Cut(strings.TrimSuffix(receipt, "c"), "_")
	var err, other error
	m.Set, err = strconv.ParseUint(set, 16, 64)
	m.Position, other = strconv.ParseUint(position, 16, 64)
	if err != nil || other != nil {
		return bpf.Mark{}
	}
	return m
}
