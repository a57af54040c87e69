//go:build linux

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/audit"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// auditdEnv is set in the step of TestSources with an audit daemon.
const auditdEnv = "KMODQUERY_AUDITD"

// auditdPackages are Debian's audit daemon and its dependencies.
var auditdPackages = []string{
	"auditd", "libaudit1", "libauparse0t64", "libcap-ng0", "libwrap0", "libgssapi-krb5-2", "libkrb5-3", "libk5crypto3",
	"libkrb5support0", "libcom-err2", "libkeyutils1", "libssl3t64", "libzstd1", "zlib1g", "libc6",
}

const (
	auditdLog    = "/var/log/audit/audit.log"
	auditdConfig = `
log_file = /var/log/audit/audit.log
log_group = audit
log_format = ENRICHED
flush = INCREMENTAL_ASYNC
freq = 50
max_log_file = 8
num_logs = 5
max_log_file_action = ROTATE
space_left = 2
space_left_action = IGNORE
admin_space_left = 1
admin_space_left_action = IGNORE
disk_full_action = IGNORE
disk_error_action = IGNORE
name_format = HOSTNAME
`
)

// startAuditd runs the daemon until the test ends.
func startAuditd(t *testing.T) *exec.Cmd {
	t.Helper()
	for _, dir := range []string{"/var/log/audit", "/etc/audit/plugins.d", "/etc/audit/rules.d", "/var/run", "/run/audit"} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	require.NoError(t, os.WriteFile("/etc/audit/auditd.conf", []byte(auditdConfig), 0o640))
	require.NoError(t, os.WriteFile("/etc/group", []byte(read(t, "/etc/group")+"audit:x:1000:\n"), 0o644))
	cmd := exec.Command("/sbin/auditd", "-n")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait() // however it ends
	})
	client := auditControl(t)
	require.Eventually(t, func() bool {
		status, err := client.GetStatus()
		return err == nil && int(status.PID) == cmd.Process.Pid && status.Enabled == 1
	}, time.Minute, 100*time.Millisecond)
	return cmd
}

// TestGuestAuditReadsBesideTheDaemon runs the source beside the daemon, once with the
// kernel's own records and once with the daemon's log.
func TestGuestAuditReadsBesideTheDaemon(t *testing.T) {
	guest.Only(t)
	if os.Getenv(auditdEnv) == "" {
		t.Skip("runs in the VMs that TestSources boots")
	}
	daemon := startAuditd(t)
	client := auditControl(t)
	// The daemon needs auditctl to load rules.
	for _, arch := range []string{"b64", "b32"} {
		require.NoError(t, client.AddRule(auditRule(t, "-a always,exit -F arch="+arch+" -S init_module,finit_module,delete_module -F key=modules")))
	}

	run := startAudit(t)
	reader := startAuditReader(t, "")
	modules := func(what ...string) {
		_, out, err := auditChild(t, exec.Command(what[0], what[1:]...))
		require.NoError(t, err, out)
	}
	modules("modprobe", "dummy")
	modules("rmmod", "dummy")
	want := []string{"finit_module dummy modprobe dummy", "delete_module dummy rmmod dummy"}
	require.Equal(t, want, auditSummaries(run.take(t)))
	require.Equal(t, want, reader.await(t, 2))
	require.NoError(t, run.end(t))
	status, err := client.GetStatus()
	require.NoError(t, err)
	require.EqualValues(t, daemon.Process.Pid, status.PID, "the daemon is still registered")
	require.EqualValues(t, 1, status.Enabled)
	_, rules := auditState(t)
	require.Len(t, rules, 2)

	auditForged(t, startAudit(t))
	require.Eventually(t, func() bool { return strings.Contains(read(t, auditdLog), ":99999): ") }, time.Minute, 100*time.Millisecond)
	t.Logf("the daemon's log:\n%s", read(t, auditdLog))
	require.NoError(t, daemon.Process.Signal(unix.SIGUSR1)) // it rotates
	modules("modprobe", "dummy")
	require.Equal(t, want[:1], reader.await(t, 1))

	// Events are delivered once, even if they happened without a reader.
	reader.kill(t)
	modules("rmmod", "dummy")
	require.Eventually(t, func() bool { return strings.Contains(read(t, auditdLog), "comm=\"rmmod\"") }, time.Minute, 100*time.Millisecond)
	require.NoError(t, daemon.Process.Signal(unix.SIGUSR1))
	require.Eventually(t, func() bool {
		_, err := os.Stat(auditdLog + ".2")
		return err == nil
	}, time.Minute, 100*time.Millisecond)
	modules("modprobe", "dummy")
	modules("rmmod", "dummy")
	reader = startAuditReader(t, reader.position)
	require.Equal(t, []string{want[1], want[0], want[1]}, reader.await(t, 3))
	t.Logf("the daemon's log:\n%s", read(t, auditdLog))
}

