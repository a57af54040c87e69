//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// loader386 is the path of a 32-bit program in the guest that loads a module through
// init_module.
const loader386 = "/usr/lib/kmodquery/loader386"

func build386(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "loader386")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./testdata/loader386")
	build.Env = append(build.Environ(), "GOOS=linux", "GOARCH=386", "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// TestGuestSees32BitLoaders loads a module by the system call of 32-bit programs, which
// is a separate function in the kernel.
func TestGuestSees32BitLoaders(t *testing.T) {
	guest.Only(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("arm64 kernels have one function for programs of both sizes")
	}
	image, err := guest.ModuleImage("dummy")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "dummy.ko")
	require.NoError(t, os.WriteFile(path, image, 0o600))
	before := latest(t)
	out, err := exec.Command(loader386, path, "numdummies=3").CombinedOutput()
	require.NoError(t, err, "%s", out)
	defer guest.Unload("dummy")
	rows := eventsSince(t, before)
	require.Equal(t, []string{"security_kernel_load_data", "module_load", "init_module"}, column(rows, "event_name"))
	for _, row := range rows {
		require.Equal(t, "loader386", row["process_name"])
		require.Equal(t, "dummy", row["name"])
		require.Equal(t, "numdummies=3", row["params"])
		require.Equal(t, rows[0]["load_id"], row["load_id"])
	}
	require.Len(t, findings(t, before), 1)
}
