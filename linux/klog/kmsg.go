//go:build linux

package klog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/klog/printk"
)

// devKmsg is the kernel's log, record by record.
const devKmsg = "/dev/kmsg"

// maxRecord is more than the kernel's longest record (PRINTK_MESSAGE_MAX, before
// 6.3 CONSOLE_EXT_LOG_MAX of 8 KiB).
const maxRecord = 16 << 10

// Kmsg is the source that reads the kernel's own log from /dev/kmsg. It needs
// CAP_SYSLOG where kernel.dmesg_restrict is set, or root.
type Kmsg struct {
	*logSource
	options KmsgOptions
}

// KmsgOptions say where the log is, and how far it was read.
type KmsgOptions struct {
	// Path is /dev/kmsg when empty.
	Path string
	// Position returns the position of the last event that was stored, or "".
	Position func(ctx context.Context) (string, error)
}

// NewKmsg returns a source that reads nothing until Run.
func NewKmsg(o KmsgOptions) *Kmsg {
	if o.Path == "" {
		o.Path = devKmsg
	}
	return &Kmsg{options: o, logSource: newLogSource(kmodquery.SourceKmsg, o.Position)}
}

// Run emits what the kernel says of modules until ctx ends, beginning with what
// it said since the position that was stored, or since it booted. It calls ready
// once, when it has read all that there was.
func (s *Kmsg) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) (err error) {
	defer func() { s.health.Stopped(err) }()
	boot, stored, err := s.resume(ctx)
	if err != nil {
		return err
	}
	log, err := openKmsg(s.options.Path)
	if err != nil {
		return err
	}
	defer log.close()
	s.health.Started([]string{s.options.Path}, "", log.wake)

	r := kmsgReader{source: s, log: log, boot: boot, correlator: s.newCorrelator(emit)}
	r.next, r.isContinued = nextSequence(stored, boot)
	stop := context.AfterFunc(ctx, log.wake)
	defer stop()
	return r.run(ctx, ready)
}

// nextSequence is the number of the first record that was not read yet.
func nextSequence(position, boot string) (uint64, bool) {
	id, sequence, _ := strings.Cut(position, " ")
	n, err := strconv.ParseUint(sequence, 10, 63)
	if err != nil || id != boot {
		return 0, false
	}
	return n + 1, true
}

// A kmsgReader is one Run's reading.
type kmsgReader struct {
	source     *Kmsg
	log        *kmsgLog
	boot       string
	correlator *correlator
	clock      printkClock

	next        uint64 // sequence number of the record that should come
	isContinued bool   // records before were read: a gap is a loss
}

func (r *kmsgReader) run(ctx context.Context, ready func()) error {
	var sync logSync
	defer sync.answer()
	for {
		sync.take(ctx, r.source.health)
		if err := r.drain(); err != nil {
			return err
		}
		if ready != nil {
			r.correlator.flush()
			ready()
			ready = nil
		}
		now := time.Now()
		r.correlator.expire(now)
		deadline := r.correlator.next()
		if sync.isAsked() {
			deadline = r.correlator.settled(sync.asked)
			if !now.Before(deadline) {
				r.correlator.flush()
				if sync.isLast {
					return nil
				}
				sync.answer()
				deadline = time.Time{}
			}
		}
		if err := r.log.wait(deadline, sync.isLast); err != nil {
			return err
		}
	}
}

// drain reads all that there is.
func (r *kmsgReader) drain() error {
	for {
		record, err := r.log.read()
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EPIPE):
			continue // records were overwritten; the next one's number says how many
		case errors.Is(err, unix.EINVAL):
			r.source.health.DecodeErrors.Add(1) // it is longer than any; the kernel went on to the next
			continue
		case err != nil:
			return fmt.Errorf("read %s: %w", r.source.options.Path, err)
		}
		r.take(record)
	}
}

func (r *kmsgReader) take(b []byte) {
	record, err := printk.ParseRecord(b)
	if err != nil {
		r.source.health.Received.Add(1)
		r.source.health.DecodeErrors.Add(1)
		return
	}
	if r.isContinued && record.Sequence < r.next {
		return // told of before the restart
	}
	r.source.health.Received.Add(1)
	if r.isContinued && record.Sequence > r.next {
		r.source.health.Lost.Add(int64(min(record.Sequence-r.next, 1<<40)))
	}
	r.next, r.isContinued = record.Sequence+1, true
	if record.IsFromKernel() {
		if says, ok := printk.Kernel(record.Text); ok {
			r.correlator.add(r.clock.newLine(record, says, r.boot), time.Now())
		}
	}
	r.correlator.setPosition(r.boot + " " + strconv.FormatUint(record.Sequence, 10))
}

// A kmsgLog is /dev/kmsg, open at its oldest record.
type kmsgLog struct {
	fd     int
	buffer [maxRecord]byte

	mu    sync.Mutex
	event int // eventfd(2), to end a wait; -1 when closed
}

func openKmsg(path string) (*kmsgLog, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil, &kmodquery.NotSupportedError{
			Missing: "there is no " + path,
			Need:    "a kernel built with CONFIG_PRINTK, and its device where this process runs",
		}
	case errors.Is(err, fs.ErrPermission):
		return nil, &kmodquery.NotSupportedError{
			Missing: "this process may not read " + path,
			Need:    "root, or CAP_SYSLOG and the right to read the file",
		}
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// Containers are given something else in its place.
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFCHR || stat.Rdev != unix.Mkdev(1, 11) {
		unix.Close(fd)
		return nil, &kmodquery.NotSupportedError{
			Missing: path + " is not the kernel's log",
			Need:    "the character device 1:11 where this process runs",
		}
	}
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	return &kmsgLog{fd: fd, event: event}, nil
}

// read returns the next record, EAGAIN where there is none. It holds until the
// next call.
func (l *kmsgLog) read() ([]byte, error) {
	for {
		n, err := unix.Read(l.fd, l.buffer[:])
		if err == unix.EINTR {
			continue
		}
		return l.buffer[:max(n, 0)], err
	}
}

// wait returns when there is a record, at the deadline unless that is zero, and
// after wake unless that is to be ignored.
func (l *kmsgLog) wait(deadline time.Time, ignoreWake bool) error {
	fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}, {Fd: int32(l.event), Events: unix.POLLIN}}
	if ignoreWake {
		fds = fds[:1]
	}
	timeout := -1
	if !deadline.IsZero() {
		timeout = max(int(time.Until(deadline)/time.Millisecond)+1, 0)
	}
	if _, err := unix.Poll(fds, timeout); err != nil && err != unix.EINTR {
		return fmt.Errorf("wait for the kernel's log: %w", err)
	}
	if !ignoreWake && fds[1].Revents != 0 {
		var count [8]byte
		_, _ = unix.Read(l.event, count[:]) // it only takes the count back
	}
	return nil
}

// wake ends a wait, the present one or the next.
func (l *kmsgLog) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = unix.Write(l.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // it cannot overflow; when closed nobody waits
}

func (l *kmsgLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	unix.Close(l.event)
	l.event = -1
	unix.Close(l.fd)
}

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
func (c *printkClock) newLine(r printk.Record, says printk.Statement, boot string) line {
	l := line{
		statement: says, raw: r.Raw, text: r.Text, at: r.Time,
		bootID: boot, id: strconv.FormatUint(r.Sequence, 10),
	}
	l.time, l.uptime = c.at(r.Time)
	if tid, ok := printk.ThreadOf(r.Caller); ok {
		l.tid = &tid
	}
	return l
}
