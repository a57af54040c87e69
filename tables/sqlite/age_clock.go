package sqlite

import "time"

// jumpTrustDelay is how long a wall clock that jumped ahead must run without another
// jump before events expire by it.
const jumpTrustDelay = 6 * time.Hour

// An ageClock provides the time by which events expire. A wall clock that jumps far
// ahead, such as a broken clock before it is set, would expire every event.
// ageClock therefore ignores such a jump for jumpTrustDelay and meanwhile continues
// from the time before it. It accepts a step back, or a jump of up to slack, at once. A
// step back deletes nothing.
type ageClock struct {
	slack time.Duration // jumps up to this are accepted at once

	known    bool
	trusted  time.Time     // the accepted time as of at
	at       time.Duration // elapsed time of the last call of now
	ahead    time.Duration // of the wall clock at the last jump; 0 if it is accepted
	jumpedAt time.Duration // elapsed time of that jump
}

// newAgeClock returns a clock that continues from the time that an earlier process
// accepted, in Unix seconds, or from no time if that is 0. It accepts jumps after which
// most of the events within maxAge stay.
func newAgeClock(trusted int64, maxAge time.Duration) *ageClock {
	return &ageClock{slack: max(time.Hour, maxAge/10), known: trusted != 0, trusted: time.Unix(trusted, 0)}
}

// now returns the accepted time, given the wall clock and the time that has elapsed
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
		c.ahead, c.jumpedAt = ahead, elapsed
	}
	if elapsed-c.jumpedAt >= jumpTrustDelay {
		c.trusted, c.ahead = wall, 0
	}
	return c.trusted
}
