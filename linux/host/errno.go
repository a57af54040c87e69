//go:build linux

package host

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrnoName returns the name of a negated errno, as the kernel returns it: "EPERM", or
// "errno 512" if user space has no name for it. It returns "" if result is not negative.
func ErrnoName(result int64) string {
	if result >= 0 {
		return ""
	}
	if name := unix.ErrnoName(unix.Errno(-result)); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", -result)
}
