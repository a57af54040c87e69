//go:build linux

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/klog"
	detections "github.com/kmodquery/kmodquery/tables/signatures"
	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// textEnv names, in the VMs that TestTextSources boots, the source under test.
const textEnv = "KMODQUERY_TEXT"

// textPackages are systemd's journal and rsyslog, with their dependencies.
var textPackages = []string{
	"systemd", "libsystemd-shared", "libsystemd0", "libcap2", "libacl1", "libblkid1", "libmount1", "libseccomp2",
	"libselinux1", "libpcre2-8-0", "libcrypt1", "libaudit1", "libcap-ng0", "libpam0g",
	"rsyslog", "libestr0", "libfastjson4", "libuuid1",
}

// textPrograms are their programs that the guest runs.
var textPrograms = []string{
	"/usr/lib/systemd/systemd-journald", "/usr/lib/systemd/systemd-modules-load", "/usr/bin/journalctl",
	"/usr/lib/x86_64-linux-gnu/libkmod.so.2", // systemd opens it at run time
	"/usr/sbin/rsyslogd", "/usr/lib/x86_64-linux-gnu/rsyslog/imklog.so", "/usr/lib/x86_64-linux-gnu/rsyslog/imuxsock.so",
	"/usr/lib/x86_64-linux-gnu/rsyslog/lmnet.so",
}

// TestTextSources requires the sources that read texts to see the same loads, each in a
// kernel of its own, because a kernel logs most messages only once.
func TestTextSources(t *testing.T) {
	t.Parallel()
	for _, kernel := range kernels("6.1", vm.Newest().String()) {
		for _, source := range []string{kmodquery.SourceKmsg, kmodquery.SourceJournal, kmodquery.SourceSyslog} {
			if source != kmodquery.SourceKmsg && !isAnEnd(kernel.String()) && os.Getenv("GUEST") == "" {
				continue // the daemons are the same on every kernel
			}
			t.Run(kernel.String()+"/"+source, func(t *testing.T) {
				t.Parallel()
				files, err := vm.Programs(t.Context(), kernel.Arch, textPackages, textPrograms, t.Logf)
				if err != nil && os.Getenv("CI") == "" {
					t.Skip(err)
				}
				require.NoError(t, err)
				vm.Test(t, kernel, "^TestGuestLogsReportLoads$", vm.Options{
					Files:   files,
					Modules: []string{"nbd", "brd"},
					Env:     []string{textEnv + "=" + source},
					Cmdline: []string{"printk.devkmsg=on"}, // otherwise the kernel limits the messages of user space
					Timeout: 10 * time.Minute,
				})
			})
		}
	}
}

// A textSource is the part of a source that the tests use.
type textSource interface {
	Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error
	Sync(ctx context.Context) error
	Sensor() kmodquery.Sensor
}

// A textRun is one run of a source.
type textRun struct {
	source textSource
	stop   func()

	mu     sync.Mutex
	events []kmodquery.Delivery
}

// runText runs a source, beginning with its backfill, until the test ends or stop is
// called.
func runText(t *testing.T, source textSource) *textRun {
	t.Helper()
	r := &textRun{source: source}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- source.Run(ctx, func() { close(ready) }, func(d kmodquery.Delivery) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, d)
		})
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(r.stop)
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the source ended before it was ready: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the source is not ready within a minute")
	}
	return r
}

// seen waits until there are n events and takes them. If a daemon writes the log, it
// waits a little longer for unexpected events.
func (r *textRun) seen(t *testing.T, n int) []kmodquery.Event {
	t.Helper()
	events, _ := r.seenTo(t, n)
	return events
}

// seenTo is seen, and also returns the last position of the events.
func (r *textRun) seenTo(t *testing.T, n int) (events []kmodquery.Event, position string) {
	t.Helper()
	count := func() int {
		require.NoError(t, r.source.Sync(t.Context()))
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.events)
	}
	// journald and rsyslogd write with a delay.
	for until := time.Now().Add(2 * time.Minute); count() < n && time.Now().Before(until); {
		time.Sleep(100 * time.Millisecond)
	}
	if r.source.Sensor().Source != kmodquery.SourceKmsg {
		time.Sleep(300 * time.Millisecond)
		count()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.events {
		events = append(events, d.Event)
		position = cmp.Or(d.Position, position)
	}
	r.events = nil
	require.Len(t, events, n, "%s", eventList(events))
	for _, e := range events {
		requireFinding(t, e)
	}
	return events, position
}

