//go:build linux

package linux

import (
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// loadPatience is how long an attempt may take to come to a live module
	// before what is known of it is written. None of the module's code runs
	// until then, but the kernel may wait for a disk or for other loads.
	loadPatience = 10 * time.Second
	// initPatience is how long the module's init may run before its
	// init_module is written without the result.
	initPatience = time.Second
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
	// Every attempt is in one of these lines. Those in the first two may hold
	// something back.
	loading, running, stuck line
}

// An attempt is what is known of one system call that has not returned.
type attempt struct {
	id      string
	line    *line
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

// A line is attempts in the order in which they joined it, and with it of
// their due times. One that left, for another line or for good, is dropped
// when it comes to the head.
type line []*attempt

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
			e.Found("name")
		}
		if a.known.Params != nil {
			e.Params = a.known.Params
			e.Found("params")
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
	switch {
	case a.givenUp:
		j.giveUp(a)
	case e.EventName == kmodquery.EventModuleLoad:
		j.join(&j.running, a, now.Add(initPatience))
	}
}

// idle reports whether nothing is held back.
func (j *joiner) idle() bool {
	return j.head(&j.loading) == nil && j.head(&j.running) == nil
}

// next is when patience ends for the first attempt, or zero.
func (j *joiner) next() time.Time {
	loading, running := j.head(&j.loading), j.head(&j.running)
	switch {
	case loading == nil && running == nil:
		return time.Time{}
	case running == nil || loading != nil && loading.due.Before(running.due):
		return loading.due
	default:
		return running.due
	}
}

// expire gives up the attempts whose patience ended before now.
func (j *joiner) expire(now time.Time) {
	for _, l := range []*line{&j.loading, &j.running} {
		for a := j.head(l); a != nil && !a.due.After(now); a = j.head(l) {
			j.giveUp(a)
		}
	}
}

// finish gives up every attempt.
func (j *joiner) finish() {
	for _, l := range []*line{&j.loading, &j.running} {
		for a := j.head(l); a != nil; a = j.head(l) {
			j.giveUp(a)
		}
	}
}

// giveUp emits what is known of an attempt that has not ended.
func (j *joiner) giveUp(a *attempt) {
	if !a.givenUp {
		a.givenUp = true
		j.join(&j.stuck, a, time.Time{})
	}
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
	a := &attempt{id: id}
	j.attempts[id] = a
	j.join(&j.loading, a, now.Add(loadPatience))
	return a
}

// forgetOldest makes room, among the attempts that hold nothing back first.
func (j *joiner) forgetOldest() {
	for _, l := range []*line{&j.stuck, &j.loading, &j.running} {
		if a := j.head(l); a != nil {
			j.giveUp(a)
			j.forget(a)
			return
		}
	}
}

func (j *joiner) forget(a *attempt) { delete(j.attempts, a.id) }

// join puts an attempt at the end of a line, out of the one that it is in.
func (j *joiner) join(l *line, a *attempt, due time.Time) {
	a.line, a.due = l, due
	*l = append(*l, a)
}

// head is the first attempt of a line, or nil.
func (j *joiner) head(l *line) *attempt {
	for len(*l) > 0 {
		a := (*l)[0]
		if a.line == l && j.attempts[a.id] == a {
			return a
		}
		*l = (*l)[1:]
	}
	*l = nil
	return nil
}

// release emits the events that waited for the name.
func (j *joiner) release(a *attempt) {
	for i := range a.held {
		a.complete(&a.held[i])
		j.emit(a.held[i])
	}
	a.held = nil
}
