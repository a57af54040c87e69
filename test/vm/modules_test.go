//go:build linux

package vm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestModuleFiles(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "modules.dep"), []byte(
		"kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz\n"+
			"kernel/fs/jbd2/jbd2.ko.xz:\nkernel/lib/crc16.ko.xz:\nkernel/net/snd-dummy.ko:\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "modules.builtin"), []byte("kernel/fs/overlay.ko\n"), 0o644))
	image := &Image{Release: "1.2.3", Modules: dir}

	files, err := image.moduleFiles([]string{"ext4", "jbd2", "snd_dummy", "overlay"})
	require.NoError(t, err)
	require.Equal(t, []string{
		"kernel/fs/ext4/ext4.ko.xz", "kernel/fs/jbd2/jbd2.ko.xz", "kernel/lib/crc16.ko.xz", "kernel/net/snd-dummy.ko",
	}, files)

	_, err = image.moduleFiles([]string{"nothing"})
	require.EqualError(t, err, "kernel 1.2.3 has no module nothing")
}
