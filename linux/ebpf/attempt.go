//go:build linux

package ebpf

import (
	"cmp"
	"container/list"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

const (
	// loadPatience is how long an attempt holds its events until its module is
	// live. None of the module's code runs before, but the kernel may wait for a
	// disk or for other loads.
	loadPatience = 10 * time.Second
	// initPatience is how long a module's init may run before its init_module is
	// emitted without a result.
	initPatience = time.Second
	// imagePatience is how much longer an attempt waits if only its image is not
	// read yet.
	imagePatience = 15 * time.Second
	// maxAttempts bounds the attempts. The oldest is forgotten first: its later
	// events lack the columns that the earlier ones had.
	maxAttempts = 4096
	// maxHeldEvents bounds the events that one attempt holds. Beyond it the attempt
	// is given up. A module's init can read any number of files.
	maxHeldEvents = 64
)

// An attemptID identifies an attempt within one boot of the host.
type attemptID struct {
	begin time.Duration // CLOCK_BOOTTIME when its system call began
	tid   uint32
}

// idOf returns the attempt that a record belongs to.
func idOf(r bpf.Record) attemptID { return attemptID{cmp.Or(r.Attempt, r.Context), r.Tid} }

// An attempt is one system call that loads or unloads a module: its process, its
// events, its image and its records in the ring buffers. A record outside of such a
// call is an attempt of its own, together with the records of its process.
//
// Each event of an attempt has the columns that any of them made known: the kernel
// learns the name after it has read the file, and no longer knows the path when the
// module is live. An attempt therefore holds its events until the module is live or
// the call has returned, and the image was read.
type attempt struct {
	id      attemptID
	loadID  string // load_id; empty before the first event, and outside of a call
	stage   stage
	element *list.Element // in the stage's list; nil if the attempt is forgotten
	begun   time.Time     // when its first event was read; before, its first record or chunk
	due     time.Time     // end of the stage

	process    process
	known      kmodquery.Event      // columns of the attempt: those that fill copies
	params     *bpf.Text            // parameters in the kernel's copy; nil before it was made
	held       []kmodquery.Delivery // events in their order
	hasEvent   bool                 // an event came
	isReported bool                 // an event came that stands for the attempt
	isTaken    bool                 // the kernel took a module, or asked whether it may
	isLive     bool                 // the module came to its init
	isReturned bool
	isVerified bool // the kernel verifies signatures, and the module is live

	// call is the init_module event to emit if the call does not return in time. It
	// is nil before the kernel took the module, and for other calls. After it was
	// emitted, the return is another event.
	call          *kmodquery.Delivery
	isCallEmitted bool

	file      *bpf.File   // last file that the kernel read
	parts     *imageParts // nil if no chunk came, or one is missing
	image     *imageInfo  // nil before the image was read
	isImaging bool        // the image is being read

	isOpen   bool // its records in the ring buffers are needed
	unstored int  // number of events that were emitted and are not stored
}

// A stage says what an attempt waits for.
type stage int

const (
	loading stage = iota // the module to be live
	running              // the module's init to return
	imaging              // only the image
	givenUp              // nothing: events are emitted at once
	stages
)

// attempts are the attempts of one run of the programs. Only the reader's goroutine
// calls the methods, except addChunk. The mutex of acks guards every field: the
// goroutines of images and acked use them too. Methods with no other comment
// expect that it is locked.
type attempts struct {
	acks *ackTracker
	emit func(kmodquery.Delivery)

	byID    map[attemptID]*attempt
	byStage [stages]list.List    // of *attempt, in the order of due
	out     []kmodquery.Delivery // events that update emits
	read    []*attempt           // attempts whose image was read since the last expire

	parts       list.List // of *attempt with parts, the oldest first
	imageMemory int       // bytes of parts and of images that are not read yet

	ring            releaser
	records, chunks ringQueue
}

// newAttempts starts a run. Its events are passed to emit, except those that acks
// knows from an earlier run or process.
func newAttempts(acks *ackTracker, ring releaser, emit func(kmodquery.Delivery)) *attempts {
	t := &attempts{
		acks: acks, emit: emit, ring: ring, byID: map[attemptID]*attempt{},
		records: ringQueue{max: maxUnreleased}, chunks: ringQueue{max: maxUnreleasedImages},
	}
	acks.mu.Lock()
	defer acks.mu.Unlock()
	acks.run = t
	return t
}

// update calls a function with the mutex locked. It then unlocks the mutex and emits
// the events that the function sent, because emit may wait for an ack.
func (t *attempts) update(change func()) {
	t.acks.mu.Lock()
	change()
	t.release()
	out := t.out
	t.out = nil
	t.acks.mu.Unlock()
	for _, d := range out {
		t.emit(d)
	}
}

// send passes an event to update, unless it was emitted before. The attempt may be
// nil.
func (t *attempts) send(a *attempt, d kmodquery.Delivery) {
	if d.Key != "" {
		position, isNew := t.acks.reserve(a, d.Key)
		if !isNew {
			return
		}
		d.Position = position
	}
	t.out = append(t.out, d)
}

// get returns the attempt with an id. It begins one if there is none.
func (t *attempts) get(id attemptID, now time.Time) *attempt {
	a := t.byID[id]
	if a == nil {
		a = &attempt{id: id, begun: now}
		t.byID[id] = a
		t.move(a, loading, now.Add(loadPatience))
	}
	return a
}

// move moves an attempt to another stage, or to the end of the same one.
func (t *attempts) move(a *attempt, to stage, due time.Time) {
	if a.element != nil {
		t.byStage[a.stage].Remove(a.element)
	}
	a.stage, a.element, a.due = to, t.byStage[to].PushBack(a), due
}

// first returns the first attempt of a stage, or nil.
func (t *attempts) first(s stage) *attempt {
	if e := t.byStage[s].Front(); e != nil {
		return e.Value.(*attempt)
	}
	return nil
}

// bound forgets the oldest attempts beyond maxAttempts, those that are given up
// first.
func (t *attempts) bound() {
	for len(t.byID) > maxAttempts {
		a := t.oldest()
		t.giveUp(a)
		t.forget(a)
	}
}

// oldest returns the oldest attempt, of those that are given up if there are any. An attempt
// that has just begun is loading, so that stage comes last.
func (t *attempts) oldest() *attempt {
	oldest := t.first(givenUp)
	if oldest != nil {
		return oldest
	}
	for _, s := range [...]stage{running, imaging, loading} {
		if a := t.first(s); a != nil && (oldest == nil || a.begun.Before(oldest.begun)) {
			oldest = a
		}
	}
	return oldest
}

// forget removes an attempt. It does nothing if the attempt was removed before.
func (t *attempts) forget(a *attempt) {
	if a.element == nil {
		return
	}
	t.byStage[a.stage].Remove(a.element)
	delete(t.byID, a.id)
	t.dropParts(a)
	*a = attempt{id: a.id, unstored: a.unstored}
}

// add adds the next event of a call.
func (t *attempts) add(a *attempt, d kmodquery.Delivery, now time.Time) {
	if !a.hasEvent {
		// A chunk of its image may have been read long before.
		a.hasEvent, a.begun = true, now
		t.move(a, loading, now.Add(loadPatience))
	}
	switch d.Event.EventName {
	case kmodquery.EventInitModule, kmodquery.EventFinitModule, kmodquery.EventDeleteModule:
		t.addReturn(a, d, now)
		return
	case kmodquery.EventSecurityKernelLoadData:
		call := d
		call.Event.EventName = kmodquery.EventInitModule
		call.Key = callKey(d.Event.LoadID)
		if t.acks.isKnown(call.Key) {
			a.isCallEmitted = true
		} else {
			a.call = &call
		}
		a.isTaken = true
	case kmodquery.EventSecurityKernelReadFile:
		a.isTaken = true
		if d.Event.Type == kmodquery.TypeKernelModule {
			a.report(&d.Event)
		}
	case kmodquery.EventModuleLoad:
		// It began before all hooks were attached, unless an earlier process has
		// emitted its call.
		if !a.isTaken && !t.acks.isKnown(callKey(d.Event.LoadID)) {
			a.report(&d.Event)
		}
		a.isTaken = true
		a.isLive = true
	}
	a.merge(&d.Event)
	a.held = append(a.held, d)
	switch {
	case a.stage == givenUp, len(a.held) >= maxHeldEvents:
		t.giveUp(a)
	case a.isLive && a.stage == loading:
		t.move(a, running, now.Add(initPatience))
	}
	t.sendIfReady(a, d.Event.EventName == kmodquery.EventModuleFree)
}

// report makes an event stand for the attempt, unless one came before.
func (a *attempt) report(e *kmodquery.Event) {
	e.ReportsLoad = new(int64(1))
	if a.isReported {
		*e.ReportsLoad = 0
	}
	a.isReported = true
}

// addReturn adds the event of a call's return.
func (t *attempts) addReturn(a *attempt, d kmodquery.Delivery, now time.Time) {
	e := &d.Event
	// The programs read name and parameters from the caller's memory, which may
	// have changed since the kernel read it.
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
	a.merge(e)
	switch {
	case a.isCallEmitted, e.EventName == kmodquery.EventInitModule && t.acks.isKnown(callKey(e.LoadID)):
		e.EventName = kmodquery.EventSysExitInitModule
	case e.EventName == kmodquery.EventInitModule:
		a.report(e)
	}
	a.isReturned, a.call, a.process = true, nil, process{}
	a.held = append(a.held, d)
	if a.isImaging && a.stage != imaging {
		t.move(a, imaging, now.Add(imagePatience))
	}
	t.sendIfReady(a, true)
}

// expectImage makes an attempt wait for its image.
func (t *attempts) expectImage(a *attempt) { a.isImaging = a.stage != givenUp }

// setImage sets the image of an attempt. The next expire sends the events that waited
// for it.
func (t *attempts) setImage(a *attempt, info imageInfo) {
	a.image = &info
	t.read = append(t.read, a)
}

// sendIfReady sends the held events if nothing more will be known about them, and
// forgets a call that has returned. isLast reports that no later record is about
// the module.
func (t *attempts) sendIfReady(a *attempt, isLast bool) {
	if a.isImaging || !a.isLive && !a.isReturned && !isLast {
		return
	}
	t.sendHeld(a)
	if a.isReturned {
		t.forget(a)
	}
}

// sendHeld sends the held events.
func (t *attempts) sendHeld(a *attempt) {
	for i := range a.held {
		a.complete(&a.held[i].Event)
		t.send(a, a.held[i])
	}
	a.held = nil
}

// giveUp sends the held events with what is known, and holds no more. It forgets an
// attempt whose events were lost.
func (t *attempts) giveUp(a *attempt) {
	a.isImaging = false
	if a.isReturned || !a.hasEvent {
		t.sendHeld(a)
		t.forget(a)
		return
	}
	t.move(a, givenUp, time.Time{})
	if !a.isNamed() {
		for i := range a.held {
			a.held[i].Event.Missing.Add("name")
		}
	}
	t.sendHeld(a)
	if a.call != nil {
		if !a.isNamed() {
			a.call.Event.Missing.Add("name")
		}
		a.call.Event.Missing.Add("result")
		a.report(&a.call.Event)
		a.complete(&a.call.Event)
		t.send(a, *a.call)
		a.call, a.isCallEmitted = nil, true
	}
	a.isOpen = false
}

// expire ends the wait for images that were read, and gives up the attempts whose stage
// has ended. The records that a loading or running attempt waits for may be in the ring
// buffer, so these stages end by read: the time of the last record that was read.
func (t *attempts) expire(read, now time.Time) {
	for _, a := range t.read {
		a.isImaging = false
		switch {
		case a.element == nil: // it was forgotten
		case a.stage == imaging && !a.isReturned:
			t.giveUp(a) // the stage before ended without what it waited for
		default:
			t.sendIfReady(a, false)
		}
	}
	t.read = nil
	for s, by := range [...]time.Time{loading: read, running: read, imaging: now} {
		for a := t.first(stage(s)); a != nil && !a.due.After(by); a = t.first(stage(s)) {
			if stage(s) != imaging && a.isImaging {
				t.move(a, imaging, now.Add(imagePatience))
				continue
			}
			t.giveUp(a)
		}
	}
}

// finish gives up every attempt that began by a time.
func (t *attempts) finish(by time.Time) {
	for s := range givenUp {
		var next *list.Element
		for e := t.byStage[s].Front(); e != nil; e = next {
			next = e.Next()
			if a := e.Value.(*attempt); !a.begun.After(by) {
				t.giveUp(a)
			}
		}
	}
}

// isWaitingForImages reports whether an attempt waits for its image. It locks the
// mutex.
func (t *attempts) isWaitingForImages() bool {
	t.acks.mu.Lock()
	defer t.acks.mu.Unlock()
	for _, a := range t.byID {
		if a.isImaging {
			return true
		}
	}
	return false
}

// isIdle reports whether no attempt holds events. It locks the mutex.
func (t *attempts) isIdle() bool { return t.next().IsZero() }

// next returns the end of the stage that ends first, or zero. It locks the mutex.
func (t *attempts) next() (next time.Time) {
	t.acks.mu.Lock()
	defer t.acks.mu.Unlock()
	for s := range givenUp {
		if a := t.first(s); a != nil && (next.IsZero() || a.due.Before(next)) {
			next = a.due
		}
	}
	return next
}
