//go:build linux

package e2e

import (
	"context"
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
	"github.com/kmodquery/kmodquery/test/vm"
)

// TestReaderTakesOver runs the extension under two osquerys on one event store
// and ends the one that records.
func TestReaderTakesOver(t *testing.T) {
	t.Parallel()
	extension, state := buildExtension(t, vm.Arch(runtime.GOARCH)), t.TempDir()
	start := func() *osqueryhost.Host {
		host, err := osqueryhost.Start(t.Context(), osqueryhost.Options{Dir: t.TempDir()})
		require.NoError(t, err)
		t.Cleanup(func() { host.Close() })
		_, err = host.StartExtension(extension, "--state-dir", state)
		require.NoError(t, err)
		require.NoError(t, awaitStart(t.Context(), host))
		return host
	}
	role := func(host *osqueryhost.Host) string {
		rows, err := host.Query(t.Context(), "SELECT role FROM kernel_module_sensors")
		if err != nil || len(rows) != 1 {
			return "" // while the process that recorded ends
		}
		return rows[0]["role"]
	}
	first := start()
	second := start()
	require.Equal(t, "recorder", role(first))
	require.Equal(t, "reader", role(second))

	require.NoError(t, first.Close())
	require.Eventually(t, func() bool { return role(second) == "recorder" }, 2*time.Minute, 100*time.Millisecond)
}

// TestOsqueryComesBack makes osquery vanish and return on its socket within the
// extension's timeout. The sources must not stop.
func TestOsqueryComesBack(t *testing.T) {
	t.Parallel()
	extension, dir := buildExtension(t, vm.Arch(runtime.GOARCH)), t.TempDir()
	host, err := osqueryhost.Start(t.Context(), osqueryhost.Options{Dir: dir})
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), extension,
		"--socket", host.Socket(), "--interval", "1", "--timeout", "30", "--state-dir", t.TempDir())
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
	require.NoError(t, host.Vanish())
	time.Sleep(3 * time.Second) // more than one ping

	host, err = osqueryhost.Start(t.Context(), osqueryhost.Options{Dir: dir})
	require.NoError(t, err)
	t.Cleanup(func() { host.Close() })
	waiting, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, host.WaitForTable(waiting, "kernel_module_sensors"))
}

// TestSignalWhileStdinIsSilent ends a query that waits for statements.
func TestSignalWhileStdinIsSilent(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), buildExtension(t, vm.Arch(runtime.GOARCH)), "query", "--state-dir", t.TempDir())
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	// Once it has responded, it waits for the next statement.
	_, err = io.WriteString(stdin, "SELECT 1;\n")
	require.NoError(t, err)
	_, err = stdout.Read(make([]byte, 1))
	require.NoError(t, err)

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		require.ErrorContains(t, err, "exit status 1")
	case <-time.After(2 * time.Minute):
		cmd.Process.Kill()
		t.Fatal("the process ignored SIGTERM")
	}
}
