//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/stretchr/testify/require"
)

const ringSize = 4096

// newProducer makes a ring buffer in the kernel, and a function that has a
// program put n bytes into it, the first eight of which are a number.
func newProducer(t *testing.T) (m *ebpf.Map, put func(number uint64, n int32)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may run BPF programs")
	}
	require.NoError(t, rlimit.RemoveMemlock())
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "records", Type: ebpf.RingBuf, MaxEntries: ringSize})
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m, func(number uint64, n int32) {
		t.Helper()
		reserve(t, m, number, n, asm.FnRingbufSubmit)
	}
}

// discard has a program begin a record and think better of it.
func discard(t *testing.T, m *ebpf.Map, number uint64, n int32) {
	t.Helper()
	reserve(t, m, number, n, asm.FnRingbufDiscard)
}

func reserve(t *testing.T, m *ebpf.Map, number uint64, n int32, end asm.BuiltinFunc) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Imm(asm.R2, n),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnRingbufReserve.Call(),
			asm.JEq.Imm(asm.R0, 0, "full"),
			asm.LoadImm(asm.R1, int64(number), asm.DWord),
			asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.R0),
			asm.Mov.Imm(asm.R2, 1<<1), // BPF_RB_FORCE_WAKEUP
			end.Call(),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("full"),
			asm.Return(),
		},
	})
	require.NoError(t, err)
	defer program.Close()
	full, err := program.Run(&ebpf.RunOptions{Data: make([]byte, 14)})
	require.NoError(t, err)
	require.Zero(t, full, "the ring has no room")
}

func open(t *testing.T, m *ebpf.Map) *ring {
	t.Helper()
	r, err := openRing(m)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// numbers are those of the records that can be read now, with the position behind
// the last.
func numbers(t *testing.T, r *ring) (list []uint64, position uint64) {
	t.Helper()
	r.SetDeadline(time.Unix(1, 0))
	defer r.SetDeadline(time.Time{})
	for {
		raw, end, err := r.Read(nil)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return list, position
		}
		require.NoError(t, err)
		list, position = append(list, binary.NativeEndian.Uint64(raw)), end
	}
}

func TestRingGivesBackWhatIsReleased(t *testing.T) {
	m, put := newProducer(t)
	r := open(t, m)
	for n := range uint64(3) {
		put(n, 16)
	}
	require.Equal(t, 72, r.unread())
	list, _ := numbers(t, r)
	require.Equal(t, []uint64{0, 1, 2}, list)
	require.Zero(t, r.unread())

	r = open(t, m)
	list, end := numbers(t, r)
	require.Equal(t, []uint64{0, 1, 2}, list, "nothing was released")
	r.Release(end - 24)
	r.Release(0) // nor does it go back
	r.Release(end + 24)
	require.NoError(t, r.Close())
	r.Release(end)

	r = open(t, m)
	list, _ = numbers(t, r)
	require.Equal(t, []uint64{2}, list)
}

// Root can write to a pinned ring's memory, and so leave the programs no room.
func TestRingWhosePositionWasMoved(t *testing.T) {
	m, put := newProducer(t)
	r := open(t, m)
	put(1, 16)
	_, end, err := r.Read(nil)
	require.NoError(t, err)
	require.NoError(t, r.check())
	r.Release(end)
	require.NoError(t, r.check(), "it moved the position itself")
	other := open(t, m)
	for _, moved := range []uintptr{uintptr(end) + 24, 1 << 40} {
		atomic.StoreUintptr(other.consumed(), moved)
		require.ErrorIs(t, r.check(), errMoved)
		_, err = openRing(m)
		require.ErrorIs(t, err, errMoved, "the ring has nothing there")
	}
	require.NoError(t, r.Close())
	require.NoError(t, r.check())
}

