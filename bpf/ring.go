//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const (
	// The header of a record, in the kernel's own layout (kernel/bpf/ringbuf.c
	// and include/uapi/linux/bpf.h): a length with two flags, and padding.
	recordHeader = 8
	recordBusy   = 1 << 31
	recordVoid   = 1 << 30

	// busyPause is the pause before another look at a record that a program writes, and
	// longPause after many of them. A program takes microseconds. After busyLooks the
	// record is passed over. They count looks, because the clock may jump while the host
	// is suspended.
	busyPause = 50 * time.Microsecond
	longPause = 10 * time.Millisecond
	busyLooks = 1000 // ten seconds
)

// errEmpty is returned if every record was read.
var errEmpty = errors.New("the ring is empty")

// A ring reads a BPF ring buffer and releases its records later than it reads them:
// records that were read and not released are read again by the next process that
// opens the map. (cilium/ebpf's reader releases as it reads.) One goroutine may call
// Read; the other methods may be called concurrently.
type ring struct {
	file *os.File // of the map
	wait syscall.RawConn
	size uint64

	read atomic.Uint64 // position after the last record that was read

	mu       sync.Mutex // guards the fields below and the mappings
	released uint64     // position before which the kernel may write again
	consumer []byte
	producer []byte // its page, followed by the data twice
	deadline time.Time
	flushed  bool
	closed   bool
	stuck    bool // a record was passed over
}

func openRing(m *ebpf.Map) (_ *ring, err error) {
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a ring buffer: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that the runtime polls it
		unix.Close(fd)
		return nil, fmt.Errorf("open a ring buffer: %w", err)
	}
	r := &ring{file: os.NewFile(uintptr(fd), m.String()), size: uint64(m.MaxEntries())}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if r.wait, err = r.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("open a ring buffer: %w", err)
	}
	page := os.Getpagesize()
	if r.consumer, err = unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map a ring buffer: %w", err)
	}
	if r.producer, err = unix.Mmap(fd, int64(page), page+2*int(r.size), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map a ring buffer: %w", err)
	}
	r.released = uint64(atomic.LoadUintptr(r.consumed()))
	r.read.Store(r.released)
	if r.end()-r.released > r.size {
		return nil, fmt.Errorf("open a ring buffer: %w", errMoved)
	}
	return r, nil
}

// errMoved is the error of a ring whose position of release another process has set.
// Root can do so. The programs then find no room, or write over what was not read.
var errMoved = fmt.Errorf("another process moved the position up to which the ring buffer was read: %w", ErrChanged)

// check returns errMoved if another process has set the position of release, and errStuck
// if a record was passed over.
func (r *ring) check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil
	case uint64(atomic.LoadUintptr(r.consumed())) != r.released:
		return errMoved
	case r.stuck:
		return errStuck
	}
	return nil
}

// restore sets the position of release again.
func (r *ring) restore() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		atomic.StoreUintptr(r.consumed(), uintptr(r.released))
	}
}

func (r *ring) consumed() *uintptr { return (*uintptr)(unsafe.Pointer(&r.consumer[0])) }

// end is the position after the last record in the ring.
func (r *ring) end() uint64 {
	return uint64(atomic.LoadUintptr((*uintptr)(unsafe.Pointer(&r.producer[0]))))
}

// positions returns the position after the last record that was read, and after the last
// one in the ring. ok is false after Close.
func (r *ring) positions() (read, end uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, 0, false
	}
	return r.read.Load(), r.end(), true
}

// isCrowded reports whether less than a sixteenth of the ring is free.
func (r *ring) isCrowded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.closed && r.end()-r.released > r.size-r.size/16
}

// unread is the number of unread bytes.
func (r *ring) unread() int {
	read, end, _ := r.positions()
	return int(end - read)
}

// next returns a copy of the next record, in buffer if that is large enough, and the
// position after it, or errEmpty.
func (r *ring) next(buffer []byte) ([]byte, uint64, error) {
	for looks := 0; ; looks++ {
		at := r.read.Load()
		raw, end, err := r.take(buffer, looks >= busyLooks)
		switch {
		case !errors.Is(err, errBusy):
			return raw, end, err
		case r.read.Load() != at: // the record that is being written is another one
			looks = 0
		case looks < busyLooks/10:
			time.Sleep(busyPause)
		default:
			time.Sleep(longPause)
		}
	}
}

