package sqlite

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// stranger is the id of another user.
const stranger = 54321

func TestOpenRefusesFilesThatOthersControl(t *testing.T) {
	write := func(t *testing.T, path string) {
		t.Helper()
		require.NoError(t, os.WriteFile(path, nil, 0o600))
	}
	for name, test := range map[string]struct {
		prepare func(t *testing.T, dir string)
		want    string // with %s for the folder
		asRoot  bool
	}{
		"everybody may write to the folder": {func(t *testing.T, dir string) { require.NoError(t, os.Chmod(dir, 0o777)) },
			"others may write to %[1]s (mode 0777); give it mode 0700 or choose another state folder", false},
		"a group may write to the folder": {func(t *testing.T, dir string) { require.NoError(t, os.Chmod(dir, 0o770)) },
			"others may write to %[1]s (mode 0770); give it mode 0700 or choose another state folder", false},
		"a sticky folder as /tmp": {func(t *testing.T, dir string) { require.NoError(t, os.Chmod(dir, 0o777|os.ModeSticky)) },
			"others may write to %[1]s (mode 0777); give it mode 0700 or choose another state folder", false},
		"the folder is another user's": {func(t *testing.T, dir string) { require.NoError(t, os.Chown(dir, stranger, -1)) },
			"%[1]s belongs to user 54321; give it to user 0 or choose another state folder", true},
		"the database is another user's": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "events.db"))
			require.NoError(t, os.Chown(filepath.Join(dir, "events.db"), stranger, -1))
		}, "%[1]s/events.db belongs to user 54321; give it to user 0 or choose another state folder", true},
		"the log is another user's": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "events.db-wal"))
			require.NoError(t, os.Chown(filepath.Join(dir, "events.db-wal"), stranger, -1))
		}, "%[1]s/events.db-wal belongs to user 54321; give it to user 0 or choose another state folder", true},
		"the database is a link": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "elsewhere"))
			require.NoError(t, os.Symlink("elsewhere", filepath.Join(dir, "events.db")))
		}, "%[1]s/events.db cannot be opened: it is a link; move it away or choose another state folder", false},
		"the log is a link": {func(t *testing.T, dir string) {
			require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(dir, "events.db-wal")))
		}, "%[1]s/events.db-wal cannot be opened: it is a link; move it away or choose another state folder", false},
		"the lock is a link": {func(t *testing.T, dir string) {
			require.NoError(t, os.Symlink("/etc/shadow", filepath.Join(dir, "lock")))
		}, "%[1]s/lock cannot be opened: it is a link; move it away or choose another state folder", false},
		"the gap is another user's": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "gap"))
			require.NoError(t, os.Chown(filepath.Join(dir, "gap"), stranger, -1))
		}, "%[1]s/gap belongs to user 54321; give it to user 0 or choose another state folder", true},
		"the gap has another name": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "elsewhere"))
			require.NoError(t, os.Link(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "gap")))
		}, "%[1]s/gap has other names; move it away or choose another state folder", false},
		"an unfinished database is a link": {func(t *testing.T, dir string) {
			require.NoError(t, os.Symlink("/etc/shadow", filepath.Join(dir, "events.db.new")))
		}, "%[1]s/events.db.new cannot be opened: it is a link; move it away or choose another state folder", false},
		"the database has another name": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "elsewhere"))
			require.NoError(t, os.Link(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "events.db")))
		}, "%[1]s/events.db has other names; move it away or choose another state folder", false},
		"the database is a socket": {func(t *testing.T, dir string) {
			listener, err := net.Listen("unix", filepath.Join(dir, "events.db"))
			require.NoError(t, err)
			t.Cleanup(func() { listener.Close() })
		}, "%[1]s/events.db cannot be opened: it is a special file; move it away or choose another state folder", false},
	} {
		t.Run(name, func(t *testing.T) {
			if test.asRoot && os.Geteuid() != 0 {
				t.Skip("only root can give files to another user")
			}
			dir, err := os.MkdirTemp("", "state")
			require.NoError(t, err)
			t.Cleanup(func() { os.RemoveAll(dir) })
			test.prepare(t, dir)
			before, err := os.ReadDir(dir)
			require.NoError(t, err)
			_, err = Open(context.Background(), dir, Options{})
			require.EqualError(t, err, "open event store: "+fmt.Sprintf(test.want, dir))
			after, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Equal(t, before, after, "a file was created")
		})
	}
}

func TestALinkToTheFolderIsFollowedIfItIsOurs(t *testing.T) {
	parent := t.TempDir()
	target, link := filepath.Join(parent, "target"), filepath.Join(parent, "link")
	require.NoError(t, os.Mkdir(target, 0o700))
	require.NoError(t, os.Symlink("target", link))
	s, err := Open(context.Background(), link, Options{})
	require.NoError(t, err, "a link of this user is refused")
	status, err := s.Status(context.Background())
	require.NoError(t, err)
	require.Equal(t, filepath.Join(target, databaseName), status.Path)
	require.NoError(t, s.Close())

	require.NoError(t, os.Chmod(target, 0o777))
	_, err = Open(context.Background(), link, Options{})
	require.ErrorContains(t, err, "others may write to "+target)
	require.NoError(t, os.Chmod(target, 0o700))

	if os.Geteuid() != 0 {
		t.Skip("only root can give files to another user")
	}
	require.NoError(t, os.Lchown(link, stranger, -1))
	_, err = Open(context.Background(), link, Options{})
	require.EqualError(t, err, "open event store: "+link+" belongs to user 54321; give it to user 0 or choose another state folder")
}

func TestPermissionsOfOthersAreRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s, err := Open(context.Background(), dir, Options{})
	require.NoError(t, err)
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 1)))
	s.SetWatched(time.Now())
	s.SetGap(time.Now(), time.Now())
	require.NoError(t, s.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "history"), nil, 0o600))
	damaged := filepath.Join(dir, "events.db.damaged-20260101T000000Z")
	require.NoError(t, os.WriteFile(damaged, nil, 0o600))
	mode := func(path string) os.FileMode {
		info, err := os.Stat(path)
		require.NoError(t, err)
		return info.Mode().Perm()
	}
	loosen := func() {
		require.NoError(t, os.Chmod(dir, 0o755))
		for _, name := range []string{databaseName, lockName, watchedName, gapName, filepath.Base(damaged)} {
			require.NoError(t, os.Chmod(filepath.Join(dir, name), 0o664))
		}
	}
	loosen()
	s = openIn(t, dir, Options{})
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 1)))
	require.Equal(t, os.FileMode(0o700), mode(dir))
	for _, name := range []string{databaseName, databaseName + "-wal", databaseName + "-shm", lockName, watchedName, gapName, filepath.Base(damaged)} {
		require.Equal(t, os.FileMode(0o600), mode(filepath.Join(dir, name)), name)
	}

	// A folder with other uses keeps its mode.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "notes"), nil, 0o644))
	loosen()
	openIn(t, dir, Options{})
	require.Equal(t, os.FileMode(0o755), mode(dir))
	require.Equal(t, os.FileMode(0o644), mode(filepath.Join(dir, "notes")))
	require.Equal(t, os.FileMode(0o600), mode(filepath.Join(dir, databaseName)))
}

// Removing the state folder does not lead to two recorders: the running recorder creates
// the folder and the lock again.
func TestARemovedStateFolderIsCreatedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openIn(t, dir, Options{})
	require.NoError(t, appendEvents(t.Context(), s, []kmodquery.Event{{Time: 1, Name: "a"}}))
	require.NoError(t, os.RemoveAll(dir))
	var others sync.WaitGroup // wait for the recorder to hold the lock again
	others.Go(func() {
		for deadline := time.Now().Add(10 * time.Second); !s.IsRecorder() && time.Now().Before(deadline); {
			time.Sleep(time.Microsecond)
		}
	})
	after := []kmodquery.Event{{Time: 2, Name: "b"}}
	require.NoError(t, appendEvents(t.Context(), s, after))
	others.Wait()
	require.True(t, s.IsRecorder())
	require.Greater(t, after[0].EID, int64(1), "an EID was reused")
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	other := openIn(t, dir, Options{})
	require.ErrorContains(t, appendEvents(t.Context(), other, after), "another process records")
	require.Len(t, read(t, other, kmodquery.Filter{}), 1)
}

// A recorder that has no events to append creates the folder again too.
func TestCheckCreatesARemovedStateFolderAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openIn(t, dir, Options{})
	require.NoError(t, s.Check(t.Context()))
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, s.Check(t.Context()))
	require.True(t, s.IsRecorder())
	other := openIn(t, dir, Options{})
	require.NoError(t, other.Check(t.Context()))
	require.False(t, other.IsRecorder())
	require.NoError(t, appendEvents(t.Context(), s, []kmodquery.Event{{Time: 1, Name: "a"}}))
	require.Len(t, read(t, other, kmodquery.Filter{}), 1)
}

// moveCursor moves a cursor to the last event, with one new row.
func moveCursor(t *testing.T, s *Store) (bool, error) {
	c, err := s.Cursor(t.Context(), "loads", loads)
	if err != nil {
		return false, err
	}
	return s.Advance(t.Context(), c, c.Last, 1)
}

// If another process has taken the lock, that process records.
func TestARecorderWritesNothingWhileAnotherHoldsItsLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openIn(t, dir, Options{})
	for _, gone := range []string{dir, filepath.Join(dir, lockName)} {
		require.NoError(t, os.RemoveAll(gone))
		other, err := Open(t.Context(), dir, Options{})
		require.NoError(t, err)
		err = appendEvents(t.Context(), s, []kmodquery.Event{{Time: 1, Name: "a"}})
		var refused interface{ Reason() string }
		require.ErrorAs(t, err, &refused)
		require.Contains(t, refused.Reason(), "another process records there now")
		require.NoError(t, appendEvents(t.Context(), other, []kmodquery.Event{{Time: 2, Name: "b"}}))
		_, err = moveCursor(t, s)
		require.Error(t, err)
		moved, err := moveCursor(t, other)
		require.NoError(t, err)
		require.True(t, moved)
		require.NoError(t, other.Close())
		require.NoError(t, appendEvents(t.Context(), s, []kmodquery.Event{{Time: 3, Name: "c"}}), "the other recorder has closed the store")
	}
}
