//go:build linux

package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A writtenRing is a ring into which the test writes what a kernel would. It
// stands in for the map's file too.
type writtenRing struct {
	*ring
	await func(isReady func(uintptr) bool) error // a wait for records
}

func newWrittenRing(t *testing.T, from uint64) *writtenRing {
	t.Helper()
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	defer writer.Close()
	w := &writtenRing{ring: &ring{file: reader, size: ringSize}}
	w.wait = w
	page := os.Getpagesize()
	w.consumer, err = unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	require.NoError(t, err)
	w.producer, err = unix.Mmap(-1, 0, page+2*ringSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	require.NoError(t, err)
	atomic.StoreUintptr(w.consumed(), uintptr(from))
	w.setEnd(from)
	w.released = from
	w.read.Store(from)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w
}

func (w *writtenRing) Read(isReady func(uintptr) bool) error { return w.await(isReady) }

func (w *writtenRing) Control(func(uintptr)) error { return os.ErrInvalid }

func (w *writtenRing) Write(func(uintptr) bool) error { return os.ErrInvalid }

func (w *writtenRing) setEnd(to uint64) {
	atomic.StoreUintptr((*uintptr)(unsafe.Pointer(&w.producer[0])), uintptr(to))
}

// set sets the flags of the record at a position, whose length is n. The data are
// there twice.
func (w *writtenRing) set(position uint64, n int, flags uint32) {
	at := position % ringSize
	for _, base := range []uint64{0, ringSize} {
		header := &w.producer[uint64(os.Getpagesize())+base+at]
		atomic.StoreUint32((*uint32)(unsafe.Pointer(header)), uint32(n)|flags)
	}
}

// put writes a record and returns the position behind it.
func (w *writtenRing) put(flags uint32, payload []byte) uint64 {
	data, from := w.producer[os.Getpagesize():], w.end()
	for i, b := range payload {
		at := (from + recordHeader + uint64(i)) % ringSize
		data[at], data[at+ringSize] = b, b
	}
	w.set(from, len(payload), flags)
	to := from + uint64(RingSize(len(payload)))
	w.setEnd(to)
	return to
}

// filled is a payload of n bytes that are one.
func filled(with byte, n int) []byte { return bytes.Repeat([]byte{with}, n) }

func TestRingTakesWhatIsWritten(t *testing.T) {
	type written struct {
		flags   uint32
		payload []byte
	}
	one, two := filled(1, 16), filled(2, 24)
	for _, test := range []struct {
		name    string
		from    uint64
		written []written
	}{
		{"nothing", 0, nil},
		{"two", 0, []written{{0, one}, {0, two}}},
		{"lengths that are padded", 0, []written{{0, filled(1, 1)}, {0, filled(2, 9)}, {0, filled(3, 15)}, {0, two}}},
		{"one without a byte", 0, []written{{0, nil}, {0, two}}},
		{"one of all that fits", 0, []written{{0, filled(1, ringSize-recordHeader)}}},
		{"one that goes around the end", ringSize - 16, []written{{0, two}, {0, one}}},
		{"one whose header is the end", 3*ringSize - recordHeader, []written{{0, one}, {0, two}}},
		{"one that ends at the end", ringSize - 24, []written{{0, one}, {0, two}}},
		{"beyond what 32 bits count", 1<<32 - 16, []written{{0, two}, {0, one}}},
		{"discarded ones before, between and behind", 0, []written{{recordVoid, two}, {0, one}, {recordVoid, two}, {recordVoid, one}, {0, two}, {recordVoid, one}}},
		{"a discarded one that goes around the end", ringSize - 16, []written{{recordVoid, two}, {0, one}}},
		{"only discarded ones", 0, []written{{recordVoid, one}, {recordVoid, two}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWrittenRing(t, test.from)
			ends := make([]uint64, len(test.written))
			for i, record := range test.written {
				ends[i] = w.put(record.flags, record.payload)
			}
			for i, record := range test.written {
				if record.flags != 0 {
					continue
				}
				raw, end, err := w.next(nil)
				require.NoError(t, err)
				require.True(t, bytes.Equal(record.payload, raw), "%v", raw)
				require.Equal(t, ends[i], end)
			}
			_, _, err := w.next(nil)
			require.ErrorIs(t, err, errEmpty)
			require.Zero(t, w.unread(), "what was discarded is not waited for")
			require.EqualValues(t, test.from, atomic.LoadUintptr(w.consumed()), "nothing was released")
			w.Release(w.end())
			require.EqualValues(t, w.end(), atomic.LoadUintptr(w.consumed()))
		})
	}
}

// TestRingWaitsForWhatIsBeingWritten has a record that a program has not ended,
// before one that is complete.
func TestRingWaitsForWhatIsBeingWritten(t *testing.T) {
	for name, flags := range map[string]uint32{"submitted": 0, "discarded": recordVoid} {
		t.Run(name, func(t *testing.T) {
			w := newWrittenRing(t, 0)
			w.put(recordBusy, filled(1, 16))
			w.put(0, filled(2, 16))
			_, _, err := w.take(nil, false)
			require.ErrorIs(t, err, errBusy)
			require.Equal(t, 48, w.unread())
			taken := make(chan []byte)
			go func() {
				raw, _, _ := w.next(nil)
				taken <- raw
			}()
			select {
			case raw := <-taken:
				require.Fail(t, "it is not complete", "%v", raw)
			case <-time.After(10 * busyPause): // as good as any: it is to be there for no time
			}
			w.set(0, 16, flags)
			want := map[uint32]byte{0: 1, recordVoid: 2}[flags]
			require.Equal(t, filled(want, 16), <-taken)
		})
	}
}

// A ring whose memory says what no kernel would is not read beyond its end.
func TestRingThatIsBroken(t *testing.T) {
	for _, test := range []struct {
		name string
		n    int
		end  uint64
	}{
		{"longer than what there is", 17, 24},
		{"longer than the ring", ringSize + 1, 24},
		{"longer than the ring, of which there is as much", ringSize + 1, 3 * ringSize},
		{"as long as can be", recordVoid - 1, 24},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWrittenRing(t, 0)
			w.put(0, filled(1, 16))
			w.set(0, test.n, 0)
			w.setEnd(test.end)
			_, _, err := w.next(nil)
			require.ErrorIs(t, err, ErrDamaged)
			require.ErrorContains(t, err, fmt.Sprintf("reaches beyond its end at %d", test.end))
			require.EqualValues(t, test.end, w.unread())
		})
	}
}

