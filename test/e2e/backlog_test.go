//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
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

// ringEnd returns how many bytes were ever written to a ring buffer of a pinned set.
func ringEnd(t *testing.T, set, name string) uint64 {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(pinFolder, set, "maps", name), nil)
	require.NoError(t, err)
	defer m.Close()
	page := os.Getpagesize()
	producer, err := unix.Mmap(m.FD(), int64(page), page, unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	defer unix.Munmap(producer)
	return uint64(atomic.LoadUintptr((*uintptr)(unsafe.Pointer(&producer[0]))))
}
