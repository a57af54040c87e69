//go:build linux

package klog

import (
	"strconv"
	"time"

	"github.com/kmodquery/kmodquery/linux/host"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/linux/klog/printk"
)

// A printkClock turns the times of the kernel's log into the wall clock's and
// CLOCK_BOOTTIME's. The log has the scheduler's clock, which stands still while
// the machine sleeps and drifts a little against CLOCK_MONOTONIC: what was said
// before the machine slept, and is read afterwards, seems later by that sleep.
type printkClock struct{ monotonic, boot time.Duration }

// now notes how the clocks stand.
func (c *printkClock) now() time.Time {
	var monotonic unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &monotonic) // every kernel has it
	c.monotonic, c.boot = time.Duration(monotonic.Nano()), host.SinceBoot()
	return time.Now()
}

// at is when something was said, and CLOCK_BOOTTIME in seconds at that moment.
// Nothing is said in the future.
func (c *printkClock) at(printk time.Duration) (time.Time, *int64) {
	wall := c.now()
	ago := max(c.monotonic-printk, 0)
	return wall.Add(-ago), new(int64(max(c.boot-ago, 0) / time.Second))
}

// line is what a record of this boot says of modules.
func (c *printkClock) line(r printk.Record, says printk.Statement, boot string) logLine {
	l := logLine{
		says: says, raw: r.Raw, text: r.Text, at: r.Time,
		bootID: boot, id: strconv.FormatUint(r.Sequence, 10),
	}
	l.time, l.uptime = c.at(r.Time)
	if tid, ok := printk.ThreadOf(r.Caller); ok {
		l.tid = &tid
	}
	return l
}
