//go:build linux

package vm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestProgramsTakesTheFirstRoot has a program in two of the folders, and files that are
// not programs.
func TestProgramsTakesTheFirstRoot(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	for _, path := range []string{filepath.Join(first, "usr/bin/program"), filepath.Join(second, "usr/bin/program")} {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.Symlink(self, path))
	}
	text := filepath.Join(second, "usr/lib/text")
	require.NoError(t, os.MkdirAll(filepath.Dir(text), 0o755))
	require.NoError(t, os.WriteFile(text, []byte("no program"), 0o644))

	static, err := isStatic(self)
	require.NoError(t, err)
	w := programFiles{roots: []string{first, second}, triplet: "x86_64-linux-gnu", files: map[string]string{}}
	err = w.add("/bin/program")
	if static {
		require.NoError(t, err)
	} else {
		require.ErrorIs(t, err, errNoFile, "its libraries")
	}
	require.Equal(t, filepath.Join(first, "usr/bin/program"), w.files["/usr/bin/program"])
	require.NoError(t, w.add("/lib/text"))
	require.Equal(t, text, w.files["/usr/lib/text"])
	require.ErrorIs(t, w.add("/usr/bin/other"), errNoFile)
	require.NotContains(t, w.files, "/usr/bin/other")
}
