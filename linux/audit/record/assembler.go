package record

import (
	"slices"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
)

const (
	// patience is how long the assembler waits for an event's records. The kernel
	// writes them at once.
	patience = 2 * time.Second
	// maxOpen bounds the incomplete events. Beyond it the oldest is emitted.
	maxOpen = 128
	// maxRepeated bounds the records of one type in an event. A module's init that
	// creates files in debugfs gives a PATH for each.
	maxRepeated = 8
	// maxEarly bounds the records that are kept until the SYSCALL of their event. Beyond
	// it the oldest is dropped, and its event lacks the path of a denied load.
	maxEarly = 64
)

// An Event is one module system call.
type Event struct {
	ID         ID
	Call       string
	Records    []Record // the SYSCALL first
	isComplete bool     // its last record was added
	Start      int64    // of its first record, as passed to Add
}

// First returns the event's first record of a type.
func (e *Event) First(kind auparse.AuditMessageType) (Record, bool) {
	for _, r := range e.Records {
		if r.Type == kind {
			return r, true
		}
	}
	return Record{}, false
}

// An Assembler assembles the records of module system calls to events, and emits these
// in the order in which they began. It ignores all other records. Its methods must not
// be called concurrently.
type Assembler struct {
	emit  func(Event)
	open  map[ID]*openEvent
	queue []*openEvent // in the order in which they began
	early []Record     // with the paths of denied loads, oldest first
}

type openEvent struct {
	Event
	due time.Time
}

// NewAssembler returns an assembler that calls emit for each event.
func NewAssembler(emit func(Event)) *Assembler {
	return &Assembler{emit: emit, open: map[ID]*openEvent{}}
}

// Add adds the next record. An event begins with its SYSCALL record, whose start becomes
// the event's. Only the records of a denial come before it: the kernel writes them during
// the call, and the others at its end.
func (a *Assembler) Add(r Record, start int64, now time.Time) {
	e := a.open[r.ID]
	if e == nil {
		call := r.Call()
		if call == "" {
			a.keep(r)
			return
		}
		e = &openEvent{Event: Event{ID: r.ID, Call: call, Start: start}, due: now.Add(patience)}
		a.open[r.ID] = e
		a.queue = append(a.queue, e)
		if len(a.queue) > maxOpen {
			a.pop()
		}
	} else if r.Type == auparse.AUDIT_SYSCALL {
		return // there is one already
	}
	// PROCTITLE is the last before EOE, which the audit daemon does not log.
	isEnd := r.Type == auparse.AUDIT_EOE
	e.isComplete = e.isComplete || isEnd || r.Type == auparse.AUDIT_PROCTITLE
	if IsOfModuleCall(r.Type) && !isEnd {
		e.add(r)
	}
	if r.Type == auparse.AUDIT_SYSCALL {
		for _, early := range a.early {
			if early.ID == r.ID {
				e.add(early)
			}
		}
	}
	for len(a.queue) > 0 && a.queue[0].isComplete {
		a.pop()
	}
}

// keep keeps a record that comes before its event's SYSCALL, if it has a module's path.
func (a *Assembler) keep(r Record) {
	if r.ModulePath() == "" || r.Type == auparse.AUDIT_PATH {
		return
	}
	if len(a.early) >= maxEarly {
		a.early = slices.Delete(a.early, 0, 1)
	}
	a.early = append(a.early, r)
}

func (e *openEvent) add(r Record) {
	same := 0
	for _, other := range e.Records {
		if other.Type == r.Type {
			same++
		}
	}
	if same < maxRepeated {
		e.Records = append(e.Records, r)
	}
}

func (a *Assembler) pop() {
	e := a.queue[0]
	a.queue[0] = nil
	a.queue = a.queue[1:]
	delete(a.open, e.ID)
	a.emit(e.Event)
}

// Expire emits the events that are incomplete for too long.
func (a *Assembler) Expire(now time.Time) {
	for len(a.queue) > 0 && (a.queue[0].isComplete || !a.queue[0].due.After(now)) {
		a.pop()
	}
}

// Flush emits all events, complete or not.
func (a *Assembler) Flush() {
	for len(a.queue) > 0 {
		a.pop()
	}
}

// Due returns when Expire emits the oldest incomplete event, or the zero time if there is
// none.
func (a *Assembler) Due() time.Time {
	if len(a.queue) == 0 {
		return time.Time{}
	}
	return a.queue[0].due
}