// ErrDamaged is matched by the errors of a ring buffer that has no record where one must be.
// Nothing more can be read from it.
var ErrDamaged = errors.New("the ring buffer is damaged")

// errStuck is the error of a ring with a record that a program began and did not finish.
// The kernel reuses no room from that record on.
var errStuck = fmt.Errorf("%w: a program began a record and could not finish it", ErrDamaged)

// errBusy is returned while a program writes the next record.
var errBusy = errors.New("the record is being written")

// take returns the next record. It passes over the first one that is being written if
// isStuck.
func (r *ring) take(buffer []byte, isStuck bool) ([]byte, uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, 0, os.ErrClosed
	}
	data := r.producer[os.Getpagesize():]
	at, limit := r.read.Load(), r.end()
	for at < limit {
		from := at & (r.size - 1)
		// Atomic, to see what the program wrote before it cleared the flag.
		length := atomic.LoadUint32((*uint32)(unsafe.Pointer(&data[from])))
		if length&recordBusy != 0 {
			if !isStuck {
				return nil, 0, errBusy
			}
			isStuck, r.stuck = false, true
			length = length&^recordBusy | recordVoid
		}
		n := uint64(length &^ (recordBusy | recordVoid))
		next := at + uint64(RingSize(int(n)))
		if n > r.size || next > limit {
			return nil, 0, fmt.Errorf("%w: a record of %d bytes at %d reaches beyond its end at %d", ErrDamaged, n, at, limit)
		}
		r.read.Store(next)
		if length&recordVoid != 0 {
			at = next
			continue
		}
		raw := append(buffer[:0], data[from+recordHeader:from+recordHeader+n]...)
		return raw, next, nil
	}
	return nil, 0, errEmpty
}

// Read waits for the next record and returns a copy of it, in buffer if that is large
// enough, and the position after it, for Release. It returns ErrFlushed after a Flush
// and os.ErrDeadlineExceeded after the deadline, both once the ring is empty, and
// os.ErrClosed after Close.
func (r *ring) Read(buffer []byte) ([]byte, uint64, error) {
	for {
		raw, end, err := r.next(buffer)
		if !errors.Is(err, errEmpty) {
			return raw, end, err
		}
		err = r.wait.Read(func(uintptr) bool { return r.unread() > 0 })
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if r.unread() > 0 {
				continue // the next wait fails again
			}
			if r.isFlushed() {
				return nil, 0, ErrFlushed
			}
			return nil, 0, os.ErrDeadlineExceeded
		default:
			return nil, 0, os.ErrClosed
		}
	}
}

// isFlushed reports whether Flush was called since the last ErrFlushed.
func (r *ring) isFlushed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.flushed {
		return false
	}
	r.flushed = false
	_ = r.file.SetReadDeadline(r.deadline) // it fails only after Close, which the next Read reports
	return true
}

// SetDeadline sets the deadline of Read; zero is none.
func (r *ring) SetDeadline(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = t
	if !r.flushed {
		_ = r.file.SetReadDeadline(t)
	}
}

// Flush makes Read return ErrFlushed once the ring is empty.
func (r *ring) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return os.ErrClosed
	}
	r.flushed = true
	return r.file.SetReadDeadline(time.Unix(1, 0))
}

// Release gives the records before a position that Read returned back to the kernel.
// It does nothing after Close.
func (r *ring) Release(position uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || position > r.read.Load() || position > math.MaxInt || position <= r.released {
		return
	}
	r.released = position
	atomic.StoreUintptr(r.consumed(), uintptr(position))
}

// Close closes the ring and releases nothing. It interrupts Read.
func (r *ring) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	r.mu.Unlock()
	// Without the lock: Close waits for Read, which takes the lock.
	errs := []error{r.file.Close()}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, memory := range [][]byte{r.consumer, r.producer} {
		if memory != nil {
			errs = append(errs, unix.Munmap(memory))
		}
	}
	return errors.Join(errs...)
}
