//go:build linux

package linux

import (
	"time"

	"golang.org/x/sys/unix"
)

// clockStep is how far the wall clock must move against the boot clock to be
// taken for a step. What is less is the time between reading the two, and must
// not put the events of one moment out of order.
const clockStep = 20 * time.Millisecond

// A bootClock turns the kernel's CLOCK_BOOTTIME into wall-clock time. The zero
// value is ready.
type bootClock struct {
	boot time.Time // the wall clock's time at which the boot clock stood at zero
}

// bootTime returns the moment at which the boot clock stood at zero, as both
// clocks stand now.
func (c *bootClock) bootTime() time.Time {
	for range 3 {
		before := bootTimeNow()
		now := wallClock()
		after := bootTimeNow()
		if after-before > clockStep/2 {
			continue // interrupted in between: the two do not belong together
		}
		at := now.Add(-(before + after) / 2)
		if c.boot.IsZero() || at.Sub(c.boot).Abs() > clockStep {
			c.boot = at
		}
		return c.boot
	}
	if c.boot.IsZero() {
		c.boot = wallClock().Add(-bootTimeNow())
	}
	return c.boot
}

// wallClock is the present moment without Go's monotonic clock, by which alone two
// times that have it are compared.
func wallClock() time.Time { return time.Now().Round(0) }

func bootTimeNow() time.Duration {
	var boot unix.Timespec
	// It cannot fail: every kernel that has BPF has this clock.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	return time.Duration(boot.Nano())
}
