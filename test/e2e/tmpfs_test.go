//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// scarceBytes are too few for the store to append a single event.
const scarceBytes = 128 << 10

// TestGuestFullDiskLosesNothing fills the disk of the state folder during a storm, and
// makes room again.
func TestGuestFullDiskLosesNothing(t *testing.T) {
	needPinned(t)
	p := newDeployment(t)
	require.NoError(t, os.Mkdir(p.state, 0o700))
	mount(t, p.state, "tmpfs", "size=2m,mode=0700")
	recorder := p.startRecorder(t, guestExtension)
	p.awaitActive(t)
	storm := startStorm(t, stormPause/4)

	require.Eventually(t, func() bool {
		rows, err := p.tryQuery("SELECT 1 FROM kernel_module_events WHERE source = 'ebpf' LIMIT 1")
		return err == nil && len(rows) == 1
	}, busyLimit, 200*time.Millisecond, "nothing is stored")
	filler, err := os.Create(filepath.Join(p.state, "filler"))
	require.NoError(t, err)
	defer filler.Close()
	// The store's log may free space again.
	fill := func() {
		var disk unix.Statfs_t
		if unix.Statfs(p.state, &disk) == nil {
			_, _ = filler.Write(make([]byte, max(0, int64(disk.Bavail)*disk.Bsize-scarceBytes)))
		}
	}
	// While the store cannot append, tables show the stored events.
	await := func(isFull bool) (sensor map[string]string) {
		require.Eventually(t, func() bool {
			if isFull {
				fill()
			}
			rows, err := p.tryQuery("SELECT source, state, lost, shed, store_reason FROM kernel_module_sensors WHERE source = 'ebpf'")
			if err != nil || len(rows) != 1 {
				return false
			}
			sensor = rows[0]
			return isFull == (sensor["store_reason"] != "")
		}, busyLimit, 200*time.Millisecond, "is the disk full? %t", isFull)
		return sensor
	}
	sensor := await(true)
	t.Logf("the disk is full: %v", sensor)
	require.Equal(t, "active", sensor["state"], "it watches nevertheless")
	// The end of the process does not lose the events that wait for the store.
	recorder.kill(t)
	recorder = p.startRecorder(t, guestExtension)
	await(true)

	require.NoError(t, unix.Mount("none", p.state, "tmpfs", unix.MS_REMOUNT, "size=256m,mode=0700"))
	done := storm.end(t)
	await(false)
	p.requireExactly(t, done)
	recorder.terminate(t)
}

// TestGuestWatchesWhileTheDiskIsFull starts a recorder without room to create a store.
// It watches nevertheless.
func TestGuestWatchesWhileTheDiskIsFull(t *testing.T) {
	needPinned(t)
	p := newDeployment(t)
	require.NoError(t, os.Mkdir(p.state, 0o700))
	mount(t, p.state, "tmpfs", "size=2m,mode=0700")
	filler := filepath.Join(p.state, "filler")
	require.ErrorIs(t, os.WriteFile(filler, make([]byte, 4<<20), 0o600), unix.ENOSPC)
	recorder := p.startRecorder(t, guestExtension)
	p.awaitActive(t)
	require.NoError(t, guest.LoadImage(image(t, "tcp_nv"), ""))
	require.NoError(t, guest.Unload("tcp_nv"))
	require.NoError(t, os.Remove(filler))
	require.Eventually(t, func() bool {
		rows, err := p.tryQuery("SELECT name FROM kernel_module_events WHERE event_name = 'module_load' AND source = 'ebpf'")
		return err == nil && len(rows) == 1 && rows[0]["name"] == "tcp_nv"
	}, busyLimit, 200*time.Millisecond, "the load that waited in memory is not stored")
	recorder.terminate(t)
}
