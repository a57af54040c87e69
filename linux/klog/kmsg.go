//go:build linux

package klog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/klog/printk"
)

// devKmsg is the kernel's log, record by record.
const devKmsg = "/dev/kmsg"

// maxRecord is more than the kernel's longest record (PRINTK_MESSAGE_MAX, before
// 6.3 CONSOLE_EXT_LOG_MAX of 8 KiB).
const maxRecord = 16 << 10

// maxDrain bounds the records that are read at a time: others may be written as fast as they
// are read. Only a log of many megabytes holds more.
const maxDrain = 1 << 16

// Kmsg is the source that reads the kernel's own log from /dev/kmsg. It needs
// CAP_SYSLOG if kernel.dmesg_restrict is set, or root.
type Kmsg struct {
	*logSource
	path string
	open func(path string) (*kmsgLog, error)
}

// NewKmsg returns a source that reads nothing until Run. position returns the position of
// the source's last stored event, or "". It may be nil.
func NewKmsg(position func(ctx context.Context) (string, error)) *Kmsg {
	return &Kmsg{logSource: newLogSource(kmodquery.SourceKmsg, position), path: devKmsg, open: openKmsg}
}

// Run emits the events of what the kernel logs about modules until ctx ends. It begins
// after the stored position, or with the oldest record that the log has. It calls
// ready once, when it has read all records that there were. An error that matches
// kmodquery.ErrNotSupported means that this process cannot read the log before the
// next boot; other errors may pass.
func (s *Kmsg) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) (err error) {
	defer func() { s.health.Stopped(err) }()
	boot, stored, err := s.resume(ctx)
	if err != nil {
		return err
	}
	log, err := s.open(s.path)
	if err != nil {
		return err
	}
	defer log.close()
	log.next, log.isContinued = nextSequence(stored, boot)
	log.since = s.since
	s.health.Started([]string{s.path}, "", log.wake)
	stop := context.AfterFunc(ctx, log.wake)
	defer stop()

	c := s.newCorrelator(emit)
	read := func() (bool, error) {
		err := log.drain(s.health, func(record printk.Record, err error) {
			s.health.Received.Add(1)
			if err != nil {
				s.health.DecodeErrors.Add(1)
				return
			}
			if statement, ok := printk.Kernel(record.Text); ok && record.IsFromKernel() {
				c.add(newLine(record, statement, boot), time.Now())
			}
			c.position = sequencePosition(boot, record.Sequence)
		})
		return log.isDrained, err
	}
	return s.serve(ctx, ready, c, read, log.wait)
}

// sequencePosition returns the position of a record of /dev/kmsg.
func sequencePosition(boot string, sequence uint64) string {
	return boot + " " + strconv.FormatUint(sequence, 10)
}

// nextSequence returns the sequence number that follows a position. ok is false if
// the position is of another boot, or none. Earlier versions of the source syslog
// wrote more after the number.
func nextSequence(position, boot string) (next uint64, ok bool) {
	fields := strings.Fields(position)
	if len(fields) < 2 || fields[0] != boot {
		return 0, false
	}
	n, err := strconv.ParseUint(fields[1], 10, 63)
	if err != nil {
		return 0, false
	}
	return n + 1, true
}

// A kmsgLog is /dev/kmsg, opened at its oldest record.
type kmsgLog struct {
	fd     int
	buffer [maxRecord]byte

	next        uint64    // the expected sequence number; drain skips records below it
	isContinued bool      // there is an expected number, so a gap before a record is a loss
	isDrained   bool      // drain read all records
	since       time.Time // records from before are not needed, and no loss

	event   *os.File // eventfd(2), to end a wait. wake may be called after close
	eventFD int      // the same, for poll(2)
}

// openKmsg opens the kernel's log.
func openKmsg(path string) (*kmsgLog, error) {
	fd, err := openKmsgFile(path)
	if err != nil {
		return nil, err
	}
	return newKmsgLog(fd)
}