// requireFinding requires TRC-1017 to accept a load, and nothing else.
func requireFinding(t *testing.T, e kmodquery.Event) {
	t.Helper()
	at := slices.IndexFunc(detections.All(), func(s kmodquery.Signature) bool { return s.ID == "TRC-1017" })
	reason, ok := detections.All()[at].Match(&e)
	require.Equal(t, e.EventName == kmodquery.EventModuleLoad, ok, "%+v", e)
	if ok {
		require.NotEmpty(t, reason)
	}
}

// eventList returns the subjects of events, for a failure's message.
func eventList(events []kmodquery.Event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "%s %q %s: %s\n", e.EventName, e.Name, e.Error, e.Raw)
	}
	return b.String()
}

// A text is a source under test.
type text struct {
	name string
	open func(position string) textSource
	// forge writes a message that imitates the kernel's, as any user can.
	forge func(t *testing.T, message string)
	// rotate are ways to rotate its log.
	rotate []rotation
}

// A rotation is one of them. If it drops, it removes everything that was written
// before.
type rotation struct {
	name  string
	do    func(t *testing.T)
	drops bool
}

// stored returns a function that returns the position, as the store does.
func stored(position string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return position, nil }
}

func TestGuestLogsReportLoads(t *testing.T) {
	guest.Only(t)
	if os.Getenv(textEnv) == "" {
		t.Skip("runs in the VMs that TestTextSources boots, one for each source")
	}
	switch os.Getenv(textEnv) {
	case kmodquery.SourceKmsg:
		testText(t, text{
			name: kmodquery.SourceKmsg,
			open: func(position string) textSource {
				return klog.NewKmsg(stored(position))
			},
			forge: func(*testing.T, string) {}, // as textForged does
		})
	case kmodquery.SourceJournal:
		testText(t, journalText(t))
		t.Run("modules-load", modulesLoadText)
	case kmodquery.SourceSyslog:
		testText(t, syslogText(t))
	}
}

// journalText returns the test of systemd's journal, with messages that any user can
// send to it.
func journalText(t *testing.T) text {
	journald := startJournald(t)
	return text{
		name: kmodquery.SourceJournal,
		open: func(position string) textSource {
			return klog.NewJournal(stored(position))
		},
		forge: func(t *testing.T, message string) {
			logTo(t, "/run/systemd/journal/dev-log", "<4>kernel: "+message)
			logTo(t, "/run/systemd/journal/socket", "MESSAGE="+message+"\n_TRANSPORT=kernel\nSYSLOG_FACILITY=0\nSYSLOG_IDENTIFIER=kernel\n"+
				"_EXE=/usr/bin/kmod\n_UID=0\n_SYSTEMD_UNIT=systemd-modules-load.service\n")
		},
		rotate: []rotation{
			{name: "rotated", do: func(t *testing.T) {
				rotateJournal(t, journald)
			}},
			{name: "vacuumed", drops: true, do: func(t *testing.T) {
				rotateJournal(t, journald)
				out, err := exec.Command("journalctl", "--vacuum-size=1").CombinedOutput()
				require.NoError(t, err, "%s", out)
				require.Contains(t, string(out), "Deleted archived journal")
			}},
		},
	}
}

// rotateJournal makes journald archive its journal and begin another.
func rotateJournal(t *testing.T, journald *exec.Cmd) {
	t.Helper()
	archived := func() int {
		files, err := filepath.Glob("/run/log/journal/*/*@*.journal")
		require.NoError(t, err)
		return len(files)
	}
	before := archived()
	require.NoError(t, journald.Process.Signal(unix.SIGUSR2))
	require.Eventually(t, func() bool { return archived() > before }, time.Minute, 20*time.Millisecond)
}

