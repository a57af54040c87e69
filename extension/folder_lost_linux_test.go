package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// A mountedFolder is a state folder as a service has it under the unit: a writable mount
// in a file system that is read-only there.
type mountedFolder struct {
	outside string // as the rest of the host sees it
	inside  string // as the service sees it
}

func mountFolder(t *testing.T) mountedFolder {
	t.Helper()
	dir := t.TempDir()
	f := mountedFolder{outside: filepath.Join(dir, "host", "state"), inside: filepath.Join(dir, "service", "state")}
	for _, path := range []string{f.outside, filepath.Dir(f.inside)} {
		require.NoError(t, os.MkdirAll(path, 0o700))
	}
	root := filepath.Dir(f.inside)
	if err := unix.Mount(filepath.Dir(f.outside), root, "", unix.MS_BIND, ""); err != nil {
		if os.Getenv("CI") != "" {
			require.NoError(t, err)
		}
		t.Skipf("needs the right to mount: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(root, unix.MNT_DETACH)) })
	require.NoError(t, unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	f.mount(t)
	return f
}

// mount mounts the folder for the service, as systemd does when it starts the service.
func (f mountedFolder) mount(t *testing.T) {
	t.Helper()
	require.NoError(t, unix.Mount(f.outside, f.inside, "", unix.MS_BIND, ""))
}

// remove removes the folder, and with it the mount. The kernel does that in one step if
// the mount is in another namespace.
func (f mountedFolder) remove(t *testing.T) {
	t.Helper()
	require.NoError(t, unix.Unmount(f.inside, unix.MNT_DETACH))
	require.NoError(t, os.RemoveAll(f.outside))
}

const folderLost = "the state folder was removed, and this process may not create it again: "

func TestRecordEndsIfItMayNotCreateItsFolderAgain(t *testing.T) {
	f := mountFolder(t)
	for range 2 { // the second one is a new start of the service
		m := manage(t, filepath.Join(t.TempDir(), "notify"), 0)
		s := newSlowSource()
		close(s.release)
		c := slowSettings(t, startHost(t), s, "--state-dir", f.inside)
		_, ended := inBackground(t, func(ctx context.Context) error { return record(ctx, c, discard()) })
		m.until("READY=1")
		f.remove(t)
		require.ErrorContains(t, awaitEnd(t, ended), folderLost+"mkdir "+f.inside+": read-only file system; start it again")
		require.NoError(t, os.Mkdir(f.outside, 0o700))
		f.mount(t)
	}
}

// The process that records is outside. It creates the folder again, or ends too. The
// service, which waits to take over, can neither see a new folder nor create one.
func TestRecordEndsIfItMayNoLongerTakeOver(t *testing.T) {
	for name, want := range map[string]string{"created again": "open %s/lock", "gone": "mkdir %s"} {
		t.Run(name, func(t *testing.T) {
			f := mountFolder(t)
			store, err := sqlite.Open(t.Context(), f.outside, sqlite.Options{})
			require.NoError(t, err)
			defer store.Close()
			m := manage(t, filepath.Join(t.TempDir(), "notify"), 0)
			c := slowSettings(t, startHost(t), newSlowSource(), "--state-dir", f.inside)
			_, ended := inBackground(t, func(ctx context.Context) error { return record(ctx, c, discard()) })
			require.Equal(t, []string{"STATUS=waiting: another process records", "READY=1"}, m.until("READY=1"))
			f.remove(t)
			if name == "created again" {
				require.NoError(t, store.Check(t.Context()))
				require.True(t, store.IsRecorder())
			}
			require.EqualError(t, awaitEnd(t, ended), folderLost+fmt.Sprintf(want, f.inside)+": read-only file system; start it again")
		})
	}
}

// The unit does not let the service write to another folder that the configuration names.
func TestAReadOnlyFolderIsRefusedWithARemedy(t *testing.T) {
	other := filepath.Join(filepath.Dir(mountFolder(t).inside), "other")
	_, err := sqlite.Open(t.Context(), other, sqlite.Options{})
	require.EqualError(t, err, "open event store: mkdir "+other+": read-only file system; mount it for writing, "+
		"or add it to ReadWritePaths= of the systemd unit, or choose another state folder")
}

// Where no process may create the folder again, an extension that osquery starts keeps its
// tables, which say so.
func TestServeReportsAFolderThatItMayNotCreateAgain(t *testing.T) {
	f := mountFolder(t)
	host, s := startHost(t), newSlowSource()
	c := slowSettings(t, host, s, "--state-dir", f.inside)
	stop, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, discard()) })
	awaitClosed(t, s.began)
	f.remove(t)
	close(s.release) // emits an event
	const want = "store: the lock in %s was removed and cannot be created again from here; restart this process; 1 events wait in memory"
	require.Eventually(t, func() bool {
		rows, err := host.Query(t.Context(), "SELECT state, store_reason FROM kernel_module_sensors")
		require.NoError(t, err)
		return len(rows) == 1 && rows[0]["state"] == kmodquery.StateActive &&
			strings.HasPrefix(rows[0]["store_reason"], strings.ReplaceAll(want, "%s", f.inside))
	}, time.Minute, 20*time.Millisecond)
	stop()
	require.ErrorContains(t, awaitEnd(t, ended), "store") // the event is lost
}
