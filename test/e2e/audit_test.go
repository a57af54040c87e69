//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	libaudit "github.com/elastic/go-libaudit/v2"
	"github.com/elastic/go-libaudit/v2/auparse"
	"github.com/elastic/go-libaudit/v2/rule"
	"github.com/elastic/go-libaudit/v2/rule/flags"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/audit"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// auditEnv is set in the VMs that TestAudit boots. Its value is the state of the rules
// when they are locked.
const auditEnv = "KMODQUERY_AUDIT"

const (
	lockedWithRules    = "locked with rules"
	lockedWithoutRules = "locked without rules"
)

// TestAudit boots kernels with audit off and one with audit on, for tests of the audit
// source alone. In make test it boots only the newest, with audit off.
func TestAudit(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		kernel  vm.Kernel
		cmdline []string
		locked  string
	}{
		{"6.1", vm.Matrix()[1], nil, lockedWithoutRules},
		{"newest", vm.Newest(), nil, lockedWithRules},
		{"newest with audit=1", vm.Newest(), []string{"audit=1"}, lockedWithRules},
		{"6.12 on arm64", vm.Matrix()[4], nil, lockedWithRules},
	} {
		if isSmall() && test.name != "newest" {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{}
			if test.kernel.Arch == vm.AMD64 {
				files[loader386] = build386(t)
			}
			vm.Test(t, test.kernel, "^TestGuestAudit", vm.Options{
				Modules: []string{"nbd"},
				Files:   files,
				Cmdline: test.cmdline,
				Env:     []string{auditEnv + "=" + test.locked},
			})
		})
	}
}

// needAudit skips the test in other VMs.
func needAudit(t *testing.T) {
	t.Helper()
	guest.Only(t)
	if os.Getenv(auditEnv) == "" {
		t.Skip("runs in the VMs that TestAudit boots")
	}
}

// An auditRun is a running audit source.
type auditRun struct {
	source *audit.Source
	ended  chan error
	stop   context.CancelFunc

	mu       sync.Mutex
	events   []kmodquery.Event
	position string // the positions of all events together, "" if none has one
}

func (r *auditRun) emit(d kmodquery.Delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, d.Event)
	r.position += d.Position
}

// startAudit runs the source until the test ends.
func startAudit(t *testing.T) *auditRun {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &auditRun{source: audit.New(nil), ended: make(chan error, 1), stop: cancel}
	ready := make(chan struct{})
	go func() { r.ended <- r.source.Run(ctx, func() { close(ready) }, r.emit) }()
	select {
	case <-ready:
	case err := <-r.ended:
		cancel()
		require.NoError(t, err)
		t.Fatal("the source ended")
	}
	t.Cleanup(cancel)
	return r
}

// end stops the source and returns Run's error.
func (r *auditRun) end(t *testing.T) error {
	t.Helper()
	r.stop()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the source did not end")
		return nil
	}
}

// take returns the events since the last call.
func (r *auditRun) take(t *testing.T) []kmodquery.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, r.source.Sync(ctx))
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

// auditControl returns this test's own connection to audit.
func auditControl(t *testing.T) *libaudit.AuditClient {
	t.Helper()
	client, err := libaudit.NewAuditClient(nil)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

// auditState returns the state of audit that the source may change.
func auditState(t *testing.T) (enabled uint32, rules []string) {
	t.Helper()
	client := auditControl(t)
	status, err := client.GetStatus()
	require.NoError(t, err)
	all, err := client.GetRules()
	require.NoError(t, err)
	for _, raw := range all {
		text, err := rule.ToCommandLine(raw, false)
		require.NoError(t, err)
		rules = append(rules, text)
	}
	return status.Enabled, rules
}

func auditRule(t *testing.T, text string) []byte {
	t.Helper()
	parsed, err := flags.Parse(text)
	require.NoError(t, err)
	built, err := rule.Build(parsed)
	require.NoError(t, err)
	return built
}

// auditChild runs a process that was created after audit was switched on, and returns
// its PID.
func auditChild(t *testing.T, cmd *exec.Cmd) (pid int, out string, err error) {
	t.Helper()
	var text strings.Builder
	cmd.Stdout, cmd.Stderr = &text, &text
	require.NoError(t, cmd.Start())
	err = cmd.Wait()
	return cmd.Process.Pid, text.String(), err
}

// threadOfNow returns a function that runs other functions on a thread that exists
// already: the kernel decides at a thread's creation whether it is ever audited
// (kernel/auditsc.c, audit_alloc).
func threadOfNow(t *testing.T) func(func()) {
	t.Helper()
	work, done := make(chan func()), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		done <- struct{}{}
		for f := range work {
			f()
			done <- struct{}{}
		}
	}()
	<-done
	t.Cleanup(func() { close(work) })
	return func(f func()) {
		work <- f
		<-done
	}
}

