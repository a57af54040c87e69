package osqueryhost

import (
	"sync"
	"time"
)

// A clock shows the system's time until it is first set. Then it shows the time to
// which it was last set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return time.Now()
	}
	return c.at
}

// set sets the clock, and reports whether this is the first time.
func (c *clock) set(t time.Time) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first = c.at.IsZero()
	c.at = t
	return first
}
