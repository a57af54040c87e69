//go:build linux

package vm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/stretchr/testify/require"
)

func TestTreeIsPackedInDebiansMergedLayout(t *testing.T) {
	host := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(host, "sub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(host, "sub", "tool"), []byte("#!"), 0o755))
	require.NoError(t, os.Symlink("sub/tool", filepath.Join(host, "alias")))

	tree := newTree()
	tree.data("/etc/config", []byte("text"))
	tree.link("/sbin/insmod", "../bin/kmod")
	require.NoError(t, tree.copy("/lib/things", host))
	var packed bytes.Buffer
	require.NoError(t, tree.pack(&packed))

	got := map[string]string{}
	archive := cpio.NewReader(&packed)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		parent := filepath.Dir(header.Name)
		if parent != "." {
			require.Contains(t, got, parent, "%s comes before its folder", header.Name)
		}
		data, err := io.ReadAll(archive)
		require.NoError(t, err)
		got[header.Name] = header.Mode.String() + " " + header.Linkname + string(data)
	}
	for name, want := range map[string]string{
		"lib":                     "0120777 usr/lib",
		"etc/config":              "0100644 text",
		"usr/sbin/insmod":         "0120777 ../bin/kmod",
		"usr/lib/things/sub":      "040755 ",
		"usr/lib/things/sub/tool": "0100755 #!",
		"usr/lib/things/alias":    "0100755 #!",
	} {
		require.Equal(t, want, got[name], name)
	}
}

func TestTreeNamesTheFileItCannotRead(t *testing.T) {
	tree := newTree()
	tree.file("/usr/bin/tool", "/no/such/file")
	require.ErrorContains(t, tree.pack(io.Discard), "/usr/bin/tool")
}

func TestTreeIsWrittenToAnImage(t *testing.T) {
	need(t, Prepare(t.Context(), AMD64, t.Logf))
	dir := t.TempDir()
	image, program := filepath.Join(dir, "image"), filepath.Join(dir, "program")
	require.NoError(t, makeExt4(t.Context(), image))
	require.NoError(t, os.WriteFile(program, []byte("#!"), 0o755))

	for _, content := range []string{"first", "second"} {
		tree := newTree()
		tree.data("/etc/config", []byte(content))
		require.NoError(t, tree.copy("/sbin/tool", program))
		require.NoError(t, tree.write(t.Context(), image))
	}

	for file, want := range map[string]string{"/etc/config": "second", "/usr/sbin/tool": "#!"} {
		got, err := run(t.Context(), "", "debugfs", "-R", "cat "+file, image)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	status, err := run(t.Context(), "", "debugfs", "-R", "stat /usr/sbin/tool", image)
	require.NoError(t, err)
	require.Contains(t, status, "Mode:  0755")
}