// TestGuestAuditReportsEveryWayToLoad loads and unloads modules in every way.
func TestGuestAuditReportsEveryWayToLoad(t *testing.T) {
	needAudit(t)
	wasEnabled, before := auditState(t)
	require.Empty(t, before)
	olderThread := threadOfNow(t)
	run := startAudit(t)
	enabled, rules := auditState(t)
	require.EqualValues(t, 1, enabled)
	require.Len(t, rules, 2)
	for _, text := range rules {
		require.Regexp(t, `^-a always,exit -F arch=b(64|32) -S .*module.* -F key=kmodquery`, text)
	}
	sensor := run.source.Sensor()
	require.Equal(t, kmodquery.StateActive, sensor.State)
	require.Equal(t, wasEnabled == 0, strings.Contains(sensor.Reason, "boot with audit=1"), sensor.Reason)
	require.Contains(t, sensor.Hooks, "-a always,exit -F arch=b32")

	dir := t.TempDir()
	dummy := filepath.Join(dir, `a "dummy" = x.ko`)
	nbd := filepath.Join(dir, "nbd.ko")
	text := filepath.Join(dir, "text.ko")
	require.NoError(t, os.WriteFile(dummy, image(t, "dummy"), 0o600))
	require.NoError(t, os.WriteFile(nbd, image(t, "nbd"), 0o600))
	require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("no module", 99)), 0o600))
	flags := "0"
	if path, err := guest.ModulePath("dummy"); err == nil && strings.HasSuffix(path, ".xz") {
		flags = strconv.Itoa(unix.MODULE_INIT_COMPRESSED_FILE)
	}
	for _, test := range []struct {
		name  string
		cmd   *exec.Cmd
		fails bool
		want  map[string]string
	}{
		{"insmod", exec.Command("insmod", dummy, "numdummies=2"), false, map[string]string{
			"event_name": "finit_module", "name": "dummy", "result": "0", "flags": "0", "process_name": "insmod",
			"process_path": "/usr/bin/kmod", "cmdline": "insmod " + dummy + " numdummies=2",
		}},
		{"already loaded", exec.Command("insmod", dummy), true, map[string]string{
			"event_name": "finit_module", "name": "dummy", "error": "EEXIST",
		}},
		{"rmmod", exec.Command("rmmod", "dummy"), false, map[string]string{
			"event_name": "delete_module", "name": "dummy", "result": "0", "flags": strconv.Itoa(unix.O_NONBLOCK), "cmdline": "rmmod dummy",
		}},
		{"modprobe", exec.Command("modprobe", "dummy"), false, map[string]string{
			"event_name": "finit_module", "name": "dummy", "result": "0", "flags": flags, "cmdline": "modprobe dummy",
		}},
		{"modprobe -r", exec.Command("modprobe", "-r", "dummy"), false, map[string]string{
			"event_name": "delete_module", "name": "dummy", "result": "0",
		}},
		{"from memory", cast(t, "memory", dummy, "numdummies=2"), false, map[string]string{
			"event_name": "init_module", "name": "dummy", "result": "0", "origin": "memory",
			"size": strconv.Itoa(len(image(t, "dummy"))), "process_path": link(t, "/proc/self/exe"),
		}},
		{"a bad parameter", exec.Command("insmod", nbd, "nbds_max=many"), true, map[string]string{
			"event_name": "finit_module", "name": "nbd", "error": "EINVAL",
		}},
		{"a module whose init fails", exec.Command("insmod", nbd, "nbds_max=2000000"), true, map[string]string{
			"event_name": "finit_module", "name": "nbd", "error": "EINVAL",
		}},
		{"no module", exec.Command("insmod", text), true, map[string]string{
			"event_name": "finit_module", "error": "ENOEXEC",
		}},
		{"unloading", cast(t, "unload", "dummy"), false, map[string]string{
			"event_name": "delete_module", "name": "dummy", "result": "0",
		}},
		{"unloading what is not there", cast(t, "unload", "no such\"x"), true, map[string]string{
			"event_name": "delete_module", "name": "no such\"x", "error": "ENOENT",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			began := time.Now()
			pid, out, err := auditChild(t, test.cmd)
			require.Equal(t, test.fails, err != nil, "%v: %s", err, out)
			events := run.take(t)
			require.Len(t, events, 1, "%v", events)
			e := events[0]
			row := eventRow(e)
			requireColumns(t, test.want, row)
			requireColumns(t, map[string]string{
				"source": "audit", "count": "1", "pid": strconv.Itoa(pid), "parent": strconv.Itoa(os.Getpid()),
				"uid": "0", "gid": "0", "euid": "0", "egid": "0", "auid": "4294967295", "session_id": "4294967295",
				"boot_id": strings.TrimSpace(read(t, "/proc/sys/kernel/random/boot_id")),
			}, row)
			checkTime(t, row, began)
			require.Regexp(t, "^[0-9a-f]{16}$", e.LoadID)
			run.mu.Lock()
			require.Empty(t, run.position)
			run.mu.Unlock()
			require.Contains(t, e.Raw, "type=SYSCALL msg=audit(")
			if test.want["event_name"] != "delete_module" {
				require.Equal(t, "kernel-module", e.Type)
				requireMissing(t, row, "sha256", "params")
			}
			require.Equal(t, test.want["name"] == "", e.Missing.Has("name"), "%s", e.Raw)
		})
	}
	t.Run("a 32-bit loader", func(t *testing.T) {
		if runtime.GOARCH != "amd64" {
			t.Skip("built for 386")
		}
		_, out, err := auditChild(t, exec.Command(loader386, dummy, "numdummies=3"))
		require.NoError(t, err, out)
		defer guest.Unload("dummy")
		events := run.take(t)
		require.Len(t, events, 1)
		require.Equal(t, "init_module loader386 dummy", strings.Join([]string{events[0].EventName, events[0].ProcessName, events[0].Name}, " "))
	})
	run.take(t)
	t.Run("processes older than audit", func(t *testing.T) {
		olderThread(func() { _ = guest.Unload("nosuch") })
		seen := wasEnabled != 0
		require.Equal(t, seen, len(run.take(t)) == 1, "only where it was on from the start")
	})
	t.Run("denied", func(t *testing.T) { auditDenied(t, run) })
	run.take(t)
	t.Run("forged", func(t *testing.T) { auditForged(t, run) })

	require.NoError(t, run.end(t))
	now, after := auditState(t)
	require.Equal(t, wasEnabled, now)
	require.Empty(t, after)
	sensor = run.source.Sensor()
	require.Equal(t, kmodquery.StateStandby, sensor.State)
	require.Zero(t, sensor.Lost)
	require.Zero(t, sensor.DecodeErrors)
	require.NoError(t, run.source.Sync(t.Context()))
}