// reopen makes rsyslogd close log files that were renamed.
func reopen(t *testing.T, rsyslogd *exec.Cmd) {
	t.Helper()
	require.NoError(t, rsyslogd.Process.Signal(unix.SIGHUP))
	require.Eventually(t, func() bool {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", rsyslogd.Process.Pid))
		require.NoError(t, err)
		return !slices.ContainsFunc(files, func(file string) bool {
			target, err := os.Readlink(file)
			return err == nil && strings.HasPrefix(target, "/var/log/") && target != "/var/log/syslog" && target != "/var/log/kern.log"
		})
	}, time.Minute, 20*time.Millisecond)
}

// syslogText returns the test of rsyslogd, with messages that any user can send to it.
func syslogText(t *testing.T) text {
	rsyslogd := startSyslog(t)
	files := []string{"/var/log/syslog", "/var/log/kern.log"}
	number := 0
	return text{
		name: kmodquery.SourceSyslog,
		open: func(position string) textSource {
			return klog.NewSyslog(stored(position))
		},
		forge: func(t *testing.T, message string) {
			for _, line := range []string{"<4>kernel: " + message, "<4>kernel: [   12.345678] " + message, "<0>kernel: " + message} {
				logTo(t, "/dev/log", line)
			}
		},
		rotate: []rotation{
			{name: "renamed", do: func(t *testing.T) {
				number++
				for _, file := range files {
					require.NoError(t, os.Rename(file, fmt.Sprintf("%s.%d", file, number)))
				}
				reopen(t, rsyslogd)
			}},
			{name: "truncated", do: func(t *testing.T) {
				number++
				for _, file := range files {
					content, err := os.ReadFile(file)
					require.NoError(t, err)
					require.NoError(t, os.WriteFile(fmt.Sprintf("%s.%d", file, number), content, 0o600))
					require.NoError(t, os.Truncate(file, 0))
				}
			}},
			{name: "compressed", do: func(t *testing.T) {
				number++
				for _, file := range files {
					old := fmt.Sprintf("%s.%d", file, number)
					require.NoError(t, os.Rename(file, old))
					reopen(t, rsyslogd)
					require.NoError(t, exec.Command("gzip", old).Run())
				}
			}},
		},
	}
}

// modulesLoadText makes systemd's own loader load a module. Its message and the
// kernel's are one attempt.
func modulesLoadText(t *testing.T) {
	run := runText(t, klog.NewJournal(nil))
	run.mu.Lock()
	run.events = nil
	run.mu.Unlock()
	cgroup := "/sys/fs/cgroup/system.slice/systemd-modules-load.service"
	require.NoError(t, os.MkdirAll(cgroup, 0o755))
	folder := openFile(t, cgroup)
	config := filepath.Join(t.TempDir(), "modules.conf")
	require.NoError(t, os.WriteFile(config, []byte("brd\n"), 0o644))
	var cmd *exec.Cmd
	var e kmodquery.Event
	// The loader's message is trusted if journald read the loader's process while it
	// ran. If the loader ended too soon, only the kernel's message counts. journald
	// reads the command line after the path, and may be too late only for the command
	// line.
	for try := 0; e.Result == nil || e.Cmdline == ""; try++ {
		if try == 10 {
			t.Skip("journald was always too late to identify systemd-modules-load")
		}
		if try > 0 {
			require.NoError(t, guest.Unload("brd"))
			run.seen(t, 1)
		}
		cmd = exec.Command("/usr/lib/systemd/systemd-modules-load", config)
		cmd.Env = append(os.Environ(), "SYSTEMD_LOG_TARGET=journal")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd())}
		if err := cmd.Run(); err != nil {
			out, _ := exec.Command("journalctl", "--no-pager").CombinedOutput()
			t.Fatalf("%v: %s", err, out)
		}
		e = run.seen(t, 1)[0]
		require.Equal(t, "brd", e.Name)
	}
	defer guest.Unload("brd")
	require.Zero(t, *e.Result)
	require.EqualValues(t, cmd.Process.Pid, *e.Pid)
	require.Zero(t, *e.UID)
	require.Equal(t, "/usr/lib/systemd/systemd-modules-load", e.ProcessPath)
	require.Equal(t, strings.Join(cmd.Args, " "), e.Cmdline)
	require.Len(t, strings.Split(e.Raw, "\n"), 2, "%s", e.Raw)
}

