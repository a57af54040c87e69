//go:build linux

package host

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestTreeResolvesLinksBelowItsRoot(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "usr/lib/a"), 0o755))
	for link, target := range map[string]string{
		"lib": "usr/lib", "absolute": "/lib/a", "up": "../../../../lib/a", "loop": "loop", "dangling": "nowhere", "usr/lib/a/chain": "../../../absolute/.", "slash": "/",
	} {
		require.NoError(t, os.Symlink(target, filepath.Join(root, link)))
	}
	tree, err := OpenTree(root)
	require.NoError(t, err)
	for path, want := range map[string]string{
		"/lib/a": "/usr/lib/a", "/absolute": "/usr/lib/a", "/up": "/usr/lib/a", "/usr/lib/a/chain/chain": "/usr/lib/a", "/": "/", "/slash/lib//./a": "/usr/lib/a",
		"/lib/../..": "/",
	} {
		resolved, err := tree.Resolve(path)
		require.NoError(t, err, path)
		require.Equal(t, want, resolved, path)
	}
	_, err = tree.Resolve("/loop")
	require.ErrorIs(t, err, unix.ELOOP)
	_, err = tree.Resolve("/dangling")
	require.ErrorIs(t, err, os.ErrNotExist)

	// A mount that may never answer is not touched, nor is a link that leads there.
	tree.mounts = []mount{{point: filepath.Join(root, "usr/lib/a"), fstype: "fuse.sshfs"}}
	for _, path := range []string{"/lib/a/b", "/absolute"} {
		_, err = tree.Resolve(path)
		require.ErrorIs(t, err, errRemote)
	}
	_, err = tree.Resolve("/lib")
	require.NoError(t, err)
}

func TestTreeOpensRegularFilesOnly(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "file"), []byte("text"), 0o600))
	require.NoError(t, os.Symlink("file", filepath.Join(root, "link")))
	require.NoError(t, unix.Mkfifo(filepath.Join(root, "pipe"), 0o600))
	tree, err := OpenTree(root)
	require.NoError(t, err)
	file, info, err := tree.Open("/file")
	require.NoError(t, err)
	defer file.Close()
	text, err := io.ReadAll(file)
	require.NoError(t, err)
	require.Equal(t, "text", string(text))
	require.EqualValues(t, 4, info.Size())
	_, info, err = tree.Open("/pipe")
	require.ErrorIs(t, err, errNotRegular)
	require.Equal(t, "pipe", info.Name())
	_, _, err = tree.Open("/link") // it was not resolved
	require.Error(t, err)

	var names []string
	require.NoError(t, tree.Names("/", func(name string) bool { names = append(names, name); return true }))
	slices.Sort(names)
	require.Equal(t, []string{"file", "link", "pipe"}, names)
	count := 0
	require.NoError(t, tree.Names("/", func(string) bool { count++; return false }))
	require.Equal(t, 1, count)
	require.Error(t, tree.Names("/pipe", func(string) bool { return true }))
}
