package sqlite

import "time"

// settleFor is how long a wall clock that leapt ahead must have gone on without
// another leap until events expire by it.
const settleFor = 6 * time.Hour

// An ageClock says what time it is for the age of events. A wall clock that leaps
// ahead by much, as a broken one does before it is set, would have everything
// expire, so it is believed after some time only, and until then time goes on
// from where it was. A clock that steps back is believed at once: that deletes
// nothing.
type ageClock struct {
	slack time.Duration // leaps that are believed

	known   bool
	trusted time.Time     // the present as of at
	at      time.Duration // elapsed time at the last look
	ahead   time.Duration // how far the wall clock was ahead then; 0 while it is believed
	since   time.Duration // elapsed time when it leapt there
}

// newAgeClock returns a clock that goes on from a time that an earlier process
// trusted; the zero time where none did. Leaps that keep most of what maxAge
// keeps are believed.
func newAgeClock(trusted time.Time, maxAge time.Duration) *ageClock {
	return &ageClock{slack: max(time.Hour, maxAge/10), known: !trusted.IsZero(), trusted: trusted}
}

// now returns the present by the wall clock and by the time that has elapsed
// since an arbitrary moment.
func (c *ageClock) now(wall time.Time, elapsed time.Duration) time.Time {
	c.trusted = c.trusted.Add(elapsed - c.at)
	c.at = elapsed
	ahead := wall.Sub(c.trusted)
	if !c.known || ahead <= c.slack {
		c.known, c.trusted, c.ahead = true, wall, 0
		return wall
	}
	if c.ahead == 0 || (ahead-c.ahead).Abs() > c.slack {
		c.ahead, c.since = ahead, elapsed
	}
	if elapsed-c.since >= settleFor {
		c.trusted, c.ahead = wall, 0
	}
	return c.trusted
}
