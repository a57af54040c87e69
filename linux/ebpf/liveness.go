//go:build linux

package ebpf

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/kmodquery/kmodquery/bpf"
)

const (
	// checkEvery is the interval between two checks of the hooks.
	checkEvery = 10 * time.Second
	// checkGap is the shortest interval, for when a Sync waits, or records are missing, which
	// a process that is killed cannot report.
	checkGap = time.Second
)

// A liveness checks periodically that the hooks are still attached: the kernel does
// not notify anyone when it stops running them.
type liveness struct {
	check    func() error
	isUrgent func() bool // whether records are missing; may be nil
	last     time.Time
}

// failure checks the hooks if the last check was long enough ago, and returns what
// is wrong with them. isAsked reports that a Sync waits for their records, which
// shortens the interval.
func (c *liveness) failure(now time.Time, isAsked bool) error {
	if now.Sub(c.last) < checkGap || now.Before(c.due()) && !isAsked {
		return nil
	}
	c.last = now
	return c.check()
}

// due returns when the next check is due if no Sync waits.
func (c *liveness) due() time.Time {
	if c.isUrgent != nil && c.isUrgent() {
		return c.last.Add(checkGap)
	}
	return c.last.Add(checkEvery)
}

// checkHooks checks the hooks if a check is due, and returns what is wrong with them.
func (r *run) checkHooks() error {
	s := r.source
	if doubt := s.failureOf(&s.doubt); errors.Is(doubt, bpf.ErrDamaged) { // the ring of images
		r.reportFailure(doubt)
	}
	now := time.Now()
	err := r.hooks.failure(now, r.sync.Began().IsZero() && s.health.HasPending())
	switch {
	case errors.Is(err, bpf.ErrFtraceOff):
		s.isBlind = true
		s.stop(err, false)
		r.reportFailure(err)
	case errors.Is(err, bpf.ErrUnpinned):
		s.markUnreliable(err)
		r.reportFailure(err)
	case errors.Is(err, bpf.ErrChanged):
		s.health.Degraded(err)
		s.noteGap(false)
		r.reportChange(err)
		r.seen = r.hooks.last
		r.vouch()
		s.ready()
	case err != nil:
		s.isBlind = true
		s.health.Degraded(err)
		s.markUnreliable(err)
		r.reportFailure(err)
	case !s.isBlind && r.arming.done == nil:
		if r.changed != nil && now.Equal(r.hooks.last) {
			s.show(r.shown, fmt.Errorf("set right at %s: %w", nowText(), r.changed))
			r.changed = nil
			r.canary.cause(now)
		}
		r.seen = r.hooks.last
		r.vouch()
	}
	return err
}

// vouch stores when the hooks were last seen attached, unless a canary shows that they may not run.
func (r *run) vouch() {
	if r.source.missed == nil && r.canary.vouches() {
		r.source.keepWatch(r.seen)
	}
}

// MarkUnreliable makes Run attach new hooks, which replace those in use. The recorder
// calls it if the hooks missed a load. It does nothing if Run is not running.
func (s *Source) MarkUnreliable(reason string) { s.markUnreliable(errors.New(reason)) }

// markUnreliable makes Run attach the hooks again.
func (s *Source) markUnreliable(doubt error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.programs == nil {
		return
	}
	if s.doubt == nil || errors.Is(s.doubt, bpf.ErrUnpinned) {
		s.doubt = doubt
	}
	_ = s.programs.Flush() // fails only after Close
}

// failure returns why Run is to end; nil if it is not.
func (s *Source) failure() error { return s.failureOf(&s.cause) }

func (s *Source) failureOf(field *error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *field
}

// stop makes Run return an error. replace makes the next Run replace pinned programs.
func (s *Source) stop(cause error, replace bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.programs == nil {
		return
	}
	s.cause, s.replace = cmp.Or(s.cause, cause), s.replace || replace
	_ = s.programs.Flush() // fails only after Close
}
