package collectors

import (
	"slices"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
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
	// slack is how far the clocks of two sources may lie apart: audit's runs
	// in jiffies, and syslog's lines in seconds.
	slack = 2 * time.Second
	// loadingTime bounds how far attempts may stand out of the order of time:
	// those of one source come when they are over.
	loadingTime = time.Minute
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
		kmodquery.EventSecurityKernelReadFile, kmodquery.EventSecurityKernelLoadData, kmodquery.EventModuleLoad:
		return loading
	case kmodquery.EventDeleteModule, kmodquery.EventModuleFree:
		return unloading
	}
	return neither
}

// Attempts give all events of one attempt one load_id, whichever source saw
// them: that of the best source that did. An event of a lesser source waits
// until a better one has told of the attempt, or will not. The events of one
// source stay in their order. All methods may be called concurrently.
type attempts struct {
	next       func(kmodquery.Event) // takes what is ready, in its order; may block
	isBetterUp func(rank int) bool
	late       time.Duration // how late the views notice what happened

	mu     sync.Mutex
	known  map[string]*attempt // by load_id
	order  []*attempt
	byName map[string][]*attempt
	byPid  map[int64][]*attempt
	alias  map[string]string // a lesser source's load_id to the one that the attempt goes by
	held   map[int][]waiting // by rank
	joined map[string]int64  // events, by source
}

// An attempt is what the sources have told of one.
type attempt struct {
	id          string
	rank        int // of the best source that told of it
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

func newAttempts(next func(kmodquery.Event), isBetterUp func(int) bool, late time.Duration) *attempts {
	return &attempts{
		next: next, isBetterUp: isBetterUp, late: late,
		known: map[string]*attempt{}, byName: map[string][]*attempt{}, byPid: map[int64][]*attempt{},
		alias: map[string]string{}, held: map[int][]waiting{}, joined: map[string]int64{},
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

// remember notes an attempt that an event from the store tells of, while there is
// room: the newest come first.
func (a *attempts) remember(rank int, e *kmodquery.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.order) < maxKnown {
		a.learn(rank, e)
	}
}

// expire releases what has waited long enough.
func (a *attempts) expire(now time.Time) {
	a.mu.Lock()
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

// flush releases everything, as after a Sync of all sources, when nothing
// better will come.
func (a *attempts) flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for rank := range a.held {
		a.release(rank, len(a.held[rank]))
	}
}

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
		!a.isBetterUp(rank) || a.match(rank, kind, e) != nil
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
	id := a.alias[own]
	if id == "" && a.known[own] == nil {
		if found := a.match(rank, kind, &e); found != nil {
			found.taken[e.Source] = own
			id = found.id
			a.alias[own] = id
		}
	}
	if id != "" {
		e.LoadID = id
		a.joined[e.Source]++
		if past {
			return
		}
	}
	a.learn(rank, &e)
	a.next(e)
}

// match finds the attempt of a better source that an event tells of: the one
// nearest in time that no other attempt of the event's source was.
func (a *attempts) match(rank int, kind kind, e *kmodquery.Event) *attempt {
	at := time.Unix(0, e.TimeNanos)
	before := slack
	candidates := a.byName[e.Name]
	if e.Source == kmodquery.SourceProcfs {
		before += a.late
	}
	if e.Name == "" {
		if e.Pid == nil {
			return nil
		}
		candidates = a.byPid[*e.Pid]
	} else if e.Pid != nil {
		candidates = append(candidates[:len(candidates):len(candidates)], a.byPid[*e.Pid]...)
	}
	var best *attempt
	var nearest time.Duration
	for _, c := range slices.Backward(candidates) {
		if c.last.Add(before + loadingTime).Before(at) {
			break // they stand nearly in the order of time
		}
		taken := c.taken[e.Source]
		if c.rank >= rank || c.kind != kind || taken != "" && taken != e.LoadID ||
			c.name != "" && e.Name != "" && c.name != e.Name ||
			c.pid != 0 && e.Pid != nil && c.pid != *e.Pid ||
			at.Before(c.first.Add(-slack)) || at.After(c.last.Add(before)) {
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
		known = &attempt{id: e.LoadID, rank: rank, kind: kind, first: at, last: at, taken: map[string]string{}}
		a.known[e.LoadID] = known
		if a.order = append(a.order, known); len(a.order) > maxKnown {
			a.forget(a.order[0])
			a.order = a.order[1:]
		}
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

func (a *attempts) forget(old *attempt) {
	delete(a.known, old.id)
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
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.joined[source]
}
