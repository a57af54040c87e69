//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

const (
	// floodTime is the duration of the flood in TestGuestMemoryIsBoundedUnderAFlood.
	floodTime = 8 * time.Second
	// floodImage is the size of the images without a module. The ring has room for one
	// of them, and the recorder's memory for six.
	floodImage = 10 << 20
	// floodMemory bounds the maximum memory of the extension.
	floodMemory = 384 << 20
)

// TestGuestMemoryIsBoundedUnderAFlood makes root pass the kernel as many bytes as
// possible that are not a module, and unprivileged users call all the time, while
// modules are loaded and unloaded. Image bytes may be dropped and denied calls are
// folded. No load is lost, and memory and open files are bounded.
func TestGuestMemoryIsBoundedUnderAFlood(t *testing.T) {
	guest.Only(t)
	if guest.Kernel() != "6.1" && guest.Kernel() != vm.Newest().String() {
		t.Skip("runs on 6.1 and the newest kernel: the code that uses the memory is the same on all")
	}
	pid := shared(t).extension.PID()
	before := latest(t)
	const health = "SELECT state, lost, decode_errors, store_errors FROM kernel_module_sensors WHERE source = 'ebpf'"
	sensor, files := query(t, health), openFiles(t, pid)
	module, noModule := image(t, "tcp_nv"), bytes.Repeat([]byte("x"), floodImage)
	var loads, images, denied atomic.Int64
	var flooding sync.WaitGroup
	until := time.Now().Add(floodTime)
	flooding.Go(func() {
		for time.Now().Before(until) {
			if err := guest.LoadImage(noModule, ""); !errors.Is(err, unix.ENOEXEC) {
				t.Errorf("init_module of bytes without a module: %v", err)
				return
			}
			images.Add(1)
		}
	})
	flooding.Go(func() {
		unprivileged(t, func() {
			for ; time.Now().Before(until); time.Sleep(floodPause) {
				if err := guest.LoadImage(noModule[:1], ""); !errors.Is(err, unix.EPERM) {
					t.Errorf("init_module by an unprivileged user: %v", err)
					return
				}
				denied.Add(1)
			}
		})
	})
	for time.Now().Before(until) && !t.Failed() {
		if err := guest.LoadImage(module, ""); err != nil {
			t.Errorf("init_module: %v", err)
		}
		loads.Add(1)
		err := guest.Unload("tcp_nv")
		for errors.Is(err, unix.EINTR) {
			err = guest.Unload("tcp_nv")
		}
		if err != nil {
			t.Errorf("delete_module: %v", err)
		}
	}
	flooding.Wait()
	require.False(t, t.Failed())
	// During the flood all images may be dropped. Afterwards images are read again.
	last := bytes.Repeat([]byte("y"), floodImage)
	require.Eventually(t, func() bool {
		require.ErrorIs(t, guest.LoadImage(last, ""), unix.ENOEXEC)
		images.Add(1)
		return len(query(t, "SELECT eid FROM kernel_module_events WHERE eid > %d AND sha256 = '%s'", before, sum(last))) > 0
	}, time.Minute, 100*time.Millisecond, "no image is read after the flood")

	came := query(t, "SELECT count(*) AS n, count(DISTINCT nullif(load_id, '')) AS attempts FROM kernel_module_events WHERE eid > %d AND event_name = 'module_load'", before)
	n := strconv.FormatInt(loads.Load(), 10)
	require.Equal(t, []map[string]string{{"n": n, "attempts": n}}, came)
	refused := query(t, "SELECT count(*) AS n, count(nullif(sha256, '')) AS hashed FROM kernel_module_events WHERE eid > %d AND event_name = 'init_module' AND error = 'ENOEXEC'", before)
	require.Equal(t, strconv.FormatInt(images.Load(), 10), refused[0]["n"])
	folded := query(t, "SELECT count(*) AS \"rows\", sum(count) AS n FROM kernel_module_events WHERE eid > %d AND error = 'EPERM'", before)
	require.Equal(t, strconv.FormatInt(denied.Load(), 10), folded[0]["n"])
	require.Equal(t, sensor, query(t, health))
	require.Eventually(t, func() bool { return openFiles(t, pid) <= files }, time.Minute, 100*time.Millisecond, "files of the extension left open")

	now := status(t, path.Join("/proc", strconv.Itoa(pid)))
	peak, err := strconv.ParseInt(strings.TrimSuffix(now["VmHWM"], " kB"), 10, 64)
	require.NoError(t, err)
	t.Logf("%d loads, %d images of %d MiB of which %s were hashed, %d denied calls in %s rows: the extension had %d MiB at most, has %s, and %s threads",
		loads.Load(), images.Load(), floodImage>>20, refused[0]["hashed"], denied.Load(), folded[0]["rows"], peak>>10, now["VmRSS"], now["Threads"])
	require.Less(t, peak<<10, int64(floodMemory))
}

// openFiles returns how many files a process has open.
func openFiles(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(entries)
}
