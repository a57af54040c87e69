package sqlite

import "time"

// jumpTrustDelay is how long recorders must run without another jump of a wall clock that
// jumped ahead before events expire by it.
const jumpTrustDelay = 6 * time.Hour

// An ageClock provides the time by which events expire. A wall clock that jumps far
// ahead, such as a broken clock before it is set, would expire every event.
// ageClock therefore ignores such a jump for jumpTrustDelay and meanwhile continues
// from the time before it. It accepts a step back, or a jump of up to slack, at once. A
// step back deletes nothing.
type ageClock struct {
	slack time.Duration // jumps up to this are accepted at once

	known   bool
	trusted time.Time     // the accepted time as of at
	at      time.Duration // elapsed time of the last call of now
	ahead   time.Duration // of the wall clock at the last jump; 0 if it is accepted
	steady  time.Duration // elapsed since that jump, in this process and earlier ones
	resumed bool          // the jump is that of an earlier process
}

// newAgeClock returns a clock that continues from the state that an earlier process kept,
// or from no time. It accepts jumps after which most of the events within maxAge stay.
func newAgeClock(state lockState, maxAge time.Duration) *ageClock {
	return &ageClock{
		slack: max(time.Hour, maxAge/10), known: state.TrustedTime != 0, trusted: time.Unix(state.TrustedTime, 0),
		ahead: time.Duration(state.Ahead) * time.Second, steady: time.Duration(state.Steady) * time.Second, resumed: true,
	}
}

// now returns the accepted time, given the wall clock and the time that has elapsed
// since an arbitrary moment.
func (c *ageClock) now(wall time.Time, elapsed time.Duration) time.Time {
	passed := elapsed - c.at
	c.trusted, c.at = c.trusted.Add(passed), elapsed
	ahead := wall.Sub(c.trusted)
	jumped := c.ahead == 0 || (ahead-c.ahead).Abs() > c.slack
	if c.resumed && c.ahead != 0 && ahead > c.ahead {
		jumped, c.ahead = false, ahead // while no process ran, only the wall clock went on
	}
	c.resumed = false
	c.steady += passed
	if !c.known || ahead <= c.slack || !jumped && c.steady >= jumpTrustDelay {
		c.known, c.trusted, c.ahead, c.steady = true, wall, 0, 0
		return wall
	}
	if jumped {
		c.ahead, c.steady = ahead, 0
	}
	return c.trusted
}
