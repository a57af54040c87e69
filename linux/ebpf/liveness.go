//go:build linux

package ebpf

import (
	"errors"
	"time"
)

const (
	// checkEvery is how often the hooks are looked at though nobody asks.
	checkEvery = 10 * time.Second
	// checkGap is the least time between two looks.
	checkGap = time.Second
)

// A liveness looks from time to time whether the hooks are still what they were
// when they were attached: the kernel tells nobody that it no longer runs them.
type liveness struct {
	check func() error
	last  time.Time
}

// failure looks at the hooks, if the last look was long enough ago, and returns
// what is wrong with them. A query that waits for what they saw is a reason to
// look sooner.
func (c *liveness) failure(now time.Time, isAsked bool) error {
	since := now.Sub(c.last)
	if since < checkGap || since < checkEvery && !isAsked {
		return nil
	}
	c.last = now
	return c.check()
}

// due is when the next look is due though nobody asks.
func (c *liveness) due() time.Time { return c.last.Add(checkEvery) }

// MarkUnreliable has Run emit what the hooks have seen and return an error that gives
// the reason, after which it can be called again to attach them anew. Who knows
// that a module came which they should have seen calls it. It does nothing while
// the source is not running.
func (s *Source) MarkUnreliable(reason string) {
	s.mu.Lock()
	s.anew = s.anew || s.programs != nil
	s.mu.Unlock()
	s.markUnreliable(errors.New(reason))
}

func (s *Source) isUnreliable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.anew
}

func (s *Source) markUnreliable(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.programs == nil {
		return
	}
	if s.doubt == nil {
		s.doubt = cause
	}
	_ = s.programs.Flush() // it fails only when the reading has ended
}
