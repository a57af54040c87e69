package collectors

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors/crossview"
)

const (
	// matchPatience is how long an event waits for a better source to report the
	// same attempt. Sync does not wait for it.
	matchPatience = 30 * time.Second
	// maxHeld bounds the waiting events of one source.
	maxHeld = 4096
	// maxKnown bounds the remembered attempts. The oldest are forgotten first.
	maxKnown = 16384
	// near is how far apart two sources report the same moment if neither rounds.
	// An event that matches an attempt this closely does not wait.
	near = 250 * time.Millisecond
	// slack is how far apart two sources may report the same moment: audit's clock
	// counts jiffies, and lines of syslog have whole seconds.
	slack = 2 * time.Second
	// kextSlack replaces slack for kernel extensions: a load is requested, allowed,
	// linked and started, and each source sees another part of that.
	kextSlack = 10 * time.Second
)

// A kind says what an attempt tries to do.
type kind int

const (
	neither kind = iota
	loading
	unloading
)

func kindOf(e *kmodquery.Event) kind {
	if e.LoadID == "" || e.IsUnprivileged() && !isKext(e) {
		return neither
	}
	switch e.EventName {
	case kmodquery.EventInitModule, kmodquery.EventFinitModule, kmodquery.EventSysExitInitModule,
		kmodquery.EventSecurityKernelReadFile, kmodquery.EventSecurityKernelLoadData, kmodquery.EventModuleLoad,
		kmodquery.EventKextload, kmodquery.EventKextAllowed, kmodquery.EventKextBlocked:
		return loading
	case kmodquery.EventDeleteModule, kmodquery.EventModuleFree, kmodquery.EventKextunload:
		return unloading
	}
	return neither
}

// isKext reports whether an event is about a kernel extension. A kernel extension
// has one name in all of macOS, and its sources name different processes.
func isKext(e *kmodquery.Event) bool {
	return slices.Contains([]string{
		kmodquery.EventKextload, kmodquery.EventKextunload, kmodquery.EventKextAllowed, kmodquery.EventKextBlocked,
	}, e.EventName)
}

// A correlator gives all events of one attempt one load_id, and lets one of them report the
// load: both from the best source that reports the attempt. An event of a lesser source
// waits until a better source has reported the attempt, or will not. If a better source
// reports it later all the same, its events get the load_id that is stored. The events of
// one source keep their order. All methods may be called concurrently.
type correlator struct {
	emit       func(kmodquery.Delivery) // takes the events in order; may block
	isBetterUp func(rank int) bool
	late       time.Duration // how late the views notice an event
	boot       string        // id of the boot; "" if it is unknown

	mu     sync.Mutex
	known  map[string]*attempt // by load_id, and by the load_ids of lesser sources
	order  []*attempt
	byName map[string][]*attempt
	byPid  map[int64][]*attempt
	held   map[int][]waiting // by rank
	lesser time.Time         // of the last attempt that another than the best source reported first

	counting sync.Mutex       // guards joined; apart from mu because emit may block
	joined   map[string]int64 // events, by source
}

// An attempt is what the sources have reported of one.
type attempt struct {
	id          string
	rank        int    // of the best source that reported it
	source      string // the first that reported it
	reported    bool   // an event reports the load
	kind        kind
	name        string
	pid         int64     // 0 unknown
	first, last time.Time // moments that were reported
	stored      bool      // by an earlier recorder
	failed      bool
	succeeded   bool
	isLate      bool              // its first event was
	byViews     bool              // its first event was of the views
	taken       map[string]string // by lesser source, the load_id under which it reported the attempt
}

type waiting struct {
	kmodquery.Delivery
	past  bool
	until time.Time
}

func newCorrelator(emit func(kmodquery.Delivery), isBetterUp func(int) bool, late time.Duration, boot string) *correlator {
	return &correlator{
		emit: emit, isBetterUp: isBetterUp, late: late, boot: boot,
		known: map[string]*attempt{}, byName: map[string][]*attempt{}, byPid: map[int64][]*attempt{},
		held: map[int][]waiting{}, joined: map[string]int64{},
	}
}

