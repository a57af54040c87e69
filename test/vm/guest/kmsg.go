//go:build linux

package guest

import (
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// A kernelLog is a position in the kernel's log. The console does not show the log,
// because the kernel is booted quiet.
type kernelLog struct{ fd int }

// openKernelLog opens the log at its current end.
func openKernelLog() (*kernelLog, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the kernel's log: %w", err)
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		return nil, fmt.Errorf("seek to the end of the kernel's log: %w", err)
	}
	return &kernelLog{fd: fd}, nil
}

// copyTo writes the records after the position.
func (l *kernelLog) copyTo(w io.Writer) {
	fmt.Fprintln(w, "vm init: the kernel's log since the program's start:")
	record := make([]byte, 8<<10) // the kernel's longest, CONSOLE_EXT_LOG_MAX
	for {
		n, err := unix.Read(l.fd, record)
		if err == unix.EPIPE { // older records were overwritten; the next read continues after them
			continue
		}
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			fmt.Fprintf(w, "vm init: read the kernel's log: %v\n", err)
			return
		}
		_, text, _ := strings.Cut(string(record[:n]), ";")
		fmt.Fprint(w, text)
	}
}
