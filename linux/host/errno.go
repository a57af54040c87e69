//go:build linux

package host

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrnoName names a negated errno as the kernel returns it, 0 as the empty
// string. Numbers that user space has no name for stay numbers.
func ErrnoName(result int64) string {
	if result >= 0 {
		return ""
	}
	if name := unix.ErrnoName(unix.Errno(-result)); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", -result)
}
