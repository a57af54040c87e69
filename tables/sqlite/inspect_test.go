package sqlite

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestInspectSeesAStoreAndChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	_, err := Inspect(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = os.Lstat(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)

	store, err := Open(t.Context(), dir, Options{})
	require.NoError(t, err)
	require.NoError(t, store.Close())
	list := func() (names []string) {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, entry := range entries {
			info, err := entry.Info()
			require.NoError(t, err)
			names = append(names, entry.Name()+info.Mode().String()+info.ModTime().String())
		}
		return names
	}
	before := list()
	found, err := Inspect(dir)
	require.NoError(t, err)
	require.Equal(t, before, list())
	require.Equal(t, filepath.Join(dir, databaseName), found.Path)
	require.Equal(t, len(migrations), found.Schema)
	require.Equal(t, len(migrations), found.Newest)
	require.Positive(t, found.Bytes)
	require.NotZero(t, found.Free)
	require.Zero(t, found.Damaged)

	require.NoError(t, os.WriteFile(found.Path+damagedInfix+"20260101T000000Z", nil, 0o600))
	found, err = Inspect(dir)
	require.NoError(t, err)
	require.Equal(t, 1, found.Damaged)
}

func TestInspectRefusesWhatOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, databaseName)
	require.NoError(t, os.WriteFile(path, []byte("SQLite format 3\x00"), 0o600))
	_, err := Inspect(dir)
	require.ErrorContains(t, err, "is no SQLite database")
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Symlink("/etc/passwd", path))
	_, err = Inspect(dir)
	require.ErrorContains(t, err, "is a link")
	require.NoError(t, os.Chmod(dir, 0o777))
	_, err = Inspect(dir)
	require.ErrorContains(t, err, "others may write")
	_, err = Inspect(filepath.Join(path))
	require.Error(t, err)
}
