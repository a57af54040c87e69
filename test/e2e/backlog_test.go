//go:build linux

package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// backlogCycles is how often TestGuestLoadsWithoutARecorderKeepTheirImages makes a
// successful and a failing load.
const backlogCycles = 200

// TestGuestLoadsWithoutARecorderKeepTheirImages loads small modules from memory while
// no recorder runs. The next recorder gets their hashes, and the names of failed ones,
// from the ring of images alone.
func TestGuestLoadsWithoutARecorderKeepTheirImages(t *testing.T) {
	needPinned(t)
	const name = "tcp_nv"
	module := image(t, name)
	p := newDeployment(t)
	recorder := p.startRecorder(t, guestExtension)
	p.awaitActive(t)
	recorder.terminate(t)
	sets := pinnedSets(t)
	require.Len(t, sets, 1)
	images, records := ringEnd(t, sets[0], "images"), ringEnd(t, sets[0], "records")

	handed, size := tally{}, 0
	load := func(number int, want error) {
		// No two images have the same bytes or the same size.
		content := append(append(module[:len(module):len(module)], fmt.Sprintf("%08d", number)...), make([]byte, 3*number)...)
		err := guest.LoadImage(content, "")
		require.ErrorIs(t, err, want, number)
		handed.count(name, sum(content)+" kernel", err)
		size += len(content)
	}
	for i := range backlogCycles {
		load(2*i, nil)
		load(2*i+1, unix.EEXIST)
		require.NoError(t, countUnload(name, tally{}))
	}
	const loads = 2 * backlogCycles
	images, records = ringEnd(t, sets[0], "images")-images, ringEnd(t, sets[0], "records")-records
	t.Logf("%d loads of %d bytes on average took %d bytes of the ring of images and %d of that of records each",
		loads, size/loads, images/loads, records/loads)
	require.Greater(t, images, uint64(size))
	require.LessOrEqual(t, images, uint64(size+loads*(1024+40)), "an image takes more room than it needs")

	recorder = p.startRecorder(t, guestExtension)
	p.awaitActive(t)
	stored := tally{}
	for _, row := range p.query(t, "SELECT name, sha256, hash_source, error FROM kernel_module_events WHERE source = 'ebpf' AND event_name = 'init_module'") {
		stored[strings.TrimSpace(strings.Join([]string{row["name"], row["sha256"], row["hash_source"], row["error"]}, " "))]++
	}
	missing := 0
	for key := range handed {
		if stored[key] == 0 {
			missing++
		}
	}
	require.Zero(t, missing, "some of %d loads have no image", loads)
	require.Equal(t, handed, stored)
	require.Empty(t, p.query(t, "SELECT source, lost, decode_errors, store_errors FROM kernel_module_sensors WHERE lost > 0 OR decode_errors > 0 OR store_errors > 0"))
	recorder.terminate(t)
}

// TestGuestRequestsLeaveRoomForLoads makes module requests while no recorder runs, by a
// process of which the records take more than 100 KiB. The requests leave half of the
// ring of records to loads, but for one record of each processor. What does not fit counts as
// shed, and not as lost.
func TestGuestRequestsLeaveRoomForLoads(t *testing.T) {
	needPinned(t)
	const modprobe = "/proc/sys/kernel/modprobe"
	before := read(t, modprobe)
	require.NoError(t, os.WriteFile(modprobe, []byte("/nonexistent"), 0))
	defer os.WriteFile(modprobe, []byte(before), 0)
	p := newDeployment(t)
	recorder := p.startRecorder(t, guestExtension)
	p.awaitActive(t)
	recorder.terminate(t)
	sets := pinnedSets(t)
	require.Len(t, sets, 1)
	used := func() uint64 { return ringEnd(t, sets[0], "records") - ringPosition(t, sets[0], "records", 0) }

	self, err := os.Executable()
	require.NoError(t, err)
	top := filepath.Join(filepath.Dir(self), "deep")
	deep := filepath.Join(top, strings.Repeat("d/", 40))
	require.NoError(t, os.MkdirAll(deep, 0o755))
	defer os.RemoveAll(top)
	require.NoError(t, os.Link(self, filepath.Join(deep, "x")))
	ask := func(requests int) {
		cmd := cast(t, "requests", "10", strconv.Itoa(requests))
		cmd.Path, cmd.Dir = filepath.Join(deep, "x"), deep
		require.NoError(t, cmd.Run())
	}
	start := used()
	ask(1)
	require.Greater(t, used()-start, uint64(100<<10), "a request takes less than it should for this test")
	ask(200)
	const (
		half      = 8 << 20
		maxRecord = 10 << 10
	)
	require.Greater(t, used(), uint64(half-maxRecord), "the requests do not fill their half")
	require.LessOrEqual(t, used(), uint64(half+maxRecord*runtime.NumCPU()))

	recorder = p.startRecorder(t, guestExtension)
	p.awaitActive(t)
	counts := p.query(t, "SELECT lost, shed > 0 AS has_shed FROM kernel_module_sensors WHERE source = 'ebpf'")
	require.Equal(t, []map[string]string{{"lost": "0", "has_shed": "1"}}, counts)
	recorder.terminate(t)
}

// requestsRole makes a chain of processes, as long as its first argument says. The last
// one requests modules, as often as the second says.
func requestsRole() error {
	if depth, err := strconv.Atoi(os.Args[1]); err != nil || depth > 0 {
		child := exec.Command("/proc/self/exe", strconv.Itoa(depth-1), os.Args[2])
		child.Stderr = os.Stderr
		return errors.Join(err, child.Run())
	}
	times, err := strconv.Atoi(os.Args[2])
	for range times {
		if err := unix.Mount("none", "/tmp", "nosuch", 0, ""); !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("mount: %w", cmp.Or(err, errAllowed))
		}
	}
	return err
}

// ringEnd returns how many bytes were ever written to a ring buffer of a pinned set.
func ringEnd(t *testing.T, set, name string) uint64 {
	t.Helper()
	return ringPosition(t, set, name, 1)
}

// ringPosition returns the position of a ring buffer's consumer, on page 0, or producer,
// on page 1.
func ringPosition(t *testing.T, set, name string, page int) uint64 {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(pinFolder, set, "maps", name), nil)
	require.NoError(t, err)
	defer m.Close()
	size := os.Getpagesize()
	memory, err := unix.Mmap(m.FD(), int64(page*size), size, unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	defer unix.Munmap(memory)
	return uint64(atomic.LoadUintptr((*uintptr)(unsafe.Pointer(&memory[0]))))
}
