package shell

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/peterh/liner"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Any user who may read the folder can hold its lock.
func TestALockThatIsHeldDoesNotStopTheShell(t *testing.T) {
	h := history{path: filepath.Join(t.TempDir(), "history")}
	dir, err := os.Open(filepath.Dir(h.path))
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, unix.Flock(int(dir.Fd()), unix.LOCK_EX))
	tried := make(chan error, 2)
	go func() {
		_, err := h.load()
		tried <- err
		tried <- h.add("SELECT 1")
	}()
	for range 2 {
		select {
		case err := <-tried:
			require.ErrorIs(t, err, unix.EWOULDBLOCK)
			require.ErrorContains(t, err, "another process holds it")
		case <-time.After(10 * time.Second):
			t.Fatal("the shell waits for the lock")
		}
	}
	require.NoError(t, dir.Close())
	require.NoError(t, h.add("SELECT 1"))
}

// A link in the folder must not make root read or write another file, and a pipe must not
// make it wait.
func TestHistoryFollowsNoLinks(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	require.NoError(t, os.WriteFile(other, []byte("SELECT 'other'\n"), 0o600))
	h := history{path: filepath.Join(dir, "history")}
	require.NoError(t, os.Symlink(other, h.path))
	_, err := h.load()
	require.ErrorIs(t, err, unix.ELOOP)
	require.ErrorIs(t, h.add("SELECT 1"), unix.ELOOP)

	require.NoError(t, os.Remove(h.path))
	require.NoError(t, os.WriteFile(h.path, []byte(strings.Repeat("SELECT 1\n", 3*liner.HistoryLimit)), 0o600))
	require.NoError(t, os.Symlink(other, h.path+".new"))
	_, err = h.load()
	require.NoError(t, err)
	kept, err := os.ReadFile(other)
	require.NoError(t, err)
	require.Equal(t, "SELECT 'other'\n", string(kept))

	require.NoError(t, os.Remove(h.path))
	require.NoError(t, unix.Mkfifo(h.path, 0o600))
	_, err = h.load()
	require.ErrorContains(t, err, "is not a regular file")
	require.ErrorContains(t, h.add("SELECT 2"), "history")
}