// add takes an event of the source of a rank. past is set if the source backfills:
// events that were emitted before are left out.
func (c *correlator) add(rank int, d kmodquery.Delivery, past bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.held[rank]) >= maxHeld {
		c.release(rank, 1)
	}
	c.held[rank] = append(c.held[rank], waiting{Delivery: d, past: past, until: time.Now().Add(matchPatience)})
	c.advance()
}

// needsStored reports whether the stored events that remember takes may change what
// happens to an event.
func needsStored(rank int, e *kmodquery.Event, past bool) bool {
	// Of a module_load, an earlier recorder may have stored the event that reports the load.
	isLate := e.EventName == kmodquery.EventModuleLoad && e.IsLoadReport()
	return past || kindOf(e) != neither && (isLate || !isBest(rank, e))
}

// isBest reports whether no other source can have reported an event's attempt first:
// none is better, and the source knows the process.
func isBest(rank int, e *kmodquery.Event) bool { return rank == 0 && e.Pid != nil && !isKext(e) }

// remember takes the attempts of stored events, given the newest first. It keeps the
// newest maxKnown. Attempts that were added before it count as newer.
func (c *correlator) remember(stored []ranked) {
	c.mu.Lock()
	defer c.mu.Unlock()
	added := c.order
	c.order = nil
	for _, r := range slices.Backward(stored) {
		known := c.learn(r.rank, &r.event)
		known.stored = true
		known.reported = known.reported || r.event.IsLoadReport()
	}
	c.order = append(c.order, added...)
	c.forgetOldest()
}

// A ranked event has the rank of its source.
type ranked struct {
	rank  int
	event kmodquery.Event
}

// expire releases the events that have waited for matchPatience.
func (c *correlator) expire(now time.Time) {
	if !c.mu.TryLock() {
		return // the holder may be blocked in emit
	}
	defer c.mu.Unlock()
	for _, rank := range c.ranks() {
		held, n := c.held[rank], 0
		for n < len(held) && !held[n].until.After(now) {
			n++
		}
		c.release(rank, n)
	}
	c.advance()
}

// flush releases the events up to a moment. It is called after a Sync of all sources
// that began at that moment: no better source will report those attempts.
func (c *correlator) flush(by time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rank := range c.ranks() {
		held := c.held[rank]
		n := len(held)
		for n > 0 && held[n-1].Event.TimeNanos > by.UnixNano() {
			n--
		}
		c.release(rank, n)
	}
	c.advance()
}

// flushAll releases all events.
func (c *correlator) flushAll() { c.flush(endOfTime) }

// ranks returns the ranks of the sources that have waiting events, the best first.
func (c *correlator) ranks() []int { return slices.Sorted(maps.Keys(c.held)) }

// advance emits the oldest event of each source as long as it need not wait.
func (c *correlator) advance() {
	for again := true; again; {
		again = false
		for _, rank := range c.ranks() {
			for len(c.held[rank]) > 0 && c.mayEmit(rank, &c.held[rank][0].Event) {
				c.release(rank, 1)
				again = true
			}
		}
	}
}

func (c *correlator) mayEmit(rank int, e *kmodquery.Event) bool {
	kind := kindOf(e)
	if kind == neither || !c.isBetterUp(rank) {
		return true
	}
	known := c.known[e.LoadID]
	if known == nil {
		return c.match(rank, kind, e, near) != nil
	}
	return known.rank < rank || known.reported || !e.IsLoadReport()
}

// release emits the first n events of a source.
func (c *correlator) release(rank, n int) {
	for range n {
		w := c.held[rank][0]
		c.held[rank] = c.held[rank][1:]
		c.finish(rank, w.Delivery, w.past)
	}
	if len(c.held[rank]) == 0 {
		delete(c.held, rank)
	}
}

