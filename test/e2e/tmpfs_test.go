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

// TestGuestTmpfs fills the disk of the state folder with a storm, and makes
// room again.
func TestGuestTmpfs(t *testing.T) {
	needPinned(t)
	p := newPost(t)
	require.NoError(t, os.Mkdir(p.state, 0o700))
	mount(t, p.state, "tmpfs", "size=2m,mode=0700")
	recorder := p.relieve(t, guestExtension)
	p.awaitActive(t)
	storm := startStorm(t, stormPause/4)

	const health = "SELECT source, state, lost, shed, store_reason FROM kernel_module_sensors WHERE source = 'ebpf'"
	var sensor map[string]string
	require.Eventually(t, func() bool {
		sensor = p.ask(t, health)[0]
		return sensor["store_reason"] != ""
	}, 5*time.Minute, 200*time.Millisecond, "the disk never becomes full")
	t.Logf("the disk is full: %v", sensor)
	require.Equal(t, "active", sensor["state"], "it watches all the same")
	// What waits is not lost with the process that held it.
	recorder.kill(t)
	recorder = p.relieve(t, guestExtension)
	require.Eventually(t, func() bool {
		rows, err := p.tryAsk(health)
		return err == nil && len(rows) == 1 && rows[0]["store_reason"] != ""
	}, 5*time.Minute, 200*time.Millisecond, "the disk is not full any more")

	require.NoError(t, unix.Mount("none", p.state, "tmpfs", unix.MS_REMOUNT, "size=256m,mode=0700"))
	done := storm.end(t)
	require.Eventually(t, func() bool {
		// While the store takes nothing, tables tell what is stored.
		rows, err := p.tryAsk(health)
		return err == nil && len(rows) == 1 && rows[0]["store_reason"] == ""
	}, time.Minute, 200*time.Millisecond, "it does not go on when there is room")
	p.requireExactly(t, done)
	recorder.terminate(t)
}

// TestGuestFullDisk starts a recorder where there is no room to begin a store: it
// watches all the same.
func TestGuestFullDisk(t *testing.T) {
	needPinned(t)
	p := newPost(t)
	require.NoError(t, os.Mkdir(p.state, 0o700))
	mount(t, p.state, "tmpfs", "size=2m,mode=0700")
	filler := filepath.Join(p.state, "filler")
	require.ErrorIs(t, os.WriteFile(filler, make([]byte, 4<<20), 0o600), unix.ENOSPC)
	recorder := p.relieve(t, guestExtension)
	p.awaitActive(t)
	require.NoError(t, guest.LoadImage(image(t, "tcp_nv"), ""))
	require.NoError(t, guest.Unload("tcp_nv"))
	require.NoError(t, os.Remove(filler))
	require.Eventually(t, func() bool {
		rows, err := p.tryAsk("SELECT name FROM kernel_module_events WHERE event_name = 'module_load' AND source = 'ebpf'")
		return err == nil && len(rows) == 1 && rows[0]["name"] == "tcp_nv"
	}, 2*time.Minute, 200*time.Millisecond, "the load that waited in memory is not stored")
	recorder.terminate(t)
}
