package record

import (
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
)

const (
	// patience is how long the records of an event may take to come. The
	// kernel makes them in one go.
	patience = 2 * time.Second
	// maxOpen bounds the events whose records are still coming. Beyond it the
	// oldest is taken for complete.
	maxOpen = 128
	// maxRepeated bounds the records of one type in an event. A module's init
	// that makes a folder in debugfs leaves a PATH for each of its files.
	maxRepeated = 8
)

// An Event is one module system call.
type Event struct {
	ID         ID
	Call       string
	Records    []Record // the SYSCALL first
	isComplete bool     // the last of its records came
	Start      Place    // where its first record stands
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

// A Place is where in a log a record begins, for whoever reads one.
type Place struct {
	File   int   // counts the files that were read
	Offset int64 // in bytes
}

// An Assembler puts the records of module system calls together and hands the
// events on in the order in which they began. All other records it ignores. Its
// methods must not be called concurrently.
type Assembler struct {
	emit  func(Event)
	open  map[ID]*openEvent
	queue []*openEvent // in the order in which they began
}

type openEvent struct {
	Event
	due time.Time
}

// NewAssembler returns an assembler that hands events to emit.
func NewAssembler(emit func(Event)) *Assembler {
	return &Assembler{emit: emit, open: map[ID]*openEvent{}}
}

// Add takes the next record. An event begins with its SYSCALL record: the kernel
// writes that first.
func (a *Assembler) Add(r Record, place Place, now time.Time) {
	e := a.open[r.ID]
	if e == nil {
		call := r.Call()
		if call == "" {
			return
		}
		e = &openEvent{Event: Event{ID: r.ID, Call: call, Start: place}, due: now.Add(patience)}
		a.open[r.ID] = e
		a.queue = append(a.queue, e)
		if len(a.queue) > maxOpen {
			a.pop()
		}
	} else if r.Type == auparse.AUDIT_SYSCALL {
		return // there is one already
	}
	switch {
	case r.Type == auparse.AUDIT_EOE:
		e.isComplete = true
	case r.Type == auparse.AUDIT_PROCTITLE:
		// The last before EOE, which the audit daemon does not log.
		e.isComplete = true
		e.add(r)
	case isOfModuleCall(r.Type):
		e.add(r)
	}
	a.release()
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

// release hands on the events that are complete and have none before them.
func (a *Assembler) release() {
	for len(a.queue) > 0 && a.queue[0].isComplete {
		a.pop()
	}
}

func (a *Assembler) pop() {
	e := a.queue[0]
	a.queue[0] = nil
	a.queue = a.queue[1:]
	delete(a.open, e.ID)
	a.emit(e.Event)
}

// Expire hands on what has waited too long by now.
func (a *Assembler) Expire(now time.Time) {
	for len(a.queue) > 0 && (a.queue[0].isComplete || !a.queue[0].due.After(now)) {
		a.pop()
	}
}

// Flush hands on everything that there is.
func (a *Assembler) Flush() {
	for len(a.queue) > 0 {
		a.pop()
	}
}

// Oldest is where the oldest event that was not handed on begins, and when it
// will be at the latest. It is not ok where there is none.
func (a *Assembler) Oldest() (start Place, due time.Time, ok bool) {
	if len(a.queue) == 0 {
		return Place{}, time.Time{}, false
	}
	return a.queue[0].Start, a.queue[0].due, true
}