// auditDenied makes users without rights call init_module, one of them very often,
// while root loads a module.
func auditDenied(t *testing.T, run *auditRun) {
	const calls = 3000
	flood := ordinary(cast(t, "flood", strconv.Itoa(calls)))
	require.NoError(t, flood.Start())
	_, out, err := auditChild(t, exec.Command("modprobe", "dummy"))
	require.NoError(t, err, out)
	defer guest.Unload("dummy")
	require.NoError(t, flood.Wait())
	events := run.take(t)
	denied, loads := int64(0), 0
	counted := func() (n int64) {
		for _, e := range events {
			if e.Error == "EPERM" {
				n += *e.Count
			}
		}
		return n
	}
	// An emulator on a busy host may take longer for a flood than the source waits for
	// outstanding records.
	for end := time.Now().Add(time.Minute); counted() < calls && time.Now().Before(end); {
		events = append(events, run.take(t)...)
	}
	for _, e := range events {
		if e.Error != "EPERM" {
			loads++
			require.Equal(t, "modprobe", e.ProcessName)
			continue
		}
		denied += *e.Count
		requireColumns(t, map[string]string{
			"event_name": "init_module", "result": "-1", "uid": "1000", "euid": "1000", "pid": strconv.Itoa(flood.Process.Pid),
		}, eventRow(e))
		require.True(t, e.IsUnprivileged())
	}
	require.Equal(t, 1, loads)
	require.EqualValues(t, calls, denied)
	require.LessOrEqual(t, len(events), 10, "denied calls are folded")
	require.Zero(t, run.source.Sensor().Lost)
}

