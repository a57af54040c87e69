// Package progress tells whether event loops make progress. A loop completes a round
// at least every [Interval], even if it has nothing to do. One that has not for
// [Limit] is stalled, whatever it reported before. It imports the standard library
// only.
package progress

import (
	"sync/atomic"
	"time"
)

const (
	// Interval is the longest time between two rounds of a loop.
	Interval = 10 * time.Second
	// Limit is how long a loop may go without completing a round.
	Limit = 3 * Interval
)

// A Loop records the rounds of one event loop. The zero value is a loop that does not
// run. Its methods may be called concurrently.
type Loop struct{ last atomic.Pointer[time.Time] }

// Round records that the loop has completed a round, or begins to run.
func (l *Loop) Round() {
	now := time.Now()
	l.last.Store(&now)
}

// End records that the loop no longer runs.
func (l *Loop) End() { l.last.Store(nil) }

// Last returns when the loop completed its last round, or the zero time if it does not
// run.
func (l *Loop) Last() time.Time {
	if last := l.last.Load(); last != nil {
		return *last
	}
	return time.Time{}
}

// A Checker decides which loops are stalled. It compares times by CLOCK_MONOTONIC,
// which does not advance during a suspend. The zero value is ready to use. It is not
// safe for concurrent use.
type Checker struct {
	ticked time.Time // last Tick
	since  time.Time // no earlier time counts
}

// Tick must be called every [Interval] or more often. After a call that comes late,
// counting starts over: whatever kept the checker from running may have kept the loops
// from running too.
func (c *Checker) Tick(now time.Time) {
	if c.ticked.IsZero() || now.Sub(c.ticked) >= 2*Interval {
		c.since = now
	}
	c.ticked = now
}

// IsStalled reports whether a loop that completed its last round at that time was
// stalled at the last Tick.
func (c *Checker) IsStalled(last time.Time) bool {
	if last.Before(c.since) {
		last = c.since
	}
	return c.ticked.Sub(last) >= Limit
}
