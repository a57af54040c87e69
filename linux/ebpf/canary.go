//go:build linux

package ebpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/host"
)

const (
	// canaryPause is the pause before the second call of a series. Each call doubles it, up to
	// maxCanaryPause.
	canaryPause    = time.Second
	maxCanaryPause = 10 * time.Minute
	// canaryTries is the number of calls that the hooks must miss until that is reported: the
	// kernel may skip a program for one of them. During a flood of denied calls, which may use up what
	// the kernel keeps for returns that are hooked, it is floodTries, over a quarter of an hour.
	canaryTries = 3
	floodTries  = 11
	// canaryFlood is the number of denied calls during a series that make a flood. The kernel
	// keeps at least ten returns.
	canaryFlood = 16
	// canaryRest is the least time between two series that filtered records or changes by
	// other processes cause, and the time until the next series while hooks miss canaries.
	canaryRest = time.Hour
)

// errNoCanary is what is wrong with hooks that recorded none of the canaries.
var errNoCanary = errors.New("the hooks did not record a load that the recorder attempted itself, without the right to load (a canary), so code in the kernel keeps them from running or filters what they record")

// A canary tests the hooks of a run by series of calls of init_module(2) that the kernel must deny: their
// entries and returns run the hooks, whose record must arrive. A series ends with the first record,
// with enough calls that were missed, or when it turns out that nothing can be tested.
// A call says nothing if the hooks had cause not to record it, and is made again later.
// The zero value tests nothing.
type canary struct {
	programs testable
	call     func(value uint64) error
	doubt    func(error) // attaches the hooks again

	isOpen   bool        // a series is under way
	due      time.Time   // of the next call; zero if none is
	awaited  *bpf.Canary // the call whose record is awaited; nil if none is
	calls    int         // of the series
	misses   int         // of them
	before   uint64      // UserCalls when the series began
	causedAt time.Time   // when the last series with a cause began
}

// testable are the programs as a canary uses them (bpf.Programs).
type testable interface {
	Canary(value uint64, call func(value uint64) error) (bpf.Canary, error)
	HasRead(bpf.Canary) bool
	UserCalls() uint64
}

// begin begins a series, unless one is under way.
func (c *canary) begin(now time.Time) {
	if c.programs == nil || c.isOpen {
		return
	}
	c.isOpen, c.due, c.calls, c.misses = true, now, 0, 0
}

// cause begins a series that has a cause, unless another has begun shortly before.
func (c *canary) cause(now time.Time) {
	if c.programs == nil || c.isOpen || !c.causedAt.IsZero() && now.Sub(c.causedAt) < canaryRest {
		return
	}
	c.causedAt = now
	c.begin(now)
}

// isDue reports whether a call is due.
func (c *canary) isDue(now time.Time) bool { return !c.due.IsZero() && !now.Before(c.due) }

// again plans the next call of the series.
func (c *canary) again(now time.Time) {
	c.due = now.Add(min(canaryPause<<min(c.calls-1, 16), maxCanaryPause))
}

// end ends the series.
func (c *canary) end() { c.isOpen, c.due, c.awaited = false, time.Time{}, nil }

// isMissed reports whether the hooks have missed enough calls.
func (c *canary) isMissed() bool {
	isFlood := c.programs.UserCalls() > c.before+canaryFlood
	return c.misses >= floodTries || c.misses >= canaryTries && !isFlood
}

// vouches reports whether nothing speaks against the hooks: the first call of a series has been
// judged, and none was missed.
func (c *canary) vouches() bool { return !c.isOpen || c.awaited == nil && c.calls > 0 && c.misses == 0 }

// canaryDue returns when testHooks makes the next canary; zero while it makes none: while hooks
// are attached, others would count it as denied, and hooks that do not run need no test.
func (r *run) canaryDue() time.Time {
	if r.arming.done != nil || r.source.isBlind {
		return time.Time{}
	}
	return r.canary.due
}