// auditForged makes a program that may write to audit forge the kernel's records.
func auditForged(t *testing.T, run *auditRun) {
	socket, err := libaudit.NewNetlinkClient(unix.NETLINK_AUDIT, 0, nil, nil)
	require.NoError(t, err)
	defer socket.Close()
	id := fmt.Sprintf("%d.000:99999", time.Now().Unix()+1)
	call := "type=SYSCALL msg=audit(" + id + "): arch=c000003e syscall=313 success=yes exit=0 pid=1 uid=0"
	for _, kind := range []auparse.AuditMessageType{auparse.AUDIT_USER, auparse.AUDIT_USER_CMD, auparse.AUDIT_SYSCALL, auparse.AUDIT_KERN_MODULE} {
		for _, text := range []string{call, "'\n" + call + "\ntype=EOE msg=audit(" + id + "): "} {
			_, err := socket.Send(syscall.NetlinkMessage{
				Header: syscall.NlMsghdr{Type: uint16(kind), Flags: unix.NLM_F_REQUEST}, Data: []byte(text),
			})
			require.NoError(t, err)
		}
	}
	require.Empty(t, run.take(t))
}

// TestGuestAuditAdoptsTheRulesOfAKilledProcess kills a process that runs the source.
// The next source must adopt its rules.
func TestGuestAuditAdoptsTheRulesOfAKilledProcess(t *testing.T) {
	needAudit(t)
	wasEnabled, _ := auditState(t)
	cmd := cast(t, "audit")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = fmt.Fscanln(out, new(string))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
	enabled, left := auditState(t)
	require.EqualValues(t, 1, enabled)
	require.Len(t, left, 2)

	run := startAudit(t)
	_, rules := auditState(t)
	require.Equal(t, left, rules)
	require.NoError(t, run.end(t))
	enabled, rules = auditState(t)
	require.Equal(t, wasEnabled, enabled)
	require.Empty(t, rules)
}

// auditRole runs the source until it is killed.
func auditRole() error {
	return audit.New(nil).Run(context.Background(), func() { fmt.Println("ready") }, func(kmodquery.Delivery) {})
}

// TestGuestAuditRespectsTheRulesOfOthers makes other programs add and remove rules and
// switch audit off.
func TestGuestAuditRespectsTheRulesOfOthers(t *testing.T) {
	needAudit(t)
	wasEnabled, _ := auditState(t)
	client := auditControl(t)
	own := func(text string) bool { return strings.Contains(text, "kmodquery") }

	t.Run("the same rules", func(t *testing.T) {
		var theirs [][]byte
		for _, arch := range []string{"b64", "b32"} {
			theirs = append(theirs, auditRule(t, "-a always,exit -F arch="+arch+" -S init_module,finit_module,delete_module,kill -k theirs"))
			require.NoError(t, client.AddRule(theirs[len(theirs)-1]))
		}
		run := startAudit(t)
		_, rules := auditState(t)
		require.Len(t, rules, 2)
		require.False(t, slices.ContainsFunc(rules, own))
		_, out, err := auditChild(t, exec.Command("modprobe", "dummy"))
		require.NoError(t, err, out)
		require.NoError(t, guest.Unload("dummy"))
		events := run.take(t)
		require.NotEmpty(t, events)
		require.Contains(t, events[0].Raw, `key="theirs"`)
		require.NoError(t, run.end(t))
		_, rules = auditState(t)
		require.Len(t, rules, 2)
		for _, r := range theirs {
			require.NoError(t, client.DeleteRule(r))
		}
	})
	t.Run("rules that see less", func(t *testing.T) {
		theirs := auditRule(t, "-a always,exit -F arch=b64 -S init_module,finit_module,delete_module -F auid!=unset -k theirs")
		require.NoError(t, client.AddRule(theirs))
		run := startAudit(t)
		_, rules := auditState(t)
		require.Len(t, rules, 3)
		require.NoError(t, run.end(t))
		_, rules = auditState(t)
		require.Len(t, rules, 1)
		require.NoError(t, client.DeleteRule(theirs))
	})
	t.Run("rules that hide some calls", func(t *testing.T) {
		theirs := auditRule(t, "-a never,exit -F arch=b64 -S finit_module -F uid>=0 -k theirs")
		require.NoError(t, client.AddRule(theirs))
		run := startAudit(t)
		require.Equal(t, kmodquery.StateActive, run.source.Sensor().State)
		_, out, err := auditChild(t, exec.Command("modprobe", "dummy"))
		require.NoError(t, err, out)
		require.NoError(t, guest.Unload("dummy"))
		require.NotEmpty(t, run.take(t), "the source's rule is before it")
		require.NoError(t, run.end(t))
		_, rules := auditState(t)
		require.Len(t, rules, 1)
		require.NoError(t, client.DeleteRule(theirs))
	})
	t.Run("all rules removed", func(t *testing.T) {
		run := startAudit(t)
		_, err := client.DeleteRules()
		require.NoError(t, err)
		select {
		case err = <-run.ended:
		case <-time.After(time.Minute):
			t.Fatal("the source did not notice")
		}
		require.ErrorContains(t, err, "was removed, or another was put before it")
		require.NotErrorIs(t, err, kmodquery.ErrNotSupported)
		require.Equal(t, kmodquery.StateFailed, run.source.Sensor().State)
		enabled, _ := auditState(t)
		require.Equal(t, wasEnabled, enabled)
	})
	t.Run("audit switched off", func(t *testing.T) {
		run := startAudit(t)
		require.NoError(t, client.SetEnabled(false, libaudit.WaitForReply))
		select {
		case err := <-run.ended:
			require.ErrorContains(t, err, "audit was switched off")
		case <-time.After(time.Minute):
			t.Fatal("the source did not notice")
		}
		_, rules := auditState(t)
		require.Empty(t, rules)
		require.NoError(t, client.SetEnabled(wasEnabled != 0, libaudit.WaitForReply))
	})
	t.Run("a rule that hides everything", func(t *testing.T) {
		hide := auditRule(t, "-a never,task")
		require.NoError(t, client.AddRule(hide))
		err := audit.New(nil).Run(t.Context(), func() { t.Error("ready") }, func(kmodquery.Delivery) {})
		require.ErrorContains(t, err, `the audit rule "-a never,task" keeps all system calls out of audit`)
		require.NoError(t, client.DeleteRule(hide))
	})
	enabled, rules := auditState(t)
	require.Equal(t, wasEnabled, enabled)
	require.Empty(t, rules)
}

