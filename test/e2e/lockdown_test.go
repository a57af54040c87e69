//go:build linux

package e2e

import (
	"errors"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// lockdownEnv is set in the VM that TestLockdown boots.
const lockdownEnv = "KMODQUERY_LOCKDOWN"

// TestLockdown boots a kernel that lets BPF read nothing of its memory.
func TestLockdown(t *testing.T) {
	t.Parallel()
	vm.Test(t, vm.Newest(), "^TestGuestLockdown$", vm.Options{
		Files:   map[string]string{guestExtension: buildExtension(t, vm.AMD64)},
		Cmdline: []string{"lockdown=confidentiality"},
		Env:     []string{lockdownEnv + "=1"},
	})
}

// TestGuestLockdown loads a module where BPF must not read. What cannot be known
// then is named.
func TestGuestLockdown(t *testing.T) {
	guest.Only(t)
	if os.Getenv(lockdownEnv) == "" {
		t.Skip("runs in the VM that TestLockdown boots with lockdown=confidentiality")
	}
	if err := unix.Mount("none", "/sys/kernel/security", "securityfs", 0, ""); !errors.Is(err, unix.EBUSY) {
		require.NoError(t, err)
	}
	sensor := query(t, "SELECT state, reason, role FROM kernel_module_sensors")
	require.Len(t, sensor, 1)
	require.Contains(t, sensor[0]["reason"], "confidentiality")
	require.Equal(t, "recorder", sensor[0]["role"])

	path, err := guest.ModulePath("dummy")
	require.NoError(t, err)
	require.NoError(t, guest.LoadFile(path, ""), "Debian signed it")
	rows := eventsSince(t, 0)
	require.NotEmpty(t, rows)
	for _, row := range rows {
		require.Equal(t, strconv.Itoa(os.Getpid()), row["pid"])
		for _, column := range []string{
			"name", "path", "sha256", "image_sha256", "signature_status", "signer", "vermagic",
			"process_path", "cmdline", "cwd", "ancestors",
		} {
			if row[column] == "" {
				requireMissing(t, row, column)
			}
		}
	}
	require.Len(t, findings(t, 0), 1)
}
