package collectors

import (
	"slices"
	"strings"
	"sync"

	"github.com/kmodquery/kmodquery"
)

// maxGone bounds the modules that are remembered though they went. More, and
// those that went long ago are forgotten.
const maxGone = 4096

// A ledger is what the stored events say of which modules are loaded. Its
// methods may be called concurrently.
type ledger struct {
	mu      sync.Mutex
	entries map[string]*entry // by name
	gone    int
}

// An entry is what the events say of the modules of one name. The moments are
// those of the events, which are not stored in their order.
type entry struct {
	module  kmodquery.Module
	came    int64 // Unix time in nanoseconds; 0 never
	went    int64
	certain bool  // that it came, by a source that would see it go
	hidden  int64 // when it was last reported to hide
}

func (e *entry) isLoaded() bool { return e.came > e.went }

// isReported reports whether the module was said to hide since it came.
func (e *entry) isReported() bool { return e.hidden > e.came }

func newLedger() *ledger { return &ledger{entries: map[string]*entry{}} }

// add takes events that are stored.
func (l *ledger) add(events []kmodquery.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range events {
		l.note(&events[i])
	}
	if l.gone > maxGone {
		l.forgetGone()
	}
}

func (l *ledger) note(e *kmodquery.Event) {
	if e.Name == "" {
		return // the events of memory without a name say nothing of a module
	}
	switch e.EventName {
	case kmodquery.EventModuleLoad, kmodquery.EventModulePresent, kmodquery.EventModuleUnwitnessed:
		failed := e.Result != nil && *e.Result != 0
		if !failed {
			l.came(e, e.Source == kmodquery.SourceEBPF || e.Source == kmodquery.SourceProcfs)
		}
	case kmodquery.EventInitModule, kmodquery.EventFinitModule:
		// What only a system call's return says of a load comes from audit.
		if e.Source == kmodquery.SourceAudit && e.Result != nil && *e.Result == 0 {
			l.came(e, true)
		}
	case kmodquery.EventModuleFree:
		l.went(e)
	case kmodquery.EventDeleteModule:
		if e.Result != nil && *e.Result == 0 {
			l.went(e)
		}
	case kmodquery.EventModuleHidden:
		at := l.of(e.Name)
		at.hidden = max(at.hidden, e.TimeNanos)
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
	at := l.of(e.Name)
	was := at.isLoaded()
	if e.TimeNanos > at.came {
		if !was {
			at.certain = false
			at.module.LoadID, at.module.Path, at.module.FirstSeen = "", "", nil
		}
		at.came = e.TimeNanos
	}
	if e.TimeNanos > at.went {
		at.certain = at.certain || certain
		if at.module.LoadID == "" || certain && e.Source != kmodquery.SourceProcfs {
			at.module.LoadID = e.LoadID
		}
		if at.module.Path == "" {
			at.module.Path = e.Path
		}
		if at.module.FirstSeen == nil {
			at.module.FirstSeen = e.FirstSeen
		}
	}
	if !was && at.isLoaded() {
		l.gone--
	}
}

func (l *ledger) went(e *kmodquery.Event) {
	at := l.of(e.Name)
	was := at.isLoaded()
	at.went = max(at.went, e.TimeNanos)
	if was && !at.isLoaded() {
		l.gone++
	}
}

func (l *ledger) forgetGone() {
	var went []int64
	for _, at := range l.entries {
		if !at.isLoaded() {
			went = append(went, at.went)
		}
	}
	slices.Sort(went)
	limit := went[len(went)/2]
	for name, at := range l.entries {
		if !at.isLoaded() && at.went <= limit {
			delete(l.entries, name)
			l.gone--
		}
	}
}

// loaded returns the modules that came and did not go, by sources that would
// have seen it, in the order of their names.
func (l *ledger) loaded() []kmodquery.Module {
	var modules []kmodquery.Module
	for _, at := range l.certain() {
		modules = append(modules, at.module)
	}
	slices.SortFunc(modules, func(a, b kmodquery.Module) int { return strings.Compare(a.Name, b.Name) })
	return modules
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
		if at.isLoaded() && at.certain {
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
		at.certain = true
	}
}