// TestTextRefused makes a kernel in lockdown log why it refuses a module because of its
// signature. TestSignatureEnforced does the same with module.sig_enforce=1.
func TestTextRefused(t *testing.T) {
	t.Parallel()
	for _, kernel := range kernels("6.1", vm.Newest().String()) {
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			vm.Test(t, kernel, "^TestGuestLogReportsRefusedModules$", vm.Options{
				Env:     []string{textEnv + "=" + lockdownIntegrity},
				Cmdline: []string{lockdownIntegrity},
			})
		})
	}
}

// Options of the kernel that make it refuse modules without a trusted signature.
const (
	sigEnforce        = "module.sig_enforce=1"
	lockdownIntegrity = "lockdown=integrity"
)

func TestGuestLogReportsRefusedModules(t *testing.T) {
	guest.Only(t)
	option := os.Getenv(textEnv)
	if option == "" {
		t.Skip("runs in the VMs that TestTextRefused and TestSignatureEnforced boot")
	}
	run := runText(t, klog.NewKmsg(nil))
	want, errno := "Loading of %s is rejected", unix.EKEYREJECTED
	if option == lockdownIntegrity {
		want, errno = "unsigned module loading is restricted", unix.EPERM
	}
	for reason, change := range map[string]func([]byte) ([]byte, error){
		"unsigned module": kmod.Strip, "module with unavailable key": resign,
	} {
		image, err := change(image(t, "dummy"))
		require.NoError(t, err)
		require.ErrorIs(t, guest.LoadImage(image, ""), errno)
		e := run.seen(t, 1)[0]
		require.Equal(t, kmodquery.EventModuleLoad, e.EventName)
		require.Empty(t, e.Name)
		require.Equal(t, unix.ErrnoName(errno), e.Error)
		require.Equal(t, kmodquery.SignatureRejected, e.SignatureStatus)
		require.Contains(t, e.Raw, strings.Replace(want, "%s", reason, 1))
		if option == lockdownIntegrity {
			require.Equal(t, strings.TrimSpace(read(t, "/proc/self/comm")), e.ProcessName)
		}
	}
}

// testText makes attempts whose messages in the kernel's log are known.
func testText(t *testing.T, s text) {
	require.NoError(t, os.MkdirAll("/lib/firmware", 0o755))
	require.NoError(t, os.WriteFile("/lib/firmware/kmodquery-test.bin", []byte("firmware"), 0o644))
	handMade, err := kmod.Build(kmod.Firmware, nil)
	require.NoError(t, err)
	began := time.Now()
	require.NoError(t, guest.LoadImage(handMade, ""))
	loaded := time.Now()
	time.Sleep(2 * time.Second)

	// The backfill.
	run := runText(t, s.open(""))
	events, position := run.seenTo(t, 1)
	first := events[0]
	const taints = 1<<1 | 1<<12 | 1<<13
	require.Equal(t, kmodquery.EventModuleLoad, first.EventName)
	require.Equal(t, s.name, first.Source)
	require.Equal(t, "kmodquery_firmware", first.Name)
	require.EqualValues(t, taints, *first.Taints, "%s", first.Raw)
	require.Zero(t, *first.Intree)
	require.Equal(t, kmodquery.SignatureUnknown, first.SignatureStatus)
	require.Equal(t, read(t, "/proc/sys/kernel/random/boot_id"), first.BootID+"\n")
	require.WithinRange(t, time.Unix(0, first.TimeNanos), began.Add(-time.Second), loaded.Add(time.Second))
	for _, message := range []string{"kernel tainted", "out-of-tree module", "verification failed"} {
		require.Contains(t, first.Raw, message)
	}
	require.Nil(t, first.Result)
	require.NotEmpty(t, position)
	require.Regexp(t, "^[0-9a-f]{16}$", first.LoadID)

	t.Run("failures", func(t *testing.T) { textFailures(t, run) })
	t.Run("forged", func(t *testing.T) { textForged(t, s, run) })
	t.Run("restart", func(t *testing.T) { textRestart(t, s, run, first) })
}

