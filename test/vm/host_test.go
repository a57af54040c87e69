//go:build linux

package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeApt replaces apt-get by a script that records its arguments, on a host that has
// no emulator until the script installs one.
func fakeApt(t *testing.T, installs bool) (record string) {
	t.Helper()
	bin := t.TempDir()
	record = filepath.Join(t.TempDir(), "record")
	script := "#!/bin/sh\necho \"$@\" >>" + record + "\n"
	if installs {
		script += "[ $1 = update ] || { >" + bin + "/qemu-system-x86_64; /bin/chmod +x " + bin + "/qemu-system-x86_64; }\n"
	} else {
		script += "[ $1 = update ] || { echo 'E: no space left' >&2; exit 100; }\n"
	}
	require.NoError(t, os.WriteFile(filepath.Join(bin, "apt-get"), []byte(script), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(bin, "depmod"), []byte("#!/bin/sh\n"), 0o755))
	t.Setenv("PATH", bin)
	t.Setenv(CacheEnv, t.TempDir())
	return record
}

func TestPrepareInstallsWhatIsMissing(t *testing.T) {
	record := fakeApt(t, true)
	if os.Getuid() != 0 {
		err := Prepare(t.Context(), AMD64, t.Logf)
		require.EqualError(t, err, "missing Debian packages: run as root: apt-get install qemu-system-x86")
		return
	}
	require.NoError(t, Prepare(t.Context(), AMD64, t.Logf))
	require.NoError(t, Prepare(t.Context(), AMD64, t.Logf))
	commands, err := os.ReadFile(record)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(commands)), "\n")
	require.Len(t, lines, 2, "%s", commands)
	require.Equal(t, "update -q", lines[0])
	require.True(t, strings.HasPrefix(lines[1], "install ") && strings.HasSuffix(lines[1], " qemu-system-x86"), lines[1])
}

func TestPrepareReturnsAptsError(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root installs packages")
	}
	fakeApt(t, false)
	err := Prepare(t.Context(), AMD64, t.Logf)
	require.ErrorContains(t, err, "missing Debian packages: apt-get install qemu-system-x86")
	require.ErrorContains(t, err, "no space left")
}