func auditSummary(e kmodquery.Event) string {
	return strings.Join([]string{e.EventName, e.Name, e.Cmdline}, " ")
}

func auditSummaries(events []kmodquery.Event) []string {
	var all []string
	for _, e := range events {
		all = append(all, auditSummary(e))
	}
	return all
}

// An auditReader is a process that may read the daemon's log and nothing else.
type auditReader struct {
	cmd      *exec.Cmd
	input    io.Writer
	output   *bufio.Scanner
	position string
}

// A readEvent is a line of auditReaderRole's output.
type readEvent struct {
	Event    kmodquery.Event
	Position string
	Synced   bool
}

func startAuditReader(t *testing.T, position string) *auditReader {
	t.Helper()
	cmd := ordinary(cast(t, "auditreader", position))
	input, err := cmd.StdinPipe()
	require.NoError(t, err)
	output, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	r := &auditReader{cmd: cmd, input: input, output: bufio.NewScanner(output), position: position}
	r.output.Buffer(nil, 1<<20)
	return r
}

// await returns the next events and requires that there are no more of them.
func (r *auditReader) await(t *testing.T, count int) []string {
	t.Helper()
	var events []string
	for deadline := time.Now().Add(time.Minute); len(events) < count && time.Now().Before(deadline); {
		events = append(events, r.sync(t)...)
	}
	time.Sleep(500 * time.Millisecond)
	return append(events, r.sync(t)...)
}

func (r *auditReader) sync(t *testing.T) []string {
	t.Helper()
	_, err := io.WriteString(r.input, "sync\n")
	require.NoError(t, err)
	var events []string
	for r.output.Scan() {
		var line readEvent
		require.NoError(t, json.Unmarshal(r.output.Bytes(), &line))
		if line.Synced {
			return events
		}
		events = append(events, auditSummary(line.Event))
		r.position = line.Position
		require.NotEmpty(t, line.Position)
	}
	t.Fatalf("the reader ended: %v", r.output.Err())
	return nil
}

func (r *auditReader) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, r.cmd.Process.Kill())
	var exit *exec.ExitError
	require.ErrorAs(t, r.cmd.Wait(), &exit)
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
}

// auditReaderRole runs the source from the position in its first argument, writes the
// events that it emits, and syncs for every line of its input.
func auditReaderRole() error {
	position := ""
	if len(os.Args) > 1 {
		position = os.Args[1]
	}
	var mu sync.Mutex
	output := json.NewEncoder(os.Stdout)
	write := func(line readEvent) {
		mu.Lock()
		defer mu.Unlock()
		if err := output.Encode(line); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	source := audit.New(func(context.Context) (string, error) { return position, nil })
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- source.Run(context.Background(), func() { close(ready) }, func(d kmodquery.Delivery) {
			write(readEvent{Event: d.Event, Position: d.Position})
		})
	}()
	select {
	case <-ready:
	case err := <-ended:
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := source.Sync(context.Background()); err != nil {
			return err
		}
		write(readEvent{Synced: true})
	}
	return errors.New("the input ended")
}
