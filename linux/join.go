//go:build linux

package linux

import (
	"container/list"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// patience is how long an event waits for what the same attempt is about
	// to make known, and how long init_module may take before it is written
	// without its result.
	patience = 2 * time.Second
	// maxAttempts bounds the attempts remembered at once. The oldest is
	// forgotten first; its events lack what it knew.
	maxAttempts = 4096
)

// A joiner gives every event of a load attempt what the attempt's other events
// made known: the name that the kernel learns after it read the file, the path
// that it no longer knows when the module goes live. It holds an event only
// until the name is known, the attempt is over or patience is at an end. Its
// methods must not be called concurrently.
type joiner struct {
	emit     func(kmodquery.Event)
	attempts map[string]*attempt
	order    *list.List // of *attempt, oldest first
}

// An attempt is what is known of one system call that has not returned.
type attempt struct {
	id      string
	due     time.Time
	expired bool              // due has passed and was acted upon
	known   kmodquery.Event   // facts of the attempt; only those fields that join copies
	held    []kmodquery.Event // waiting for the name
	element *list.Element
	// pending is the init_module event to write if the call does not return.
	pending *kmodquery.Event
	// reported says that pending was written.
	reported bool
}

func newJoiner(emit func(kmodquery.Event)) *joiner {
	return &joiner{emit: emit, attempts: map[string]*attempt{}, order: list.New()}
}

// add takes the next event of the source and emits what is complete.
func (j *joiner) add(e kmodquery.Event, now time.Time) {
	if e.LoadID == "" {
		j.emit(e)
		return
	}
	a := j.attempts[e.LoadID]
	if a == nil {
		a = j.begin(e.LoadID, now)
	}
	a.learn(e)
	switch e.EventName {
	case kmodquery.EventSecurityKernelReadFile, kmodquery.EventSecurityKernelLoadData:
		if e.EventName == kmodquery.EventSecurityKernelLoadData {
			call := e
			call.EventName = kmodquery.EventInitModule
			call.Missing = ""
			call.Miss("result")
			a.pending = &call
		}
		a.held = append(a.held, e)
	case kmodquery.EventInitModule, kmodquery.EventFinitModule, kmodquery.EventDeleteModule:
		if a.reported {
			e.EventName = kmodquery.EventSysExitInitModule
		}
		j.release(a)
		a.complete(&e)
		j.emit(e)
		j.forget(a)
	default:
		j.release(a)
		a.complete(&e)
		j.emit(e)
	}
}

// releaseAll emits every held event as it is.
func (j *joiner) releaseAll() {
	for element := j.order.Front(); element != nil; element = element.Next() {
		j.release(element.Value.(*attempt))
	}
}

// expire acts on the attempts whose patience ended before now.
func (j *joiner) expire(now time.Time) {
	for element := j.order.Front(); element != nil; element = element.Next() {
		a := element.Value.(*attempt)
		if a.due.After(now) {
			return
		}
		j.giveUp(a)
	}
}

// finish emits everything that still waits.
func (j *joiner) finish() {
	for element := j.order.Front(); element != nil; element = element.Next() {
		j.giveUp(element.Value.(*attempt))
	}
}

// giveUp emits what is known of an attempt that does not end, once.
func (j *joiner) giveUp(a *attempt) {
	if a.expired {
		return
	}
	a.expired = true
	j.release(a)
	if a.pending != nil {
		a.complete(a.pending)
		j.emit(*a.pending)
		a.pending, a.reported = nil, true
	}
}

// next is when expire has something to do, or zero.
func (j *joiner) next() time.Time {
	for element := j.order.Front(); element != nil; element = element.Next() {
		if a := element.Value.(*attempt); !a.expired {
			return a.due
		}
	}
	return time.Time{}
}

func (j *joiner) begin(id string, now time.Time) *attempt {
	if j.order.Len() >= maxAttempts {
		oldest := j.order.Front().Value.(*attempt)
		j.release(oldest)
		j.forget(oldest)
	}
	a := &attempt{id: id, due: now.Add(patience)}
	a.element = j.order.PushBack(a)
	j.attempts[id] = a
	return a
}

func (j *joiner) forget(a *attempt) {
	j.order.Remove(a.element)
	delete(j.attempts, a.id)
}

func (j *joiner) release(a *attempt) {
	for i := range a.held {
		a.complete(&a.held[i])
		j.emit(a.held[i])
	}
	a.held = nil
}