// textFailures makes attempts that the kernel refuses with a logged reason.
func textFailures(t *testing.T, run *textRun) {
	plain, err := kmod.Strip(image(t, "dummy"))
	require.NoError(t, err)
	change := func(from, to string) []byte {
		require.Len(t, to, len(from))
		require.Contains(t, string(plain), from)
		return bytes.ReplaceAll(plain, []byte(from), []byte(to))
	}
	nbd := image(t, "nbd")
	for _, test := range []struct {
		name   string
		image  []byte
		params string
		errno  syscall.Errno
		want   kmodquery.Event
		raw    string
	}{
		// If symbols have versions, the kernel ignores its own version.
		{"version magic", change(" SMP ", " UMP "), "", unix.ENOEXEC,
			kmodquery.Event{Name: "dummy", Error: "ENOEXEC", Vermagic: strings.Replace(modinfo(t, plain)["vermagic"], " SMP ", " UMP ", 1)}, "version magic"},
		{"an unknown symbol", change("\x00alloc_netdev_mqs\x00", "\x00alloc_netdev_xxx\x00"), "", unix.ENOENT,
			kmodquery.Event{Name: "dummy", Error: "ENOENT"}, "Unknown symbol alloc_netdev_xxx (err -2)"},
		{"a parameter", nbd, "nbds_max=many", unix.EINVAL,
			kmodquery.Event{Name: "nbd", Params: new("nbds_max=many")}, "`many' invalid for parameter `nbds_max'"},
		{"no ELF", bytes.Repeat([]byte("no module "), 100), "", unix.ENOEXEC, kmodquery.Event{Error: "ENOEXEC"}, ""}, // its message has an invalid byte, which each log writes differently
	} {
		t.Run(test.name, func(t *testing.T) {
			require.ErrorIs(t, guest.LoadImage(test.image, test.params), test.errno)
			e := run.seen(t, 1)[0]
			require.Equal(t, kmodquery.EventModuleLoad, e.EventName)
			require.Equal(t, test.want.Name, e.Name)
			require.Equal(t, test.want.Error, e.Error)
			require.Equal(t, test.want.Params, e.Params)
			require.Equal(t, test.want.Vermagic, e.Vermagic)
			require.Contains(t, e.Raw, test.raw)
		})
	}
}

// textForged makes user space write the kernel's messages.
func textForged(t *testing.T, s text, run *textRun) {
	for _, message := range []string{
		"forged: loading out-of-tree module taints kernel.",
		"Loading of unsigned module is rejected",
		"Inserted module 'forged'",
	} {
		for _, priority := range []string{"", "<4>", "<0>", "<7>", "<256>", "<4294967296>"} {
			require.NoError(t, os.WriteFile("/dev/kmsg", []byte(priority+message+"\n"), 0))
			require.NoError(t, os.WriteFile("/dev/kmsg", []byte(priority+"kernel: "+message+"\n"), 0))
		}
		s.forge(t, message)
		unprivileged(t, func() { s.forge(t, message) })
	}
	require.Empty(t, run.seen(t, 0))
}

