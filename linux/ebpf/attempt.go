//go:build linux

package ebpf

import (
	"slices"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

const (
	// loadPatience is how long an attempt may take to come to a live module
	// before what is known of it is written. None of the module's code runs
	// until then, but the kernel may wait for a disk or for other loads.
	loadPatience = 10 * time.Second
	// initPatience is how long the module's init may run before its
	// init_module is written without the result.
	initPatience = time.Second
	// imagePatience is how much longer the image may take to be read, when
	// nothing else is waited for, before the events are written without it.
	imagePatience = 15 * time.Second
	// maxAttempts bounds the attempts remembered at once. The oldest is
	// forgotten first; its later events lack what it knew.
	maxAttempts = 4096
	// maxHeldEvents bounds the events of one attempt that are held. Beyond it
	// nothing of the attempt is held back any more: an init that reads firmware
	// without end has no more to tell.
	maxHeldEvents = 64
)

// attempts gives every event of a load attempt what the attempt's other events
// and its image made known: the name that the kernel learns after it read the
// file, the path that it no longer knows when the module goes live, the hash of
// what it read, the parameters in its own copy. It holds the events until the
// module is live or the attempt is over, and the image was read, or patience is
// at an end. Its methods must not be called concurrently.
type attempts struct {
	emit    func(kmodquery.Delivery)
	isKnown func(key string) bool // by this process or an earlier one
	over    func(id string)       // nothing is to come of an attempt's records so far
	byID    map[string]*attempt
	// Every attempt is in one of these lines. Those in the last hold nothing
	// back.
	loading, running, imaging, stuck line
}

// An attempt is what is known of one system call.
type attempt struct {
	id      string
	line    *line
	begun   time.Time
	due     time.Time            // end of patience
	givenUp bool                 // nothing is held back any more
	known   kmodquery.Event      // facts of the attempt; only those fields that fill copies
	held    []kmodquery.Delivery // in their order
	taken   bool                 // the kernel took, or would take, a module
	live    bool                 // the module came to its init
	over    bool                 // the call has returned
	// call is the init_module event to write if the call does not return in
	// time; nil before the kernel took the module, and for other calls.
	call *kmodquery.Delivery
	// called says that it was written, so that its return is another event.
	called bool

	params    *bpf.Text  // as the kernel took them; nil until it did
	image     *imageInfo // nil until it was read
	isImaging bool       // it is being read
}

// A line is attempts in the order in which they joined it, and with it of
// their due times. One that left, for another line or for good, is dropped
// when it comes to the head, or when there are too many of them.
type line []*attempt

func newAttempts(emit func(kmodquery.Delivery), isKnown func(string) bool, over func(string)) *attempts {
	return &attempts{emit: emit, isKnown: isKnown, over: over, byID: map[string]*attempt{}}
}

// add takes the next event of the source and emits what is complete.
func (j *attempts) add(d kmodquery.Delivery, now time.Time) {
	e := &d.Event
	if e.LoadID == "" {
		j.emit(d)
		return
	}
	a := j.byID[e.LoadID]
	if a == nil {
		a = j.begin(e.LoadID, now)
	}
	switch e.EventName {
	case kmodquery.EventInitModule, kmodquery.EventFinitModule, kmodquery.EventDeleteModule:
		j.end(a, d, now)
		return
	case kmodquery.EventSecurityKernelLoadData:
		call := d
		call.Event.EventName = kmodquery.EventInitModule
		call.Key = callKey(d.Key)
		a.call = &call
		if j.isKnown(call.Key) {
			a.call, a.called = nil, true
		}
		a.taken = true
	case kmodquery.EventSecurityKernelReadFile:
		a.taken = true
	case kmodquery.EventModuleLoad:
		a.taken = true
		a.live = true
	}
	a.learn(e)
	a.held = append(a.held, d)
	switch {
	case a.givenUp, len(a.held) >= maxHeldEvents:
		j.giveUp(a)
	case a.live && a.line == &j.loading:
		j.join(&j.running, a, now.Add(initPatience))
	}
	j.releaseIfReady(a, e.EventName == kmodquery.EventModuleFree)
}

// end takes the return of an attempt's call.
func (j *attempts) end(a *attempt, d kmodquery.Delivery, now time.Time) {
	e := &d.Event
	// Name and parameters were read from the caller's memory, which may have
	// changed since the kernel did; what the kernel said comes first.
	if a.known.Name != "" {
		e.Name = a.known.Name
		e.Missing.Remove("name")
	}
	if a.known.Params != nil {
		if e.Params == nil {
			e.Missing.Remove("params")
		}
		e.Params = a.known.Params
	}
	a.learn(e)
	if a.called {
		e.EventName = kmodquery.EventSysExitInitModule
	}
	a.over, a.call = true, nil
	a.held = append(a.held, d)
	if a.isImaging && a.line != &j.imaging {
		j.join(&j.imaging, a, now.Add(imagePatience))
	}
	j.releaseIfReady(a, true)
}

// addParams takes the parameters of an attempt, as the kernel took them.
func (j *attempts) addParams(id string, taken bpf.Text, now time.Time) {
	a := j.byID[id]
	if a == nil {
		a = j.begin(id, now)
	}
	a.params = &taken
}

// expectImage notes that the image of an attempt is being read.
func (j *attempts) expectImage(id string) {
	if a := j.byID[id]; a != nil && !a.givenUp {
		a.isImaging = true
	}
}

// addImage takes the image of an attempt.
func (j *attempts) addImage(id string, found imageInfo) {
	a := j.byID[id]
	if a == nil {
		return
	}
	a.image, a.isImaging = &found, false
	if a.line == &j.imaging && !a.over {
		j.giveUp(a) // patience was at an end with everything else
		return
	}
	j.releaseIfReady(a, false)
}

// releaseIfReady emits what is held once everything is known that will be, and
// forgets an attempt that is over. isLast says that nothing about the module
// follows the last event.
func (j *attempts) releaseIfReady(a *attempt, isLast bool) {
	if a.isImaging || !a.live && !a.over && !isLast {
		return
	}
	j.release(a)
	if a.over {
		j.forget(a)
	}
}

// isWaitingForImages reports whether an attempt is held back because its image
// is being read.
func (j *attempts) isWaitingForImages() bool {
	for _, a := range j.byID {
		if a.isImaging {
			return true
		}
	}
	return false
}

// idle reports whether nothing is held back.
func (j *attempts) idle() bool {
	return j.head(&j.loading) == nil && j.head(&j.running) == nil && j.head(&j.imaging) == nil
}

// next is when patience ends for the first attempt, or zero.
func (j *attempts) next() time.Time {
	var next time.Time
	for _, l := range []*line{&j.loading, &j.running, &j.imaging} {
		if a := j.head(l); a != nil && (next.IsZero() || a.due.Before(next)) {
			next = a.due
		}
	}
	return next
}

// expire gives up the attempts whose patience ended before now. What they wait for
// may have happened and wait in the ring: patience with that ends by the time until
// which the records were read.
func (j *attempts) expire(read, now time.Time) {
	for _, l := range []*line{&j.loading, &j.running, &j.imaging} {
		by := read
		if l == &j.imaging {
			by = now
		}
		for a := j.head(l); a != nil && !a.due.After(by); a = j.head(l) {
			if l != &j.imaging && a.isImaging {
				j.join(&j.imaging, a, now.Add(imagePatience))
				continue
			}
			j.giveUp(a)
		}
	}
}

// finish gives up every attempt that had begun by a time.
func (j *attempts) finish(by time.Time) {
	for _, l := range []*line{&j.loading, &j.running, &j.imaging} {
		for _, a := range slices.Clone(*l) {
			if j.isIn(l, a) && !a.begun.After(by) {
				j.giveUp(a)
			}
		}
	}
}

// giveUp emits what is known of an attempt, without what is still to come.
func (j *attempts) giveUp(a *attempt) {
	if !a.givenUp {
		a.givenUp = true
		j.join(&j.stuck, a, time.Time{})
	}
	a.isImaging = false
	if a.over {
		j.release(a)
		j.forget(a)
		return
	}
	for i := range a.held {
		if !a.isNamed() {
			a.held[i].Event.Missing.Add("name")
		}
	}
	j.release(a)
	if a.call != nil && !a.called {
		if !a.isNamed() {
			a.call.Event.Missing.Add("name")
		}
		a.call.Event.Missing.Add("result")
		a.complete(&a.call.Event)
		j.emit(*a.call)
		a.called = true
	}
	a.call = nil
	j.over(a.id)
}

func (j *attempts) begin(id string, now time.Time) *attempt {
	if len(j.byID) >= maxAttempts {
		j.forgetOldest()
	}
	a := &attempt{id: id, begun: now}
	j.byID[id] = a
	j.join(&j.loading, a, now.Add(loadPatience))
	return a
}

// forgetOldest makes room, among the attempts that hold nothing back first.
func (j *attempts) forgetOldest() {
	for _, l := range []*line{&j.stuck, &j.loading, &j.running, &j.imaging} {
		if a := j.head(l); a != nil {
			j.giveUp(a)
			j.forget(a)
			return
		}
	}
}

func (j *attempts) forget(a *attempt) {
	delete(j.byID, a.id)
	j.over(a.id)
}

// join puts an attempt at the end of a line, out of the one that it is in.
func (j *attempts) join(l *line, a *attempt, due time.Time) {
	a.line, a.due = l, due
	if *l = append(*l, a); len(*l) > 2*maxAttempts {
		*l = slices.DeleteFunc(*l, func(a *attempt) bool { return !j.isIn(l, a) })
	}
}

func (j *attempts) isIn(l *line, a *attempt) bool { return a.line == l && j.byID[a.id] == a }

// head is the first attempt of a line, or nil.
func (j *attempts) head(l *line) *attempt {
	for len(*l) > 0 {
		a := (*l)[0]
		if j.isIn(l, a) {
			return a
		}
		*l = (*l)[1:]
	}
	*l = nil
	return nil
}

// release emits the events that are held.
func (j *attempts) release(a *attempt) {
	for i := range a.held {
		a.complete(&a.held[i].Event)
		j.emit(a.held[i])
	}
	a.held = nil
}
