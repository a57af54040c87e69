//go:build linux

package klog

import (
	"context"
	"strings"

	"golang.org/x/sys/unix"
)

// InspectJournal returns nil if journalctl shows messages of the kernel to this process, and
// otherwise the error with which a Run would fail.
func InspectJournal(ctx context.Context) error {
	_, err := NewJournal(nil).end(ctx)
	return err
}

// InspectKmsg returns nil if this process can read the kernel's log, and otherwise the error
// with which a Run would fail.
func InspectKmsg() error {
	fd, err := openKmsgFile(devKmsg)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// InspectSyslog returns the files of the kernel's messages that this process can read, or the
// error with which a Run would fail.
func InspectSyslog() (files string, err error) {
	readable, err := NewSyslog(nil).readable()
	if err != nil {
		return "", err
	}
	return strings.Join(readable, ", "), nil
}
