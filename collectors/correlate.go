package collectors

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors/crossview"
)

const (
	// matchPatience is how long an event waits for a better source to tell of
	// the same attempt. Sync does not wait for it.
	matchPatience = 30 * time.Second
	// maxHeld bounds the events of one source that wait.
	maxHeld = 4096
	// maxKnown bounds the attempts that are remembered. The oldest leave
	// first.
	maxKnown = 16384
	// near is how far they lie apart where none of them rounds: what is nearer
	// than this need not wait for anything better.
	near = 250 * time.Millisecond
	// slack is how far the clocks of two sources may lie apart: audit's runs
	// in jiffies, and syslog's lines in seconds.
	slack = 2 * time.Second
	// kextSlack is how far what is said of one kernel extension may lie apart: it
	// is asked for, judged, linked and started, and each source sees another part.
	kextSlack = 10 * time.Second
)

// A kind is what an attempt attempts.
type kind int

const (
	neither kind = iota
	loading
	unloading
)

func kindOf(e *kmodquery.Event) kind {
	if e.LoadID == "" || e.IsCheap() {
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

// isKext reports whether an event is about a kernel extension, which has one name
// in all of macOS. Those that tell of it are different processes.
func isKext(e *kmodquery.Event) bool {
	switch e.EventName {
	case kmodquery.EventKextload, kmodquery.EventKextunload, kmodquery.EventKextAllowed, kmodquery.EventKextBlocked:
		return true
	}
	return false
}

// Attempts give all events of one attempt one load_id, whichever source saw
// them: that of the best source that did. An event of a lesser source waits
// until a better one has told of the attempt, or will not. The events of one
// source stay in their order. All methods may be called concurrently.
type attempts struct {
	next       func(kmodquery.Event) // takes what is ready, in its order; may block
	isBetterUp func(rank int) bool
	late       time.Duration // how late the views notice what happened
	boot       string        // id of the boot; "" where nothing says which

	mu     sync.Mutex
	known  map[string]*attempt // by load_id
	order  []*attempt
	byName map[string][]*attempt
	byPid  map[int64][]*attempt
	stored map[string]bool   // load_ids that an earlier recorder stored
	alias  map[string]string // a lesser source's load_id to the one that the attempt goes by
	held   map[int][]waiting // by rank

	counting sync.Mutex       // apart: next may block
	joined   map[string]int64 // events, by source
}

// An attempt is what the sources have told of one.
type attempt struct {
	id          string
	rank        int    // of the best source that told of it
	source      string // the first that did
	kind        kind
	name        string
	pid         int64             // 0 unknown
	first, last time.Time         // moments that were told of
	taken       map[string]string // by lesser source, the load_id under which that one told of it
}

type waiting struct {
	event kmodquery.Event
	past  bool
	until time.Time
}

func newAttempts(next func(kmodquery.Event), isBetterUp func(int) bool, late time.Duration, boot string) *attempts {
	return &attempts{
		next: next, isBetterUp: isBetterUp, late: late, boot: boot,
		known: map[string]*attempt{}, byName: map[string][]*attempt{}, byPid: map[int64][]*attempt{},
		stored: map[string]bool{}, alias: map[string]string{}, held: map[int][]waiting{}, joined: map[string]int64{},
	}
}

// add takes an event of the source of a rank. Past says that the source only
// recalls what may have been told before: what has been is left out.
func (a *attempts) add(rank int, e kmodquery.Event, past bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.held[rank]) >= maxHeld {
		a.release(rank, 1)
	}
	a.held[rank] = append(a.held[rank], waiting{event: e, past: past, until: time.Now().Add(matchPatience)})
	a.advance()
}

// needsStored reports whether what becomes of an event of the source of a rank
// depends on the stored ones that remember takes.
func needsStored(rank int, e *kmodquery.Event, past bool) bool {
	return past || kindOf(e) != neither && !isBest(rank, e)
}

// isBest reports whether no other source can have told of an event's attempt first:
// none is better, and the source knows the process.
func isBest(rank int, e *kmodquery.Event) bool { return rank == 0 && e.Pid != nil && !isKext(e) }

// remember notes the attempts that stored events tell of, given the newest first,
// and only the newest where there are too many. What was added already is newer.
func (a *attempts) remember(stored []ranked) {
	a.mu.Lock()
	defer a.mu.Unlock()
	added := a.order
	a.order = nil
	for _, r := range slices.Backward(stored) {
		a.learn(r.rank, &r.event)
		a.stored[r.event.LoadID] = true
	}
	a.order = append(a.order, added...)
	a.forgetOldest()
}

// A ranked event is one of the source of a rank.
type ranked struct {
	rank  int
	event kmodquery.Event
}

// expire releases what has waited long enough.
func (a *attempts) expire(now time.Time) {
	if !a.mu.TryLock() {
		return // who has it may wait for the sink, as this would
	}
	defer a.mu.Unlock()
	for rank, held := range a.held {
		n := 0
		for n < len(held) && !held[n].until.After(now) {
			n++
		}
		a.release(rank, n)
	}
	a.advance()
}

// flush releases what happened by a moment, as after a Sync of all sources that
// began then: nothing better will tell of it.
func (a *attempts) flush(by time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for rank, held := range a.held {
		n := len(held)
		for n > 0 && held[n-1].event.TimeNanos > by.UnixNano() {
			n--
		}
		a.release(rank, n)
	}
	a.advance()
}

// flushAll releases everything.
func (a *attempts) flushAll() { a.flush(time.Unix(0, math.MaxInt64)) }

// advance passes on the heads of the lines that need not wait, until all do.
func (a *attempts) advance() {
	for again := true; again; {
		again = false
		for rank := range a.held {
			for len(a.held[rank]) > 0 && a.mayPass(rank, &a.held[rank][0].event) {
				a.release(rank, 1)
				again = true
			}
		}
	}
}

func (a *attempts) mayPass(rank int, e *kmodquery.Event) bool {
	kind := kindOf(e)
	return kind == neither || a.alias[e.LoadID] != "" || a.known[e.LoadID] != nil ||
		!a.isBetterUp(rank) || a.match(rank, kind, e, near) != nil
}

// release passes on the first n events of a source.
func (a *attempts) release(rank, n int) {
	for range n {
		w := a.held[rank][0]
		a.held[rank] = a.held[rank][1:]
		a.pass(rank, w.event, w.past)
	}
	if len(a.held[rank]) == 0 {
		delete(a.held, rank)
	}
}

func (a *attempts) pass(rank int, e kmodquery.Event, past bool) {
	kind := kindOf(&e)
	if kind == neither {
		a.next(e)
		return
	}
	own := e.LoadID
	if past && (a.stored[own] || e.BootID != "" && a.boot != "" && e.BootID != a.boot) {
		return // it is stored, or what an earlier boot's sources have told of is not known
	}
	id := a.alias[own]
	if id == "" && a.known[own] == nil {
		if found := a.match(rank, kind, &e, slack); found != nil {
			found.taken[e.Source] = own
			id = found.id
			a.alias[own] = id
		}
	}
	if id != "" {
		e.LoadID = id
		a.counting.Lock()
		a.joined[e.Source]++
		a.counting.Unlock()
		if past {
			return
		}
	}
	a.learn(rank, &e)
	a.next(e)
}

// match finds the attempt that an event tells of and that another source told of
// first: the one nearest in time, and not farther than within, that no other
// attempt of the event's source was. Among sources that know processes only a
// better one comes first. Kernel extensions are matched by their names alone.
func (a *attempts) match(rank int, kind kind, e *kmodquery.Event, within time.Duration) *attempt {
	at := time.Unix(0, e.TimeNanos)
	isKext, before := isKext(e), within
	if isBest(rank, e) {
		return nil // a storm of one module is not searched for it
	}
	if isKext && within == slack {
		within = kextSlack
	}
	after := within
	candidates := a.byName[e.Name]
	if crossview.FromViews(e) && before == slack {
		after += a.late
	}
	if e.Name == "" {
		if e.Pid == nil || isKext {
			return nil
		}
		candidates = a.byPid[*e.Pid]
	} else if e.Pid != nil && !isKext {
		candidates = append(candidates[:len(candidates):len(candidates)], a.byPid[*e.Pid]...)
	}
	var best *attempt
	var nearest time.Duration
	var over time.Time // when the module last went, or came, before
	for _, c := range slices.Backward(candidates) {
		if c.kind != kind && c.kind != neither && !c.first.After(at) && c.first.After(over) {
			over = c.first
		}
	}
	for _, c := range slices.Backward(candidates) {
		taken := c.taken[e.Source]
		isAny := (isKext || c.pid == 0 && e.Pid == nil) && c.source != e.Source
		if c.rank >= rank && !isAny || c.kind != kind || taken != "" && taken != e.LoadID ||
			c.name != "" && e.Name != "" && c.name != e.Name ||
			c.pid != 0 && e.Pid != nil && c.pid != *e.Pid && !isKext ||
			at.Before(c.first.Add(-within)) || at.After(c.last.Add(after)) ||
			crossview.FromViews(e) && c.last.Before(over) {
			continue
		}
		distance := max(c.first.Sub(at), at.Sub(c.last), 0)
		if best == nil || distance < nearest {
			best, nearest = c, distance
		}
	}
	return best
}

// learn remembers what an event says of its attempt.
func (a *attempts) learn(rank int, e *kmodquery.Event) {
	kind := kindOf(e)
	if kind == neither {
		return
	}
	at := time.Unix(0, e.TimeNanos)
	known := a.known[e.LoadID]
	if known == nil {
		known = &attempt{id: e.LoadID, rank: rank, source: e.Source, kind: kind, first: at, last: at, taken: map[string]string{}}
		a.known[e.LoadID] = known
		a.order = append(a.order, known)
		a.forgetOldest()
	}
	known.rank = min(known.rank, rank)
	if at.Before(known.first) {
		known.first = at
	}
	if at.After(known.last) && rank == known.rank {
		known.last = at
	}
	if known.name == "" && e.Name != "" {
		known.name = e.Name
		a.byName[e.Name] = append(a.byName[e.Name], known)
	}
	if known.pid == 0 && e.Pid != nil {
		known.pid = *e.Pid
		a.byPid[*e.Pid] = append(a.byPid[*e.Pid], known)
	}
}

// forgetOldest forgets those that are too many.
func (a *attempts) forgetOldest() {
	for len(a.order) > maxKnown {
		a.forget(a.order[0])
		a.order = a.order[1:]
	}
}

func (a *attempts) forget(old *attempt) {
	delete(a.known, old.id)
	delete(a.stored, old.id)
	for _, own := range old.taken {
		delete(a.alias, own)
	}
	drop(a.byName, old.name, old)
	drop(a.byPid, old.pid, old)
}

func drop[K comparable](index map[K][]*attempt, key K, old *attempt) {
	list := index[key]
	switch at := slices.Index(list, old); {
	case at < 0:
		return
	case at == 0: // as nearly always: the oldest leave first
		list = list[1:]
	default:
		list = slices.Delete(list, at, at+1)
	}
	if len(list) == 0 {
		delete(index, key)
	} else {
		index[key] = list
	}
}

// joinedBy is how many events of a source were given another one's load_id.
func (a *attempts) joinedBy(source string) int64 {
	a.counting.Lock()
	defer a.counting.Unlock()
	return a.joined[source]
}
