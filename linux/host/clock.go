//go:build linux

package host

import (
	"time"

	"golang.org/x/sys/unix"
)

// ClockStep is how far the wall clock must move against the boot clock to be
// taken for a step. What is less is the time between reading the two, and must
// not put the events of one moment out of order.
const ClockStep = 20 * time.Millisecond

// A BootClock turns the kernel's CLOCK_BOOTTIME into wall-clock time. The zero
// value is ready.
type BootClock struct {
	boot time.Time // the wall clock's time at which the boot clock stood at zero
}

// bootTime returns the moment at which the boot clock stood at zero, as both
// clocks stand now.
func (c *BootClock) BootTime() time.Time {
	for range 3 {
		before := SinceBoot()
		now := wallClock()
		after := SinceBoot()
		if after-before > ClockStep/2 {
			continue // interrupted in between: the two do not belong together
		}
		at := now.Add(-(before + after) / 2)
		if c.boot.IsZero() || at.Sub(c.boot).Abs() > ClockStep {
			c.boot = at
		}
		return c.boot
	}
	if c.boot.IsZero() {
		c.boot = wallClock().Add(-SinceBoot())
	}
	return c.boot
}

// wallClock is the present moment without Go's monotonic clock, by which alone two
// times that have it are compared.
func wallClock() time.Time { return time.Now().Round(0) }

func SinceBoot() time.Duration {
	var boot unix.Timespec
	// It cannot fail: every kernel that has BPF has this clock.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	return time.Duration(boot.Nano())
}