func (c *correlator) finish(rank int, d kmodquery.Delivery, past bool) {
	e := &d.Event
	kind := kindOf(e)
	if parent := c.known[e.ParentLoadID]; parent != nil {
		e.ParentLoadID = parent.id
	}
	if kind == neither {
		if e.IsLoadReport() {
			e.ReportsLoad = new(int64(1))
		}
		c.emit(d)
		return
	}
	found := c.known[e.LoadID]
	isStored := found != nil && found.stored && found.id == e.LoadID
	if past && (isStored || e.BootID != "" && c.boot != "" && e.BootID != c.boot) {
		return // nothing is known of what was stored in another boot
	}
	if found == nil {
		if found = c.match(rank, kind, e, slack); found != nil {
			found.taken[e.Source] = e.LoadID
			c.known[e.LoadID] = found
		}
	}
	if found != nil && found.id != e.LoadID {
		e.LoadID = found.id
		c.counting.Lock()
		c.joined[e.Source]++
		c.counting.Unlock()
		if past {
			return
		}
	}
	c.report(c.learn(rank, e), e)
	c.emit(d)
}

// report decides whether an event reports the load of its attempt.
func (c *correlator) report(known *attempt, e *kmodquery.Event) {
	switch {
	case known.kind != loading:
	case e.IsLoadReport() && !known.reported:
		known.reported = true
		e.ReportsLoad = new(int64(1))
	default:
		e.ReportsLoad = new(int64(0))
	}
}

// match returns the attempt of an event if another source reported it first: the one
// nearest in time, no farther away than within, that is not another attempt of the
// event's source and had no other outcome. Kernel extensions are matched by name alone. Of
// some refused loads the kernel's log has neither name nor process; they are matched by
// their failure.
func (c *correlator) match(rank int, kind kind, e *kmodquery.Event, within time.Duration) *attempt {
	at, isKext := time.Unix(0, e.TimeNanos), isKext(e)
	reach := slack
	if isLate(e) {
		reach = matchPatience
	}
	if isBest(rank, e) && at.After(c.lesser.Add(reach)) {
		return nil // no search through a storm of one module
	}
	if isKext && within == slack {
		within = kextSlack
	}
	candidates := c.byName[e.Name]
	isNameless := e.Name == "" && (e.Pid == nil || isKext)
	if isNameless && (isKext || !isFailure(e)) {
		return nil
	}
	if isNameless {
		candidates = c.order
	} else if e.Name == "" {
		candidates = c.byPid[*e.Pid]
	} else if e.Pid != nil && !isKext {
		candidates = append(candidates[:len(candidates):len(candidates)], c.byPid[*e.Pid]...)
	}
	var best *attempt
	var nearest time.Duration
	var over, until time.Time // when the module was last unloaded, or loaded, before, and next
	for _, known := range slices.Backward(candidates) {
		switch {
		case known.kind == kind || known.failed || known.name != e.Name:
		case known.first.After(at) && (until.IsZero() || known.first.Before(until)):
			until = known.first
		case !known.first.After(at) && known.first.After(over):
			over = known.first
		}
	}
	for _, known := range slices.Backward(candidates) {
		taken := known.taken[e.Source]
		knowPid := known.pid != 0 && e.Pid != nil && !isKext
		before, after := within, within
		switch {
		case known.rank > rank && knowPid:
			before, after = near, near // both have the time of the call
			if isLate(e) && known.failed == isFailure(e) {
				after = reach
			}
		case known.isLate && known.rank < rank && knowPid && known.failed == isFailure(e):
			before = matchPatience
		case knowPid && known.name != "" && known.name == e.Name && known.succeeded && e.Result != nil && *e.Result == 0:
			// The better source has the time of the call, the lesser one that of its
			// return. A module must be unloaded before it can be loaded again.
			after = matchPatience
		case crossview.FromViews(e) && within > near:
			after += c.late
		case known.byViews && within > near && !isKext && (until.IsZero() || known.first.Before(until)):
			before = matchPatience // the views are first read when the sources watch
		}
		if known.source == e.Source || known.kind != kind || taken != "" && taken != e.LoadID ||
			isNameless && !known.failed ||
			!isKext && (known.failed && hasSucceeded(e) || known.succeeded && isFailure(e)) ||
			known.name != "" && e.Name != "" && known.name != e.Name ||
			knowPid && known.pid != *e.Pid ||
			at.Before(known.first.Add(-before)) || at.After(known.last.Add(after)) ||
			(crossview.FromViews(e) || knowPid) && known.last.Before(over) {
			continue
		}
		distance := max(known.first.Sub(at), at.Sub(known.last), 0)
		if best == nil || distance < nearest {
			best, nearest = known, distance
		}
	}
	return best
}

