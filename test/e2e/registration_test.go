//go:build linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	osquerygo "github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm"
)

// healWithin is the time within which the tables must respond again after their
// registration was lost. It takes two intervals on an idle host.
const healWithin = 30 * time.Second

// A registered is the extension, started by hand, with the osquery that it is
// registered with.
type registered struct {
	t         *testing.T
	extension string
	dir       string // of osquery
	host      *osqueryhost.Host
	cmd       *exec.Cmd
	log       string // the path of its output
	rounds    []time.Duration
}

func register(t *testing.T, flags ...string) *registered {
	t.Helper()
	// Not t.TempDir, whose path may be too long for a socket.
	dir, err := os.MkdirTemp("", "osquery")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &registered{t: t, dir: dir, log: filepath.Join(t.TempDir(), "log"), extension: buildExtension(t, vm.Arch(runtime.GOARCH))}
	r.start()
	t.Cleanup(func() { r.host.Close() })
	output, err := os.Create(r.log)
	require.NoError(t, err)
	defer output.Close()
	r.cmd = exec.Command(r.extension, append([]string{"--socket", r.host.Socket(), "--state-dir", t.TempDir()}, flags...)...)
	r.cmd.Stderr = output
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	require.NoError(t, r.cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, r.cmd.Process.Signal(unix.SIGTERM))
		require.NoError(t, r.cmd.Wait(), "%s", read(t, r.log))
		if t.Failed() {
			t.Log(read(t, r.log))
		}
	})
	require.NoError(t, r.host.WaitForTable(t.Context(), "kernel_module_sensors"))
	t.Logf("registered %v after the start", time.Since(began).Round(time.Millisecond))
	r.await()
	r.rounds = nil
	return r
}

// start starts an osquery at the same socket as the one before.
func (r *registered) start() {
	r.t.Helper()
	host, err := osqueryhost.Start(r.t.Context(), osqueryhost.Options{Dir: r.dir, Interval: time.Second, Output: io.Discard})
	require.NoError(r.t, err)
	r.host = host
}

// await waits until the tables respond exactly once, and stores how long that took.
func (r *registered) await() {
	r.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*healWithin)
	defer cancel()
	require.NoError(r.t, r.host.WaitForTable(ctx, "kernel_module_sensors"), "%s", read(r.t, r.log))
	rows, err := r.host.Query(ctx, "SELECT count(*) AS n FROM kernel_module_events")
	require.NoError(r.t, err)
	require.Len(r.t, rows, 1)
	r.rounds = append(r.rounds, time.Since(began))
	require.Len(r.t, r.host.Extensions(), 1)
}

// requireHealed requires every round to be within the limit.
func (r *registered) requireHealed(rounds int) {
	r.t.Helper()
	require.Len(r.t, r.rounds, rounds)
	var longest, sum time.Duration
	for _, round := range r.rounds {
		longest, sum = max(longest, round), sum+round
	}
	r.t.Logf("%d rounds: %.1f s on average, %.1f s at most", rounds, sum.Seconds()/float64(rounds), longest.Seconds())
	require.Less(r.t, longest, healWithin)
}

// requireFrugal requires the extension to use little processor time while f runs and
// osquery is absent.
func (r *registered) requireFrugal(f func()) {
	r.t.Helper()
	before, began := cpuTime(r.t, r.cmd.Process.Pid), time.Now()
	f()
	used, passed := cpuTime(r.t, r.cmd.Process.Pid)-before, time.Since(began)
	r.t.Logf("%v of the processor in %v", used, passed.Round(time.Millisecond))
	require.Less(r.t, used, passed/20)
}

// cpuTime returns the processor time of a process (proc(5), utime and stime in
// hundredths of a second).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat := read(t, fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		require.NoError(t, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// TestRegistrationOutlivesRestarts restarts osquery: in turn it is killed, ended in
// order, and replaced while the former one still runs.
func TestRegistrationOutlivesRestarts(t *testing.T) {
	t.Parallel()
	rounds := suite.Trials(100)
	r := register(t, "--interval", "1")
	pid := r.cmd.Process.Pid
	for round := range rounds {
		former := r.host
		switch round % 3 {
		case 0:
			require.NoError(t, former.Vanish())
		case 1:
			require.NoError(t, former.Close())
		case 2:
			// The former one's listener stays, without a path.
			require.NoError(t, os.Remove(former.Socket()))
		}
		r.start()
		r.await()
		if round%3 == 2 {
			require.Eventually(t, func() bool { return len(former.Extensions()) == 0 }, healWithin, 20*time.Millisecond,
				"it stays with the osquery that was replaced")
			// Closing it earlier would remove the new one's socket.
			t.Cleanup(func() { former.Vanish() })
		}
	}
	r.requireHealed(rounds)
	require.NoError(t, unix.Kill(pid, 0), "it is the same process")
	require.Empty(t, r.descriptorsBeyond(40))

	require.NoError(t, r.host.Vanish())
	require.Eventually(t, func() bool { return strings.HasSuffix(read(t, r.log), "waiting for it\n") }, healWithin, 20*time.Millisecond)
	r.requireFrugal(func() { time.Sleep(5 * time.Second) })
	r.start()
	r.await()
}

