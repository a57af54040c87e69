package collectors

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
)

// maxGone bounds the modules that are remembered though they went. More, and
// those that went long ago are forgotten.
const maxGone = 4096

// A moment is when an event happened. Within a boot the boot clock has the say,
// which nobody sets; it is known in seconds.
type moment struct {
	uptime *int64
	nanos  int64 // Unix time; 0 never
}

func momentOf(e *kmodquery.Event) moment { return moment{e.Uptime, e.TimeNanos} }

func (m moment) isAfter(other moment) bool {
	switch {
	case m.nanos == 0 || other.nanos == 0:
		return m.nanos != 0
	case m.uptime != nil && other.uptime != nil && *m.uptime != *other.uptime:
		return *m.uptime > *other.uptime
	}
	return m.nanos > other.nanos
}

// before is how long before a later one the moment was.
func (m moment) before(later moment) time.Duration {
	if m.uptime != nil && later.uptime != nil {
		return time.Duration(*later.uptime-*m.uptime) * time.Second
	}
	return time.Duration(later.nanos - m.nanos)
}

// A ledger is what the events of one boot say of which modules are loaded, those
// that wait to be stored among them. Its methods may be called concurrently.
type ledger struct {
	boot string // id of the boot; "" takes any

	mu      sync.Mutex
	entries map[string]*entry // by name
	gone    int
	partial bool // more of what is stored is to come, in no order: nothing is forgotten
}

// An entry is what the events say of the modules of one name. The moments are
// those of the events, which do not come in their order.
type entry struct {
	module kmodquery.Module
	came   moment
	went   moment
	hidden moment  // when it was last reported to hide
	sure   moment  // when it last came, by a source that would see it go
	told   moment  // of the event that LoadID, Path and FirstSeen are from
	by     witness // who told of that
}

// A witness is how far an event can be trusted to tell of a load.
type witness int

const (
	byView  witness = iota // it shows what is there
	byGuess                // a source that would not see it go
	bySight
)

func (e *entry) isLoaded() bool { return e.came.isAfter(e.went) }

// isCertain reports whether the module came by a source that would see it go.
func (e *entry) isCertain() bool { return e.sure.isAfter(e.went) }

// isReported reports whether the module was said to hide since it came.
func (e *entry) isReported() bool { return e.hidden.isAfter(e.came) }

func newLedger(boot string) *ledger { return &ledger{boot: boot, entries: map[string]*entry{}} }

// add takes events, before they are stored.
func (l *ledger) add(events ...kmodquery.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range events {
		l.note(&events[i])
	}
	if l.gone > maxGone && !l.partial {
		l.forgetGone()
	}
}

// recalling says whether recall is to come.
func (l *ledger) recalling(is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = is
}

// complete takes from events that were added what only storing them has told.
func (l *ledger) complete(events []kmodquery.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range events {
		e := &events[i]
		if at := l.entries[e.Name]; at != nil && at.module.FirstSeen == nil && at.module.LoadID == e.LoadID {
			at.module.FirstSeen = e.FirstSeen
		}
	}
}

// recall takes one of the events that an earlier recorder stored.
func (l *ledger) recall(e *kmodquery.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note(e)
}

func (l *ledger) note(e *kmodquery.Event) {
	if l.boot != "" && e.BootID != "" && e.BootID != l.boot {
		return // a log may reach back further
	}
	if e.Name == "" {
		return // the events of memory without a name say nothing of a module
	}
	switch e.EventName {
	case kmodquery.EventModuleLoad, kmodquery.EventModulePresent, kmodquery.EventModuleUnwitnessed:
		failed := e.Result != nil && *e.Result != 0
		if !failed {
			l.came(e, e.Source == kmodquery.SourceEBPF || isByViews(e))
		}
	case kmodquery.EventInitModule, kmodquery.EventFinitModule:
		// What only a system call's return says of a load comes from audit.
		if e.Source == kmodquery.SourceAudit && e.Result != nil && *e.Result == 0 {
			l.came(e, true)
		}
	case kmodquery.EventModuleFree:
		l.went(e)
	case kmodquery.EventDeleteModule:
		// That of eBPF has the moment of the return; its module_free says when.
		if e.Source != kmodquery.SourceEBPF && e.Result != nil && *e.Result == 0 {
			l.went(e)
		}
	case kmodquery.EventKextload, kmodquery.EventKextunload:
		// Endpoint Security tells of what was asked for, and not whether it worked.
		if e.Source == kmodquery.SourceEndpointSecurity || e.Result != nil && *e.Result != 0 {
			return
		}
		if e.EventName == kmodquery.EventKextload {
			l.came(e, true)
		} else {
			l.went(e)
		}
	case kmodquery.EventModuleHidden:
		at := l.of(e.Name)
		if momentOf(e).isAfter(at.hidden) {
			at.hidden = momentOf(e)
		}
	}
}