// TestGuestAuditNamesMissingRights runs the source as the user nobody, without and with
// a log.
func TestGuestAuditNamesMissingRights(t *testing.T) {
	needAudit(t)
	_, out, _ := auditChild(t, ordinary(cast(t, "audit")))
	require.Contains(t, out, "run as root, or with CAP_AUDIT_CONTROL and CAP_AUDIT_READ")
	require.Contains(t, out, "nor can the audit daemon's log be read")
	require.Len(t, strings.Split(strings.TrimSpace(out), "\n"), 1)
}

// TestGuestAuditUsesLockedRules runs last, because locking cannot be undone.
func TestGuestAuditUsesLockedRules(t *testing.T) {
	needAudit(t)
	client := auditControl(t)
	withRules := os.Getenv(auditEnv) == lockedWithRules
	if withRules {
		for _, arch := range []string{"b64", "b32"} {
			require.NoError(t, client.AddRule(auditRule(t, "-a always,exit -F arch="+arch+" -S init_module,finit_module,delete_module -k theirs")))
		}
	}
	require.NoError(t, client.SetImmutable(libaudit.WaitForReply))
	if !withRules {
		source := audit.New(nil)
		err := source.Run(t.Context(), func() { t.Error("ready") }, func(kmodquery.Delivery) {})
		require.ErrorIs(t, err, kmodquery.ErrNotSupported)
		require.ErrorContains(t, err, "audit's rules are locked until the next boot")
		require.Equal(t, kmodquery.StateUnavailable, source.Sensor().State)
		require.NotContains(t, source.Sensor().Reason, "\n")
		return
	}
	run := startAudit(t)
	_, out, err := auditChild(t, exec.Command("modprobe", "dummy"))
	require.NoError(t, err, out)
	require.Len(t, run.take(t), 1)
	require.NoError(t, run.end(t))
	enabled, rules := auditState(t)
	require.EqualValues(t, 2, enabled)
	require.Len(t, rules, 2)
}

// eventRow returns an event as a row of the table.
func eventRow(e kmodquery.Event) map[string]string {
	row := map[string]string{}
	for _, column := range kmodquery.EventColumns() {
		if value := column.Value(&e); value != nil {
			row[column.Name] = fmt.Sprint(value)
		}
	}
	return row
}