// descriptorsBeyond returns the open descriptors of the extension if there are more
// than limit.
func (r *registered) descriptorsBeyond(limit int) (open []string) {
	r.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", r.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	require.NoError(r.t, err)
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err == nil {
			open = append(open, target)
		}
	}
	if len(open) <= limit {
		return nil
	}
	return open
}

// TestRegistrationOutlivesDrops makes osquery drop the extension without notifying it.
func TestRegistrationOutlivesDrops(t *testing.T) {
	t.Parallel()
	testDrops(t, register(t, "--interval", "1"), suite.Trials(100))
}

// The same with osquery's own interval.
func TestRegistrationOutlivesDropsByDefault(t *testing.T) {
	t.Parallel()
	testDrops(t, register(t), suite.Trials(10))
}

func testDrops(t *testing.T, r *registered, rounds int) {
	for range rounds {
		for uuid := range r.host.Extensions() {
			require.True(t, r.host.DropExtension(uuid))
		}
		r.await()
	}
	r.requireHealed(rounds)
	require.Equal(t, rounds, strings.Count(read(t, r.log), "osquery has dropped the tables"))
	require.Empty(t, r.descriptorsBeyond(40))
}

// TestRegistrationIsRetried lets another process hold the name.
func TestRegistrationIsRetried(t *testing.T) {
	t.Parallel()
	r := register(t, "--interval", "1")
	client, err := osquerygo.NewClient(r.host.Socket(), 3*time.Second)
	require.NoError(t, err)
	defer client.Close()
	// It does not answer pings, so the host must not send any.
	require.NoError(t, r.host.Close())
	host, err := osqueryhost.Start(t.Context(), osqueryhost.Options{Dir: r.dir, Interval: -1, Output: io.Discard})
	require.NoError(t, err)
	r.host = host
	client, err = osquerygo.NewClient(r.host.Socket(), 3*time.Second)
	require.NoError(t, err)
	defer client.Close()
	status, err := client.RegisterExtension(&gen.InternalExtensionInfo{Name: "kmodquery"}, gen.ExtensionRegistry{})
	require.NoError(t, err)
	require.Zero(t, status.Code, "the extension registered first")

	const line = "osquery lists an extension of this name that has ended"
	require.Eventually(t, func() bool { return strings.Contains(read(t, r.log), line) }, 2*time.Minute, 100*time.Millisecond)
	require.Len(t, r.host.Extensions(), 1)
	require.True(t, r.host.DropExtension(status.UUID))
	r.await()
	r.requireHealed(1)
	require.Equal(t, 1, strings.Count(read(t, r.log), line), "it is logged once")
}

// TestRegistrationEndsWithItsOsquery kills an osquery that has started the extension.
// The extension must end.
func TestRegistrationEndsWithItsOsquery(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "osquery")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	output, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	defer output.Close()
	// Orphans become children of this process, independent of the test's init.
	require.NoError(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	osqueryd := cast(t, "osqueryd", dir, buildExtension(t, vm.Arch(runtime.GOARCH)))
	osqueryd.Stderr = output
	require.NoError(t, osqueryd.Start())
	pidFile := filepath.Join(dir, "pid")
	require.Eventually(t, func() bool { _, err := os.Stat(pidFile); return err == nil }, time.Minute, 20*time.Millisecond)
	pid, err := strconv.Atoi(read(t, pidFile))
	require.NoError(t, err)
	require.NoError(t, unix.Kill(pid, 0))

	require.NoError(t, osqueryd.Process.Kill())
	osqueryd.Wait()
	began := time.Now()
	var status unix.WaitStatus
	require.Eventually(t, func() bool {
		ended, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		require.NoError(t, err)
		return ended == pid
	}, healWithin, 20*time.Millisecond, "the extension has not ended: %s", read(t, output.Name()))
	t.Logf("it ended %.1f s after its osquery", time.Since(began).Seconds())
	require.Zero(t, status.ExitStatus())
	require.Contains(t, read(t, output.Name()), "osquery has gone away, and so has the process that started this one\n")
}

// osquerydRole is an osquery that starts the extension in its second argument, with the
// folder in its first argument, and writes the extension's process ID there when the
// tables respond.
func osquerydRole() error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	dir, extension := os.Args[1], os.Args[2]
	host, err := osqueryhost.Start(ctx, osqueryhost.Options{Dir: dir})
	if err != nil {
		return err
	}
	child, err := host.StartExtension(extension, "--state-dir", filepath.Join(dir, "state"))
	if err != nil {
		return err
	}
	if err := host.WaitForTable(ctx, "kernel_module_sensors"); err != nil {
		return err
	}
	next := filepath.Join(dir, "pid.next")
	if err := os.WriteFile(next, []byte(strconv.Itoa(child.PID())), 0o600); err != nil {
		return err
	}
	if err := os.Rename(next, filepath.Join(dir, "pid")); err != nil {
		return err
	}
	<-ctx.Done()
	return host.Close()
}
