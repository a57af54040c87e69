//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/vm"
)

// TestErrorsWithoutRootSayWhatToDo runs the extension as another user.
func TestErrorsWithoutRootSayWhatToDo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to run programs as another user")
	}
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	extension, home, roots := filepath.Join(dir, "kmodquery.ext"), filepath.Join(dir, "home"), filepath.Join(dir, "roots")
	content, err := os.ReadFile(buildExtension(t, vm.Arch(runtime.GOARCH)))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(extension, content, 0o755))
	require.NoError(t, os.Mkdir(home, 0o700))
	require.NoError(t, os.Chown(home, ordinaryUser, ordinaryUser))
	require.NoError(t, os.Mkdir(roots, 0o700))

	run := func(args ...string) (output string, err error) {
		cmd := exec.Command(extension, args...)
		cmd.Env, cmd.Dir = []string{"HOME=" + home}, home
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
		text, err := cmd.CombinedOutput()
		return string(text), err
	}
	output, err := run("detach", "--pin-dir", roots)
	require.Error(t, err)
	require.Equal(t, "kmodquery: look for pinned programs: open "+roots+": permission denied; run it as root\n", output)

	output, err = run("query", "--state-dir", roots, "SELECT 1")
	require.Error(t, err)
	require.Equal(t, "kmodquery: open event store: open "+roots+": permission denied; run as root or choose another state folder\n", output)

	output, err = run("query", "SELECT 1")
	require.NoError(t, err)
	require.Contains(t, output, "kmodquery: this user's own event store is in "+home+"/.local/state/kmodquery; run it as root for the events of this host\n")
}