// textRestart stops the source, loads modules, and restarts it at its position.
func textRestart(t *testing.T, s text, run *textRun, first kmodquery.Event) {
	brd(t, "insmod")
	events, position := run.seenTo(t, 2)
	require.Equal(t, brdEvents, eventNames(events))
	run.stop()

	brd(t, "modprobe")
	time.Sleep(1500 * time.Millisecond)
	brd(t, "insmod")
	again := runText(t, s.open(position))
	require.Equal(t, twice(brdEvents), eventNames(again.seen(t, 4)))
	again.stop()

	// Without a position it reports everything again, with the same deduplication keys.
	all := runText(t, s.open(""))
	seen, last := all.seenTo(t, 1+4+2+4)
	require.Equal(t, first.LoadID, seen[0].LoadID)
	require.Equal(t, events[0].LoadID, seen[5].LoadID)
	require.InDelta(t, events[0].TimeNanos, seen[5].TimeNanos, float64(50*time.Millisecond))
	all.stop()

	if s.rotate == nil {
		return
	}
	for _, way := range s.rotate {
		t.Run(way.name, func(t *testing.T) {
			// While it runs.
			run := runText(t, s.open(last))
			brd(t, "modprobe")
			require.Equal(t, brdEvents, eventNames(run.seen(t, 2)))
			way.do(t)
			brd(t, "insmod")
			events, position := run.seenTo(t, 2)
			require.Equal(t, brdEvents, eventNames(events))
			run.stop()

			// While it does not.
			if !way.drops {
				brd(t, "modprobe")
				time.Sleep(1500 * time.Millisecond)
			}
			way.do(t)
			brd(t, "insmod")
			run = runText(t, s.open(position))
			want := brdEvents
			if !way.drops {
				want = twice(brdEvents)
			}
			events, last = run.seenTo(t, len(want))
			require.Equal(t, want, eventNames(events))
			run.stop()
		})
	}
}

// brd loads and unloads a module that logs a message each time, with the program or its
// counterpart.
func brd(t *testing.T, program string) {
	t.Helper()
	commands := [][]string{{"modprobe", "brd", "rd_nr=1"}, {"modprobe", "-r", "brd"}}
	if program == "insmod" {
		path := filepath.Join(t.TempDir(), "brd.ko")
		require.NoError(t, os.WriteFile(path, image(t, "brd"), 0o600))
		commands = [][]string{{"insmod", path, "rd_nr=1"}, {"rmmod", "brd"}}
	}
	for _, command := range commands {
		out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

// brdEvents are the events of brd.
var brdEvents = []string{kmodquery.EventModuleLoad, kmodquery.EventModuleFree}

func twice(all []string) []string { return append(all[:len(all):len(all)], all...) }

func eventNames(events []kmodquery.Event) []string {
	var all []string
	for _, e := range events {
		all = append(all, e.EventName)
	}
	return all
}

// startJournald runs systemd's journald, without systemd.
func startJournald(t *testing.T) *exec.Cmd {
	t.Helper()
	require.NoError(t, os.WriteFile("/etc/machine-id", []byte("0123456789abcdef0123456789abcdef\n"), 0o644))
	for _, dir := range []string{"/run/systemd/journal", "/run/log/journal", "/var/log"} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	return startDaemon(t, "/run/systemd/journal/socket", "/usr/lib/systemd/systemd-journald")
}

// startSyslog runs rsyslogd as Debian configures it.
func startSyslog(t *testing.T) *exec.Cmd {
	t.Helper()
	require.NoError(t, os.MkdirAll("/var/log", 0o755))
	require.NoError(t, os.WriteFile("/etc/rsyslog.conf", []byte(`
module(load="imuxsock")
module(load="imklog")
*.*;auth,authpriv.none	-/var/log/syslog
kern.*	-/var/log/kern.log
`), 0o644))
	return startDaemon(t, "/dev/log", "/usr/sbin/rsyslogd", "-n", "-i", "/run/rsyslogd.pid", "-f", "/etc/rsyslog.conf")
}

// startDaemon runs a program until the test ends. It returns when the socket exists.
func startDaemon(t *testing.T, socket string, command ...string) *exec.Cmd {
	t.Helper()
	var output bytes.Buffer
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		t.Logf("%s: %s", filepath.Base(command[0]), output.String())
	})
	require.Eventually(t, func() bool {
		_, err := os.Stat(socket)
		return err == nil
	}, time.Minute, 50*time.Millisecond, "%s", output.String())
	return cmd
}

// logTo sends one datagram.
func logTo(t *testing.T, socket, message string) {
	t.Helper()
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		t.Errorf("connect to %s: %v", socket, err)
		return
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(message)); err != nil {
		t.Errorf("write to %s: %v", socket, err)
	}
}
