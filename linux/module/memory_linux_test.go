package module

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/race"
)

// bombVariable makes the test below read a module in a process of its own.
const bombVariable = "KMODQUERY_TEST_BOMB"

// A module as large as is read, with the largest dictionary, that is decompressed again and
// again: the ELF header is followed by names of sections in its midst. Compressing one as xz
// takes long; TestBombsCostNoMoreThanTheLimit has what xz allocates.
func TestPeakMemoryOfABomb(t *testing.T) {
	if path := os.Getenv(bombVariable); path != "" {
		file, err := os.Open(path)
		require.NoError(t, err)
		defer file.Close()
		info, err := file.Stat()
		require.NoError(t, err)
		before := peak(t)
		for range 5 {
			m, err := Read(context.Background(), file, info.Size())
			require.NoError(t, err)
			require.Empty(t, m.Missing)
		}
		fmt.Println("peak", (peak(t)-before)>>20, "MiB")
		return
	}
	if race.Enabled {
		t.Skip("the race detector has memory of its own")
	}
	image := bigModule(t, maxImage-1<<20, true)
	for name, compressed := range map[string][]byte{
		"gzip": compressGzip(t, image), "zstd": compressZSTD(t, image, zstd.WithWindowSize(maxDictionary)),
	} {
		t.Run(name, func(t *testing.T) {
			require.Less(t, len(compressed), 1<<20)
			path := t.TempDir() + "/bomb"
			require.NoError(t, os.WriteFile(path, compressed, 0o600))
			command := exec.Command(os.Args[0], "-test.run=^TestPeakMemoryOfABomb$")
			command.Env = append(os.Environ(), bombVariable+"="+path)
			output, err := command.CombinedOutput()
			require.NoError(t, err, string(output))
			var mib int
			_, err = fmt.Sscanf(string(output[bytes.Index(output, []byte("peak")):]), "peak %d MiB", &mib)
			require.NoError(t, err, string(output))
			t.Logf("%d bytes take %d MiB", len(compressed), mib)
			// What one reading took may not be collected yet when the next one begins.
			require.Less(t, mib, 2*(maxDictionary+maxKept)>>20+24)
		})
	}
}

// peak returns the most memory that this process ever had, in bytes.
func peak(t *testing.T) (kib int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	_, err = fmt.Sscan(after, &kib)
	require.NoError(t, err)
	return kib << 10
}