// openKmsgFile opens the device of the kernel's log.
func openKmsgFile(path string) (fd int, err error) {
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return -1, &kmodquery.NotSupportedError{
			Missing: "there is no " + path,
			Need:    "a kernel built with CONFIG_PRINTK, and its device where this process runs",
		}
	case errors.Is(err, fs.ErrPermission):
		return -1, &kmodquery.NotSupportedError{
			Missing: "this process may not read " + path,
			Need:    "root, or CAP_SYSLOG and the right to read the file",
		}
	case err != nil:
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	// Container runtimes put other files in its place.
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFCHR || stat.Rdev != unix.Mkdev(1, 11) {
		unix.Close(fd)
		return -1, &kmodquery.NotSupportedError{
			Missing: path + " is not the kernel's log",
			Need:    "the character device 1:11 where this process runs",
		}
	}
	return fd, nil
}

// newKmsgLog takes ownership of a non-blocking file descriptor of which each read(2)
// returns one record.
func newKmsgLog(fd int) (*kmsgLog, error) {
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("create an eventfd: %w", err)
	}
	return &kmsgLog{fd: fd, event: os.NewFile(uintptr(event), "eventfd"), eventFD: event}, nil
}

// drain calls take for each record that the log has, up to maxDrain, or with the error of
// one that is invalid. It counts overwritten records as lost.
func (l *kmsgLog) drain(health *source.Health, take func(printk.Record, error)) error {
	l.isDrained = false
	for range maxDrain {
		n, err := unix.Read(l.fd, l.buffer[:])
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EPIPE): // records were overwritten; the next number tells how many
			continue
		case errors.Is(err, unix.EAGAIN):
			l.isDrained = true
			return nil
		case errors.Is(err, unix.EINVAL): // it exceeds the buffer, and the kernel went on to the next
			take(printk.Record{}, err)
			continue
		case err != nil:
			return fmt.Errorf("read the kernel's log: %w", err)
		}
		record, err := printk.ParseRecord(l.buffer[:n])
		if err != nil {
			take(record, err)
			continue
		}
		if l.isContinued {
			if record.Sequence < l.next {
				continue
			}
			if lost := record.Sequence - l.next; lost > 0 {
				if at, _ := printkTime(record.Time); at.After(l.since) {
					health.Lost.Add(int64(min(lost, 1<<40)))
				}
			}
		}
		l.next, l.isContinued = record.Sequence+1, true
		take(record, nil)
	}
	return nil
}

// wait returns when there is a record, after wake, and at the deadline.
func (l *kmsgLog) wait(deadline time.Time) error {
	fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}, {Fd: int32(l.eventFD), Events: unix.POLLIN}}
	timeout := max(int(time.Until(deadline)/time.Millisecond)+1, 0)
	if _, err := unix.Poll(fds, timeout); err != nil && err != unix.EINTR {
		return fmt.Errorf("wait for the kernel's log: %w", err)
	}
	if fds[1].Revents != 0 {
		var count [8]byte
		_, _ = unix.Read(l.eventFD, count[:]) // resets the event
	}
	return nil
}

// wake ends the present wait, or the next.
func (l *kmsgLog) wake() {
	_, _ = l.event.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) // it fails only after close
}

func (l *kmsgLog) close() {
	l.event.Close()
	unix.Close(l.fd)
}

// printkTime converts a time of the kernel's log to the wall clock and to seconds of
// CLOCK_BOOTTIME. The log uses the scheduler's clock, which stands still while the
// machine sleeps and drifts a little against CLOCK_MONOTONIC: a message from before a
// sleep that is read afterwards seems later by that sleep. No message is in the future.
func printkTime(at time.Duration) (wall time.Time, uptime *int64) {
	var monotonic unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &monotonic) // every kernel has it
	ago := max(time.Duration(monotonic.Nano())-at, 0)
	return time.Now().Add(-ago), new(int64(max(host.SinceBoot()-ago, 0) / time.Second))
}

// newLine returns the line of a record of this boot.
func newLine(r printk.Record, statement printk.Statement, boot string) line {
	l := line{
		statement: statement, raw: r.Raw, text: r.Text, at: r.Time,
		bootID: boot, id: strconv.FormatUint(r.Sequence, 10),
	}
	l.time, l.uptime = printkTime(r.Time)
	if tid, ok := printk.ThreadOf(r.Caller); ok {
		l.tid = &tid
	}
	return l
}
