//go:build linux

package vm

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMakeExt4(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	need(t, Prepare(t.Context(), AMD64, t.Logf))
	require.NoError(t, makeExt4(t.Context(), path))
	image, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Len(t, image, 4<<20)
	// s_magic of the superblock, which begins at 1,024 (struct ext4_super_block).
	require.EqualValues(t, 0xef53, binary.LittleEndian.Uint16(image[1024+0x38:]))

	require.ErrorContains(t, makeExt4(t.Context(), "/no/such/folder/disk"), "make an ext4 filesystem")
}