// testHooks makes the next canary if it is due, and judges it when all records were read that
// were made before it returned.
func (r *run) testHooks(now time.Time) {
	c := &r.canary
	if !r.canaryDue().IsZero() && c.isDue(now) {
		r.makeCanary(now)
	}
	if made := c.awaited; made != nil && c.programs.HasRead(*made) {
		c.awaited = nil
		if made.IsCrowded {
			r.postpone(now, errors.New("the ring buffer was nearly full"))
			return
		}
		r.missed(now, errNoCanary)
	}
}

// makeCanary makes the next call.
func (r *run) makeCanary(now time.Time) {
	c := &r.canary
	c.begin(now) // unless it goes on
	if c.due = (time.Time{}); c.calls == 0 {
		r.source.storeCanary()
		c.before = c.programs.UserCalls()
	}
	c.calls++
	made, err := c.programs.Canary(host.NextCanary(), c.call)
	var answer answerError
	switch {
	case err == nil:
		c.awaited = &made
	case errors.As(err, &answer):
		r.missed(now, err)
	case errors.Is(err, errNoReturn):
		r.postpone(now, err)
	default:
		c.end()
		r.source.notTested(err)
	}
}

// postpone makes a call again later that says nothing about the hooks.
func (r *run) postpone(now time.Time, why error) {
	r.source.notTested(why)
	r.canary.again(now)
}

// missed decides what follows from a canary that was not recorded, or to which the kernel gave
// another answer than the one that it must give. What a check of the hooks finds explains it.
func (r *run) missed(now time.Time, wrong error) {
	c, s := &r.canary, r.source
	r.hooks.last = time.Time{}
	if err := r.checkHooks(); err != nil && !errors.Is(err, bpf.ErrUnpinned) || s.isBlind {
		c.again(now)
		return
	}
	if c.misses++; !c.isMissed() {
		c.again(now)
		return
	}
	c.end()
	c.due = now.Add(canaryRest)
	if s.missed == nil || s.missed.Error() != wrong.Error() {
		r.reader.tampered(wrong.Error())
	}
	s.missed, s.untested = wrong, nil
	s.show(r.shown, s.note)
	if errors.Is(wrong, errNoCanary) && !errors.Is(s.cure, errNoCanary) { // once: others would be no better
		c.doubt(wrong)
	}
}

// takeCanary notes the record of a canary.
func (r *run) takeCanary(record *bpf.Record, position bpf.Position) {
	c, s := &r.canary, r.source
	if c.awaited == nil || !c.awaited.IsOf(record, position) {
		return
	}
	c.end()
	wasMissed, wasUntested := s.missed, s.untested
	s.missed, s.untested, s.cure = nil, nil, nil
	switch {
	case wasMissed != nil:
		if !s.isBlind {
			s.noteGap(false)
		}
		s.show(r.shown, fmt.Errorf("a canary was recorded again at %s: %w", nowText(), wasMissed))
		s.ready()
	case wasUntested != nil:
		s.show(r.shown, s.note)
	}
	r.vouch()
}

// isCanary reports whether a record is that of a canary, also of an earlier process.
func isCanary(record *bpf.Record) bool { return record.Call != nil && record.Call.Canary != 0 }

// notTested notes why the hooks are not tested.
func (s *Source) notTested(why error) {
	s.untested = fmt.Errorf("the hooks were not tested: %w", why)
	s.health.AddReason(s.untested.Error())
}

// maxCanaries bounds the canaries that are remembered, one of each process.
const maxCanaries = 64

// storeCanary stores what identifies the canaries of this process before the first is made.
func (s *Source) storeCanary() {
	if s.options.Canaries == nil || s.options.KeepCanaries == nil || s.isCanaryStored {
		return
	}
	all := append(s.options.Canaries(), host.Canary())
	s.options.KeepCanaries(all[max(0, len(all)-maxCanaries):])
	s.isCanaryStored = true
}
