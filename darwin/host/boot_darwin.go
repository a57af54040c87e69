package host

import (
	"time"

	"golang.org/x/sys/unix"
)

// ReadBoot returns the current boot. A value that the kernel does not return stays
// unknown.
func ReadBoot() Boot {
	var b Boot
	if id, err := unix.Sysctl("kern.bootsessionuuid"); err == nil {
		b.ID = id
	}
	// On macOS this clock includes sleep (clock_gettime(3)).
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &since); err == nil {
		b.Uptime = time.Duration(since.Nano())
	}
	return b
}
