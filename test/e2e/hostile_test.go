//go:build linux

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestPathOfAMountOfItsOwn loads a file through a mount that is attached
// nowhere, under which any path can be made to look like the system's.
func TestGuestPathOfAMountOfItsOwn(t *testing.T) {
	guest.Only(t)
	image, err := guest.ModuleImage("dummy")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, unix.Mount("none", dir, "tmpfs", 0, ""))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	forged := "lib/modules/dummy.ko"
	require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(forged)), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, forged), image, 0o600))
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	require.NoError(t, err)
	defer unix.Close(tree)
	fd, err := unix.Openat(tree, forged, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)

	before := latest(t)
	require.NoError(t, unix.FinitModule(fd, "", 0))
	defer guest.Unload("dummy")
	rows := eventsSince(t, before)
	require.Equal(t, byFile, column(rows, "event_name"))
	require.Equal(t, forged, rows[0]["path"], "not absolute: it leads to no root that the loader has")
	require.Equal(t, "path", rows[0]["missing"])
}

// TestGuestInitThatTakesLong asks while a module's init runs.
func TestGuestInitThatTakesLong(t *testing.T) {
	guest.Only(t)
	image, err := guest.ModuleImage("nbd")
	require.NoError(t, err)
	before := latest(t)
	var returned atomic.Bool
	done := make(chan error, 1)
	go func() {
		// Each device takes the emulator some milliseconds.
		err := guest.LoadImage(image, "nbds_max=600")
		returned.Store(true)
		done <- err
	}()
	require.Eventually(t, func() bool {
		_, err := os.Stat("/sys/module/nbd")
		return err == nil
	}, time.Minute, time.Millisecond)
	found := findings(t, before)
	require.False(t, returned.Load(), "the init was too quick for this test")
	require.Len(t, found, 1, "the call was under way before the query began")
	require.Equal(t, "nbd", found[0]["name"])
	require.Equal(t, "init_module", found[0]["trigger"])
	require.Empty(t, found[0]["result"])

	require.NoError(t, <-done)
	defer guest.Unload("nbd")
	rows := eventsSince(t, before)
	require.Equal(t, []string{"security_kernel_load_data", "module_load", "init_module", "sys_exit_init_module"}, column(rows, "event_name"))
	require.Equal(t, "result", rows[2]["missing"])
	require.Equal(t, "0", rows[3]["result"])
	require.Equal(t, found, findings(t, before), "the same finding, unchanged")
}

// floodPause keeps the flood at a pace at which the emulator's store can follow.
const floodPause = 2 * time.Millisecond

// TestGuestQueriesUnderAFlood asks while a user without rights calls
// init_module all the time, so that the kernel always has more to tell.
func TestGuestQueriesUnderAFlood(t *testing.T) {
	guest.Only(t)
	if guest.Kernel() != vm.Newest().String() {
		t.Skip("runs on the newest kernel: the flood is the same on all")
	}
	before := latest(t)
	var stop atomic.Bool
	flooding := make(chan struct{})
	go func() {
		defer close(flooding)
		unprivileged(t, func() {
			for ; !stop.Load(); time.Sleep(floodPause) {
				if err := guest.LoadImage([]byte("x"), ""); !errors.Is(err, unix.EPERM) {
					t.Errorf("init_module: %v", err)
					return
				}
			}
		})
	}()
	defer func() {
		stop.Store(true)
		<-flooding
	}()
	counted := int64(0)
	for range 3 {
		rows := query(t, "SELECT coalesce(sum(count), 0) AS n FROM kernel_module_events WHERE eid > %d AND error = 'EPERM'", before)
		denied := integer(t, rows[0]["n"])
		require.Greater(t, denied, counted)
		counted = denied
	}
}