// TestRingReadsWhatComesWithTheDeadline has a record come between a look and the
// end of the wait.
func TestRingReadsWhatComesWithTheDeadline(t *testing.T) {
	for name, want := range map[string]error{"a deadline": os.ErrDeadlineExceeded, "a flush": ErrFlushed} {
		t.Run(name, func(t *testing.T) {
			w := newWrittenRing(t, 0)
			w.SetDeadline(time.Now().Add(time.Hour))
			waits := 0
			w.await = func(isReady func(uintptr) bool) error {
				require.False(t, isReady(0), "nothing is there")
				if waits++; waits == 1 {
					w.put(0, filled(1, 16))
					require.True(t, isReady(0))
					if errors.Is(want, ErrFlushed) {
						require.NoError(t, w.Flush())
					}
				}
				return os.ErrDeadlineExceeded
			}
			raw, end, err := w.ring.Read(nil)
			require.NoError(t, err)
			require.Equal(t, filled(1, 16), raw)
			require.EqualValues(t, 24, end)
			_, _, err = w.ring.Read(nil)
			require.ErrorIs(t, err, want)
			_, _, err = w.ring.Read(nil)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded, "a flush has one answer")
		})
	}
}

func TestRingCopiesWhatItReads(t *testing.T) {
	w := newWrittenRing(t, 0)
	end := w.put(0, filled(1, 16))
	w.put(0, filled(2, 16))
	w.put(0, filled(3, 32))
	buffer := make([]byte, 20)
	first, _, err := w.next(nil)
	require.NoError(t, err)
	second, _, err := w.next(buffer)
	require.NoError(t, err)
	require.Same(t, &buffer[0], &second[0], "there is room")
	third, _, err := w.next(buffer)
	require.NoError(t, err)
	w.Release(end)
	clear(w.producer[os.Getpagesize():])
	require.Equal(t, [][]byte{filled(1, 16), filled(2, 16), filled(3, 32)}, [][]byte{first, second, third})
}

// TestRingSkipsWhatAProgramDiscards has the kernel lay out a discarded record.
func TestRingSkipsWhatAProgramDiscards(t *testing.T) {
	m, put := newProducer(t)
	r := open(t, m)
	put(1, 16)
	discard(t, m, 2, 40)
	put(3, 13)
	discard(t, m, 4, 8)
	list, end := numbers(t, r)
	require.Equal(t, []uint64{1, 3}, list)
	require.Zero(t, r.unread())
	r.Release(end)
	put(5, 8)

	r = open(t, m)
	list, _ = numbers(t, r)
	require.Equal(t, []uint64{5}, list)
}

func TestRingReleasesOnlyWhatWasRead(t *testing.T) {
	w := newWrittenRing(t, 0)
	first := w.put(0, filled(1, 8))
	w.put(0, filled(1, 8))
	_, _, err := w.next(nil)
	require.NoError(t, err)
	w.Release(first)
	w.Release(first - 1)
	require.EqualValues(t, first, atomic.LoadUintptr(w.consumed()), "it does not go back")
	w.Release(w.end())
	require.EqualValues(t, first, atomic.LoadUintptr(w.consumed()), "not all of it was read")
	require.NoError(t, w.Close())
	require.Zero(t, w.unread())
	_, _, err = w.next(nil)
	require.ErrorIs(t, err, os.ErrClosed)
	w.Release(first)
}

func TestRingPassesOverARecordThatIsNeverWritten(t *testing.T) {
	w := newWrittenRing(t, 0)
	w.put(recordBusy, filled(1, 16))
	w.put(0, filled(2, 16))
	raw, _, err := w.take(nil, true)
	require.NoError(t, err)
	require.Equal(t, filled(2, 16), raw)
	require.ErrorIs(t, w.check(), errStuck)
	require.ErrorIs(t, w.check(), ErrDamaged)

	w.put(recordBusy, filled(3, 16))
	_, _, err = w.take(nil, false)
	require.ErrorIs(t, err, errBusy, "the next one gets its time")
}
