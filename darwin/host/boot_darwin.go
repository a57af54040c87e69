package host

import (
	"time"

	"golang.org/x/sys/unix"
)

// ReadBoot asks the kernel for its present boot. What it does not tell stays
// unknown.
func ReadBoot() Boot {
	var b Boot
	if id, err := unix.Sysctl("kern.bootsessionuuid"); err == nil {
		b.ID = id
	}
	// It goes on during sleep here, unlike on other systems (clock_gettime(3)).
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &since); err == nil {
		b.Uptime = time.Duration(since.Nano())
	}
	return b
}
