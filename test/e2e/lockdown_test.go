//go:build linux

package e2e

import (
	"errors"
	"os"
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

// TestGuestLockdown wants the tables to answer and the sensors to say why they
// are empty.
func TestGuestLockdown(t *testing.T) {
	guest.Only(t)
	if os.Getenv(lockdownEnv) == "" {
		t.Skip("runs in the VM that TestLockdown boots with lockdown=confidentiality")
	}
	if err := unix.Mount("none", "/sys/kernel/security", "securityfs", 0, ""); !errors.Is(err, unix.EBUSY) {
		require.NoError(t, err)
	}
	path, err := guest.ModulePath("dummy")
	require.NoError(t, err)
	require.NoError(t, guest.LoadFile(path, ""), "Debian signed it")
	require.Empty(t, eventsSince(t, 0))
	require.Equal(t, []map[string]string{{
		"state":  "unavailable",
		"reason": "not supported: the kernel is locked down to confidentiality, which forbids BPF to read its memory; needs lockdown=integrity or none",
		"role":   "recorder",
	}}, query(t, "SELECT state, reason, role FROM kernel_module_sensors"))
}
