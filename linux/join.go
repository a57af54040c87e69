//go:build linux

package linux

import (
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// patience is how long an attempt may take before what is known of it is
	// written.
	patience = time.Second
	// maxAttempts bounds the attempts remembered at once. The oldest is
	// forgotten first; its later events lack what it knew.
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
	// The same attempts, oldest first: those that may hold something back, and
	// those that were given up and are only remembered for what they knew.
	waiting, stuck []*attempt
}

// An attempt is what is known of one system call that has not returned.
type attempt struct {
	id      string
	due     time.Time         // end of patience
	givenUp bool              // nothing is held back any more
	known   kmodquery.Event   // facts of the attempt; only those fields that fill copies
	held    []kmodquery.Event // waiting for the name
	// call is the init_module event to write if the call does not return in
	// time; nil before the kernel took the module, and for other calls.
	call *kmodquery.Event
	// called says that it was written, so that its return is another event.
	called bool
}

func newJoiner(emit func(kmodquery.Event)) *joiner {
	return &joiner{emit: emit, attempts: map[string]*attempt{}}
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
	switch e.EventName {
	case kmodquery.EventInitModule, kmodquery.EventFinitModule, kmodquery.EventDeleteModule:
		// Name and parameters were read from the caller's memory, which may
		// have changed since the kernel did; what the kernel said comes first.
		if a.known.Name != "" {
			e.Name = a.known.Name
		}
		if a.known.Params != nil {
			e.Params = a.known.Params
		}
		a.learn(e)
		j.release(a)
		if a.called {
			e.EventName = kmodquery.EventSysExitInitModule
		}
		a.complete(&e)
		j.emit(e)
		j.forget(a)
		return
	case kmodquery.EventSecurityKernelLoadData:
		call := e
		call.EventName = kmodquery.EventInitModule
		a.call = &call
		a.held = append(a.held, e)
	case kmodquery.EventSecurityKernelReadFile:
		a.held = append(a.held, e)
	}
	a.learn(e)
	if e.EventName == kmodquery.EventModuleLoad || e.EventName == kmodquery.EventModuleFree {
		j.release(a)
		a.complete(&e)
		j.emit(e)
	}
	if a.givenUp {
		j.giveUp(a)
	}
}

// idle reports whether nothing is held back.
func (j *joiner) idle() bool {
	j.trim()
	return len(j.waiting) == 0
}

// next is when patience ends for the oldest attempt, or zero.
func (j *joiner) next() time.Time {
	if j.idle() {
		return time.Time{}
	}
	return j.waiting[0].due
}

// expire gives up the attempts whose patience ended before now.
func (j *joiner) expire(now time.Time) {
	for !j.idle() && !j.waiting[0].due.After(now) {
		j.giveUp(j.waiting[0])
		j.stuck = append(j.stuck, j.waiting[0])
		j.waiting = j.waiting[1:]
	}
}

// finish gives up every attempt.
func (j *joiner) finish() {
	for _, a := range j.waiting {
		if j.attempts[a.id] == a {
			j.giveUp(a)
			j.stuck = append(j.stuck, a)
		}
	}
	j.waiting = nil
}

// giveUp emits what is known of an attempt that has not ended.
func (j *joiner) giveUp(a *attempt) {
	a.givenUp = true
	for i := range a.held {
		if a.known.Name == "" {
			a.held[i].Miss("name")
		}
	}
	j.release(a)
	if a.call != nil && !a.called {
		a.complete(a.call)
		if a.call.Name == "" {
			a.call.Miss("name")
		}
		a.call.Miss("result")
		j.emit(*a.call)
		a.called = true
	}
	a.call = nil
}

func (j *joiner) begin(id string, now time.Time) *attempt {
	if len(j.attempts) >= maxAttempts {
		j.forgetOldest()
	}
	a := &attempt{id: id, due: now.Add(patience)}
	j.waiting = append(j.waiting, a)
	j.attempts[id] = a
	return a
}

// forgetOldest makes room, among the attempts that hold nothing back first.
func (j *joiner) forgetOldest() {
	if j.trim(); len(j.stuck) == 0 {
		j.giveUp(j.waiting[0])
		j.forget(j.waiting[0])
		return
	}
	j.forget(j.stuck[0])
}

// forget drops an attempt; its place in the lists goes with the next trim.
func (j *joiner) forget(a *attempt) { delete(j.attempts, a.id) }

// trim drops what was forgotten from the head of both lists.
func (j *joiner) trim() {
	j.waiting = j.remembered(j.waiting)
	j.stuck = j.remembered(j.stuck)
}

func (j *joiner) remembered(list []*attempt) []*attempt {
	for len(list) > 0 && j.attempts[list[0].id] != list[0] {
		list = list[1:]
	}
	return list
}

// release emits the events that waited for the name.
func (j *joiner) release(a *attempt) {
	for i := range a.held {
		a.complete(&a.held[i])
		j.emit(a.held[i])
	}
	a.held = nil
}