// TestRingWakesAReaderThatLags has the kernel wake the reader though it has
// released nothing, and goes around the ring several times, with records of which
// the ring's end is the middle.
func TestRingWakesAReaderThatLags(t *testing.T) {
	m, put := newProducer(t)
	r := open(t, m)
	type read struct {
		raw []byte
		end uint64
		err error
	}
	const n, records = 493, 4 * ringSize / 512
	reads := make(chan read, records)
	go func() {
		for range records {
			raw, end, err := r.Read(nil) // it has no deadline: nothing else wakes it
			reads <- read{raw, end, err}
		}
	}()
	var ends []uint64
	for number := range uint64(records) {
		if number > 4 {
			r.Release(ends[number-4])
		}
		awaitGoroutine(t, "IO wait", "(*ring).Read(")
		put(number, n)
		select {
		case got := <-reads:
			require.NoError(t, got.err)
			require.Equal(t, number, binary.NativeEndian.Uint64(got.raw))
			require.Len(t, got.raw, n)
			ends = append(ends, got.end)
		case <-time.After(time.Minute):
			require.Fail(t, "the reader was not woken")
		}
	}
}

// awaitGoroutine waits until there is a goroutine in this state whose stack has
// this in it.
func awaitGoroutine(t *testing.T, state, in string) {
	t.Helper()
	buffer := make([]byte, 1<<20)
	require.Eventually(t, func() bool {
		for stack := range strings.SplitSeq(string(buffer[:runtime.Stack(buffer, true)]), "\n\n") {
			first, rest, _ := strings.Cut(stack, "\n")
			if strings.Contains(first, "["+state) && strings.Contains(rest, in) {
				return true
			}
		}
		return false
	}, time.Minute, time.Millisecond, "no goroutine is in %s, %s", in, state)
}

func TestRingIsFlushed(t *testing.T) {
	m, put := newProducer(t)
	r := open(t, m)
	put(1, 8)
	require.NoError(t, r.Flush())
	r.SetDeadline(time.Now().Add(time.Hour))
	_, _, err := r.Read(nil)
	require.NoError(t, err, "what is there comes first")
	_, _, err = r.Read(nil)
	require.ErrorIs(t, err, ErrFlushed)
	flushed := make(chan error, 1)
	go func() {
		_, _, err := r.Read(nil)
		flushed <- err
	}()
	awaitGoroutine(t, "IO wait", "(*ring).Read(") // for an hour, the deadline
	require.NoError(t, r.Flush())
	require.ErrorIs(t, <-flushed, ErrFlushed)
	require.NoError(t, r.Flush())
	r.SetDeadline(time.Now().Add(time.Millisecond))
	_, _, err = r.Read(nil)
	require.ErrorIs(t, err, ErrFlushed)
	_, _, err = r.Read(nil)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the deadline holds when the flush was answered")

	closed := make(chan error, 1)
	r.SetDeadline(time.Time{})
	go func() {
		_, _, err := r.Read(nil)
		closed <- err
	}()
	awaitGoroutine(t, "IO wait", "(*ring).Read(")
	require.NoError(t, r.Close())
	require.ErrorIs(t, <-closed, os.ErrClosed)
	require.ErrorIs(t, r.Flush(), os.ErrClosed)
}

// TestRingIsClosedInTheMidstOfReading closes a ring while its reader, whom a
// record has just woken, is about to look whether there is something.
func TestRingIsClosedInTheMidstOfReading(t *testing.T) {
	m, put := newProducer(t)
	r, err := openRing(m)
	require.NoError(t, err)
	read, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, _, err := r.Read(nil)
		read <- err
	}()
	awaitGoroutine(t, "IO wait", "(*ring).Read(")
	// The lock is taken in the order of arrival.
	r.mu.Lock()
	go func() { closed <- r.Close() }()
	awaitGoroutine(t, "sync.Mutex.Lock", "(*ring).Close(")
	put(1, 8)
	awaitGoroutine(t, "sync.Mutex.Lock", "(*ring).unread(")
	r.mu.Unlock()
	for what, ended := range map[string]struct {
		err  <-chan error
		want error
	}{"Read": {read, os.ErrClosed}, "Close": {closed, nil}} {
		select {
		case err := <-ended.err:
			require.ErrorIs(t, err, ended.want)
		case <-time.After(10 * time.Second):
			require.Fail(t, what+" waits for the other")
		}
	}
}
