//go:build linux

package host

import (
	"time"

	"golang.org/x/sys/unix"
)

// ClockStep is how far the wall clock must move against the boot clock to count as a
// step. Smaller differences come from reading the two clocks one after the other, and
// must not reorder events.
const ClockStep = 20 * time.Millisecond

// A BootClock turns the kernel's CLOCK_BOOTTIME into wall-clock time. The zero
// value is ready.
type BootClock struct {
	boot time.Time // the wall clock's time when the boot clock was zero
}

// BootTime returns the wall clock's time when the boot clock was zero, by the clocks'
// present difference.
func (c *BootClock) BootTime() time.Time {
	for range 3 {
		before := SinceBoot()
		now := wallClock()
		after := SinceBoot()
		if after-before > ClockStep/2 {
			continue // interrupted between the two readings
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

// wallClock returns the present time without a reading of Go's monotonic clock: times
// that have one are compared by it.
func wallClock() time.Time { return time.Now().Round(0) }

// ThreadTime returns a clock of the processor time that the calling thread uses. The clock
// may be read by other threads. It returns 0 after the thread has ended.
func ThreadTime() func() time.Duration {
	// The kernel's number of the clock CPUCLOCK_SCHED of a thread, as in
	// include/linux/posix-timers_types.h.
	clock := int32(^unix.Gettid()<<3 | 6)
	return func() time.Duration {
		var used unix.Timespec
		if unix.ClockGettime(clock, &used) != nil {
			return 0
		}
		return time.Duration(used.Nano())
	}
}

// SinceBoot returns CLOCK_BOOTTIME, the time since the kernel booted, including the
// time in which the machine slept.
func SinceBoot() time.Duration {
	var boot unix.Timespec
	// It cannot fail: every kernel that has BPF has this clock.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	return time.Duration(boot.Nano())
}
