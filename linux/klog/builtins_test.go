//go:build linux

package klog

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Root can put anything in the place of the list. The source must neither wait for it nor
// read all of it.
func TestListOfBuiltinsIsReadWithinBounds(t *testing.T) {
	dir := t.TempDir()
	pipe, large, link, list := filepath.Join(dir, "pipe"), filepath.Join(dir, "large"), filepath.Join(dir, "link"), filepath.Join(dir, "list")
	require.NoError(t, unix.Mkfifo(pipe, 0o600))
	require.NoError(t, os.WriteFile(large, nil, 0o600))
	require.NoError(t, os.Truncate(large, 8*maxBuiltins))
	require.NoError(t, os.WriteFile(list, []byte("kernel/fs/ext4.ko\n"), 0o600))
	require.NoError(t, os.Symlink(list, link))
	require.Empty(t, readBuiltins(pipe, filepath.Join(dir, "nosuch")))
	require.Len(t, readBuiltins(large), maxBuiltins)
	require.Equal(t, "kernel/fs/ext4.ko\n", readBuiltins(link, pipe, list))
}