// isFailure reports whether an event says that the attempt failed, with a known result
// or without. eBPF lacks the result of a call that has not returned, and Endpoint Security
// always.
func isFailure(e *kmodquery.Event) bool {
	return e.Result != nil && *e.Result < 0 || e.Missing.Has("result") && e.Source != kmodquery.SourceEBPF && !isKext(e)
}

// hasSucceeded reports whether an event says that the attempt succeeded. A module_load of
// another source than the views comes before the module's init, which may fail.
func hasSucceeded(e *kmodquery.Event) bool {
	return e.Result != nil && *e.Result == 0 || crossview.FromViews(e)
}

// isLate reports whether an event is the first that eBPF's hooks saw of an attempt, in the
// midst of its call. They saw no file or buffer, so its time may be long after the beginning.
func isLate(e *kmodquery.Event) bool {
	return e.Source == kmodquery.SourceEBPF && (e.Missing.Has("path") || e.Missing.Has("sha256")) && slices.Contains([]string{
		kmodquery.EventModuleLoad, kmodquery.EventInitModule, kmodquery.EventFinitModule,
	}, e.EventName)
}

// learn takes what an event says of its attempt, and returns the attempt.
func (c *correlator) learn(rank int, e *kmodquery.Event) *attempt {
	at := time.Unix(0, e.TimeNanos)
	known := c.known[e.LoadID]
	if known == nil {
		known = &attempt{
			id: e.LoadID, rank: rank, source: e.Source, kind: kindOf(e),
			first: at, last: at, taken: map[string]string{}, isLate: isLate(e), byViews: crossview.FromViews(e),
		}
		c.known[e.LoadID] = known
		c.order = append(c.order, known)
		c.forgetOldest()
		if rank > 0 && at.After(c.lesser) {
			c.lesser = at
		}
	}
	known.rank = min(known.rank, rank)
	known.failed, known.succeeded = known.failed || isFailure(e), known.succeeded || hasSucceeded(e)
	if at.Before(known.first) {
		known.first = at
	}
	if at.After(known.last) && rank == known.rank {
		known.last = at
	}
	if known.name == "" && e.Name != "" {
		known.name = e.Name
		c.byName[e.Name] = append(c.byName[e.Name], known)
	}
	if known.pid == 0 && e.Pid != nil {
		known.pid = *e.Pid
		c.byPid[*e.Pid] = append(c.byPid[*e.Pid], known)
	}
	return known
}

// forgetOldest keeps the newest maxKnown attempts.
func (c *correlator) forgetOldest() {
	for len(c.order) > maxKnown {
		c.forget(c.order[0])
		c.order = c.order[1:]
	}
}

func (c *correlator) forget(old *attempt) {
	delete(c.known, old.id)
	for _, own := range old.taken {
		delete(c.known, own)
	}
	removeFrom(c.byName, old.name, old)
	removeFrom(c.byPid, old.pid, old)
}

func removeFrom[K comparable](index map[K][]*attempt, key K, old *attempt) {
	list := index[key]
	if at := slices.Index(list, old); at >= 0 { // nearly always 0: the oldest are forgotten first
		list = slices.Delete(list, at, at+1)
	}
	index[key] = list
	if len(list) == 0 {
		delete(index, key)
	}
}

// joinedBy returns how many events of a source were given the load_id of another.
func (c *correlator) joinedBy(source string) int64 {
	c.counting.Lock()
	defer c.counting.Unlock()
	return c.joined[source]
}