func (l *ledger) of(name string) *entry {
	at := l.entries[name]
	if at == nil {
		at = &entry{module: kmodquery.Module{Name: name, Views: []string{kmodquery.ViewEvents}}}
		l.entries[name] = at
		l.gone++
	}
	return at
}

func (l *ledger) came(e *kmodquery.Event, certain bool) {
	at, now := l.of(e.Name), momentOf(e)
	was := at.isLoaded()
	if now.isAfter(at.came) {
		at.came = now
	}
	if certain && now.isAfter(at.sure) {
		at.sure = now
	}
	if now.isAfter(at.went) {
		at.tell(e, now, witnessOf(e, certain))
	}
	if !was && at.isLoaded() {
		l.gone--
	}
}

// tell takes what an event says of the load that the module is from: the last one,
// by the best that told of it. What shows the module later adds to that.
func (at *entry) tell(e *kmodquery.Event, now moment, by witness) {
	m := &at.module
	isStale, isLater := !at.told.isAfter(at.went), now.isAfter(at.told)
	isSame := e.LoadID == m.LoadID
	switch {
	case isStale || isLater && !isSame && by >= at.by && by != byView: // another load
		at.told, at.by = now, by
		m.LoadID, m.Path, m.FirstSeen = e.LoadID, e.Path, e.FirstSeen
	case by > at.by:
		at.told, at.by = now, by
		m.LoadID, m.Path, m.FirstSeen = e.LoadID, cmp.Or(e.Path, m.Path), cmp.Or(e.FirstSeen, m.FirstSeen)
	case isSame || isLater && by == byView:
		m.Path, m.FirstSeen = cmp.Or(m.Path, e.Path), cmp.Or(m.FirstSeen, e.FirstSeen)
	}
}

func witnessOf(e *kmodquery.Event, certain bool) witness {
	switch {
	case isByViews(e):
		return byView
	case certain:
		return bySight
	}
	return byGuess
}

func (l *ledger) went(e *kmodquery.Event) {
	at := l.of(e.Name)
	was := at.isLoaded()
	if momentOf(e).isAfter(at.went) {
		at.went = momentOf(e)
	}
	if !at.told.isAfter(at.went) {
		at.module.LoadID, at.module.Path, at.module.FirstSeen = "", "", nil
	}
	if was && !at.isLoaded() {
		l.gone++
	}
}

func (l *ledger) forgetGone() {
	var went []int64
	for _, at := range l.entries {
		if !at.isLoaded() {
			went = append(went, at.went.nanos)
		}
	}
	slices.Sort(went)
	limit := went[len(went)/2]
	for name, at := range l.entries {
		if !at.isLoaded() && at.went.nanos <= limit {
			delete(l.entries, name)
			l.gone--
		}
	}
}

// get returns what the events say of a module.
func (l *ledger) get(name string) entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := l.entries[name]; at != nil {
		return *at
	}
	return entry{}
}

// certain returns the modules that came and did not go, by sources that would
// have seen it.
func (l *ledger) certain() map[string]entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := map[string]entry{}
	for name, at := range l.entries {
		if at.isLoaded() && at.isCertain() {
			list[name] = *at
		}
	}
	return list
}

// confirm notes that a module which a source believed to have come is there.
func (l *ledger) confirm(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := l.entries[name]; at != nil {
		at.sure = at.came
	}
}

// unlisted reports whether a module that is loaded by what the events say is not
// among these.
func (l *ledger) unlisted(shown map[string]bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, at := range l.entries {
		if at.isLoaded() && !at.isReported() && !shown[name] {
			return true
		}
	}
	return false
}

// dropUncertain takes those for gone that a source only believed to have come,
// before the views were looked at, and that none of them shows: the kernel
// refused them after all, or they went and nobody could see it.
func (l *ledger) dropUncertain(shown map[string]bool, seen moment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, at := range l.entries {
		if at.isLoaded() && !at.isCertain() && !shown[name] && seen.isAfter(at.came) {
			at.went = seen
			l.gone++
		}
	}
}
