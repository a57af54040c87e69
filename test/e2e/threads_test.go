//go:build linux

package e2e

import (
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestMissedReturnsEndTheirLoads holds so many calls in the kernel that kprobes,
// where they observe returns, can follow no other call. A load whose return was missed
// must not count as still running.
func TestGuestMissedReturnsEndTheirLoads(t *testing.T) {
	guest.Only(t)
	const sensor = "SELECT lost, hooks FROM kernel_module_sensors WHERE source = 'ebpf'"
	earlier := query(t, sensor)[0]
	dummy := image(t, "dummy")
	release := hold(t, 4*runtime.NumCPU()+20)
	defer release()

	t.Run("of loads", func(t *testing.T) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		before := latest(t)
		for range 3 {
			require.NoError(t, guest.LoadImage(dummy, ""))
			require.NoError(t, guest.Unload("dummy"))
		}
		rows := query(t, `SELECT count(DISTINCT nullif(load_id, '')) AS loads, count(nullif(parent_load_id, '')) AS inside, min(nullif(origin, '')) AS origin, count(*) AS n
			FROM kernel_module_events WHERE eid > %d AND name = 'dummy' AND event_name = 'module_load'`, before)
		require.Equal(t, []map[string]string{{"loads": "3", "inside": "0", "origin": "memory", "n": "3"}}, rows)
	})

	t.Run("of threads that end", func(t *testing.T) {
		known := knownThreads(t)
		for range 50 {
			onItsOwnThread(t, func() error { return guest.LoadImage([]byte("no module"), "") }, unix.ENOEXEC)
		}
		// A thread ends somewhat later than its goroutine, and other threads may load
		// meanwhile.
		require.Eventually(t, func() bool { return knownThreads(t) < known+10 }, 30*time.Second, 100*time.Millisecond)
	})

	// Calls of unprivileged users must not take room from permitted loads.
	t.Run("of users who must not load", func(t *testing.T) {
		known := knownThreads(t)
		var made, living sync.WaitGroup
		end := make(chan struct{})
		for range 50 {
			made.Add(1)
			living.Go(func() {
				unprivileged(t, func() {
					if err := guest.LoadImage([]byte("x"), ""); !errors.Is(err, unix.EPERM) {
						t.Errorf("a user's call returned %v", err)
					}
					made.Done()
					<-end
				})
			})
		}
		made.Wait()
		require.LessOrEqual(t, knownThreads(t), known)
		close(end)
		living.Wait()
	})

	later := query(t, sensor)[0]
	missed := integer(t, later["lost"]) - integer(t, earlier["lost"])
	if strings.Contains(later["hooks"], "sys_init_module (kretprobe)") {
		require.GreaterOrEqual(t, missed, int64(50), "no return was missed, so this test had no effect")
	} else {
		require.Zero(t, missed)
	}
}

// hold makes this many threads call init_module with an image of which the kernel
// cannot read a byte until release is called.
func hold(t *testing.T, threads int) (release func()) {
	t.Helper()
	page := unix.Getpagesize()
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	require.Zero(t, errno)
	faults := int(fd)
	closeOnce := sync.OnceFunc(func() { unix.Close(faults) })
	t.Cleanup(closeOnce)
	// linux/userfaultfd.h: UFFDIO_API and UFFDIO_REGISTER.
	api := struct{ api, features, ioctls uint64 }{api: 0xaa}
	require.NoError(t, ioctl(faults, 0xc018aa3f, unsafe.Pointer(&api)))
	image, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Munmap(image) })
	register := struct{ start, length, mode, ioctls uint64 }{uint64(uintptr(unsafe.Pointer(&image[0]))), uint64(page), 1, 0}
	require.NoError(t, ioctl(faults, 0xc020aa00, unsafe.Pointer(&register)))

	var held sync.WaitGroup
	for range threads {
		held.Go(func() {
			params := []byte{0}
			_, _, errno := unix.Syscall(unix.SYS_INIT_MODULE,
				uintptr(unsafe.Pointer(&image[0])), uintptr(len(image)), uintptr(unsafe.Pointer(&params[0])))
			if errno != unix.ENOEXEC {
				t.Errorf("a call that was held returned %v", errno)
			}
		})
	}
	for range threads {
		var fault [32]byte // struct uffd_msg
		_, err := unix.Read(faults, fault[:])
		require.NoError(t, err)
	}
	return func() {
		closeOnce() // the kernel then fills the page by itself
		held.Wait()
	}
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// onItsOwnThread runs f on a new thread that ends with f.
func onItsOwnThread(t *testing.T, f func() error, want error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocks: the runtime ends the thread
		done <- f()
	}()
	require.ErrorIs(t, <-done, want)
}

// knownThreads returns the number of threads that all recorders of this kernel track.
func knownThreads(t *testing.T) int {
	t.Helper()
	known := 0
	for id := ebpf.MapID(0); ; {
		var err error
		if id, err = ebpf.MapGetNextID(id); errors.Is(err, unix.ENOENT) {
			return known
		}
		require.NoError(t, err)
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		require.NoError(t, err)
		info, err := m.Info()
		require.NoError(t, err)
		if info.Name == "threads" {
			var tid uint32
			value := make([]byte, m.ValueSize())
			entries := m.Iterate()
			for entries.Next(&tid, &value) {
				known++
			}
			require.NoError(t, entries.Err())
		}
		m.Close()
	}
}
