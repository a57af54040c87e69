//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// sourcesEnv is set in the VMs that TestSources boots.
const sourcesEnv = "KMODQUERY_SOURCES_TEST"

// TestSources boots kernels for extensions with sources other than eBPF, or with
// several, and then for the audit source beside Debian's audit daemon.
func TestSources(t *testing.T) {
	t.Parallel()
	for _, kernel := range kernels("6.1", vm.Newest().String()) {
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			files, err := vm.Programs(t.Context(), kernel.Arch, auditdPackages, []string{"/usr/sbin/auditd"}, t.Logf)
			if err != nil && os.Getenv("CI") == "" {
				t.Skip(err)
			}
			require.NoError(t, err)
			files[guestExtension] = buildExtension(t, kernel.Arch)
			vm.TestSteps(t, kernel, []vm.Step{
				{Name: "sources", Pattern: "^TestGuestSources", Env: []string{sourcesEnv + "=1"}},
				{Name: "audit daemon", Pattern: "^TestGuestAuditReadsBesideTheDaemon$", Env: []string{auditdEnv + "=1"}},
			}, vm.Options{
				Modules: []string{"nbd", "tcp_nv", "tcp_illinois"},
				Files:   files,
				Timeout: 20 * time.Minute,
			})
		})
	}
}

func needSources(t *testing.T) {
	t.Helper()
	guest.Only(t)
	if os.Getenv(sourcesEnv) == "" {
		t.Skip("runs in the VMs that TestSources boots")
	}
}

// unsigned writes a module of the kernel without its signature and returns the path.
// The kernel logs the first such module that is loaded.
func unsigned(t *testing.T, name string) string {
	t.Helper()
	stripped, err := kmod.Strip(image(t, name))
	require.NoError(t, err)
	path := filepath.Join("/run", name+".ko")
	require.NoError(t, os.WriteFile(path, stripped, 0o600))
	return path
}

// corrupted writes a module that every kernel refuses with a log message, and returns
// the path.
func corrupted(t *testing.T, name string) string {
	t.Helper()
	stripped, err := kmod.Strip(image(t, name))
	require.NoError(t, err)
	bad, err := spoil(stripped)
	require.NoError(t, err)
	path := filepath.Join("/run", name+"-corrupted.ko")
	require.NoError(t, os.WriteFile(path, bad, 0o600))
	return path
}

// spoil returns a copy of a module that every kernel refuses with a log message.
func spoil(image []byte) ([]byte, error) {
	bad := slices.Clone(image)
	// If symbols have versions, the kernel ignores its own version there.
	vermagic := bytes.Index(bad, []byte("vermagic="))
	if vermagic < 0 {
		return nil, errors.New("the module has no vermagic")
	}
	at := bytes.Index(bad[vermagic:], []byte(" SMP "))
	if at < 0 {
		return nil, errors.New("the module's vermagic has no SMP")
	}
	copy(bad[vermagic+at:], " XYZ ")
	return bad, nil
}

func insmod(path string) error {
	output, err := exec.Command("insmod", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

// findingsOf returns a source's findings as "trigger name error".
func (c compared) findingsOf(t *testing.T, source string) []string {
	t.Helper()
	var found []string
	for _, row := range c.query(t, "SELECT f.\"trigger\", f.name, e.error FROM kernel_module_findings f JOIN kernel_module_events e ON f.eid = e.eid WHERE f.source = '%s' AND f.signature_id = 'TRC-1017' ORDER BY e.time_nanos", source) {
		found = append(found, strings.TrimSpace(row["trigger"]+" "+row["name"]+" "+row["error"]))
	}
	return found
}

// TestGuestSourcesJoinOneAttempt loads a module with three sources active. It is one
// attempt, and one finding of the best source.
func TestGuestSourcesJoinOneAttempt(t *testing.T) {
	needSources(t)
	path, bad := unsigned(t, "dummy"), corrupted(t, "nbd")
	c := startCompared(t, kmodquery.SourceKmsg, kmodquery.SourceAudit, kmodquery.SourceEBPF)
	for _, source := range []string{"kmsg", "audit", "procfs"} {
		require.NoError(t, c.awaitActive(source))
	}
	require.NoError(t, insmod(path))
	require.Error(t, insmod(bad))
	require.NoError(t, exec.Command("rmmod", "dummy").Run())

	for _, name := range []string{"dummy", "nbd"} {
		// Audit's records have no name for a load that fails early.
		of := "load_id = (SELECT load_id FROM kernel_module_events WHERE name = '" + name + "' AND event_name = 'finit_module' AND source = 'ebpf')"
		var rows []map[string]string
		require.Eventually(t, func() bool {
			rows = c.query(t, "SELECT DISTINCT source FROM kernel_module_events WHERE %s ORDER BY source", of)
			return len(rows) == 3
		}, time.Minute, time.Second, "%s: %v", name, &rows)
		require.Equal(t, []string{"audit", "ebpf", "kmsg"}, column(rows, "source"), name)
		found := c.query(t, "SELECT source FROM kernel_module_findings WHERE %s AND signature_id = 'TRC-1017'", of)
		require.Equal(t, []string{"ebpf"}, column(found, "source"), name)
	}
	require.Len(t, c.query(t, "SELECT eid FROM kernel_module_findings WHERE signature_id = 'TRC-1017'"), 2, "and no others")
	unloads := c.query(t, "SELECT load_id, source, event_name, uptime, reason FROM kernel_module_events WHERE name = 'dummy' AND event_name IN ('module_free', 'delete_module')")
	require.Len(t, unloads, 3)
	for _, row := range unloads {
		require.Equal(t, unloads[0]["load_id"], row["load_id"], "%v", unloads)
	}
	for _, row := range c.query(t, "SELECT source, state, joined, lost, reason FROM kernel_module_sensors") {
		require.Equal(t, "active", row["state"], "%v", row)
		require.Equal(t, "0", row["lost"], "%v", row)
		if row["source"] == "audit" {
			require.Equal(t, "3", row["joined"])
		}
	}
}

// TestGuestSourcesReportLoadsAlone requires each source alone to report a load by
// insmod, one by modprobe and one that fails. Sources that read logs backfill from this
// boot.
func TestGuestSourcesReportLoadsAlone(t *testing.T) {
	needSources(t)
	for _, source := range []string{"audit", "kmsg"} {
		t.Run(source, func(t *testing.T) {
			c := startCompared(t, source)
			before := len(c.findingsOf(t, source))
			require.NoError(t, insmod(unsigned(t, "dummy")))
			require.NoError(t, exec.Command("modprobe", "tcp_nv").Run())
			require.Error(t, insmod(corrupted(t, "nbd")))
			require.NoError(t, exec.Command("rmmod", "dummy", "tcp_nv").Run())
			if source == "audit" {
				require.Eventually(t, func() bool { return len(c.findingsOf(t, source)) >= before+3 }, 2*time.Minute, time.Second)
				found := c.findingsOf(t, source)[before:]
				require.Len(t, found, 3)
				require.Equal(t, "finit_module dummy", found[0])
				require.Equal(t, "finit_module tcp_nv", found[1])
				require.Contains(t, found[2], "ENOEXEC")
				return
			}
			// Once per boot the kernel logs that an unsigned module taints it. It logs
			// nothing for a module that does not taint it.
			require.Eventually(t, func() bool {
				return slices.Contains(c.findingsOf(t, source), "module_load nbd ENOEXEC")
			}, 2*time.Minute, time.Second, "%v", c.findingsOf(t, source))
			require.Contains(t, c.findingsOf(t, source), "module_load dummy")
		})
	}
}

// TestGuestSourcesFailOver closes the extension's hooks without its knowledge.
func TestGuestSourcesFailOver(t *testing.T) {
	needSources(t)
	require.Error(t, insmod(corrupted(t, "nbd")))
	c := startCompared(t)
	sensor := func(source string) map[string]string {
		t.Helper()
		rows := c.query(t, "SELECT state, reason, since FROM kernel_module_sensors WHERE source = '%s'", source)
		require.Len(t, rows, 1)
		return rows[0]
	}
	require.Equal(t, "active", sensor("ebpf")["state"])
	require.Eventually(t, func() bool { return sensor("audit")["state"] == "standby" && sensor("kmsg")["state"] == "standby" },
		2*time.Minute, time.Second)
	require.Contains(t, c.findingsOf(t, "kmsg"), "module_load nbd ENOEXEC", "earlier attempts have been reported")
	require.Contains(t, sensor("audit")["reason"], "ebpf", "it names the active source")
	time.Sleep(2 * pollOf)

	since := sensor("ebpf")["since"]
	require.Positive(t, closeLinks(t, c.extension.PID()))
	require.NoError(t, guest.LoadImage(image(t, "dummy"), ""))
	row := c.differs(t, "module_unwitnessed dummy")
	require.Contains(t, row["reason"], "ebpf did not report its load")
	require.Equal(t, []string{"module_unwitnessed dummy"}, c.findingsOf(t, "procfs"))
	require.Contains(t, sensor("ebpf")["reason"], "attached programs are gone")

	// The source attaches again. Events meanwhile were seen by audit or by the hooks.
	require.Eventually(t, func() bool {
		ebpf := sensor("ebpf")
		return ebpf["state"] == "active" && ebpf["since"] != since
	}, time.Minute, time.Second)
	require.NoError(t, guest.Unload("dummy"))
	require.NoError(t, guest.LoadImage(image(t, "tcp_illinois"), ""))
	require.NoError(t, guest.Unload("tcp_illinois"))
	found := c.query(t, "SELECT source FROM kernel_module_findings WHERE name = 'tcp_illinois' AND signature_id = 'TRC-1017'")
	require.Contains(t, column(found, "source"), "ebpf")
	require.Equal(t, []string{"module_unwitnessed dummy"}, c.reported(t))
}

// closeLinks closes the descriptors of a process that are BPF links or perf
// events, and returns how many there were.
func closeLinks(t *testing.T, pid int) int {
	t.Helper()
	fds := []string{strconv.Itoa(pid)}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	for _, entry := range entries {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, entry.Name()))
		if strings.Contains(target, "bpf_link") || strings.Contains(target, "bpf-link") || strings.Contains(target, "[perf_event]") {
			fds = append(fds, entry.Name())
		}
	}
	// This process is the parent, whose wait for the end would consume the stops.
	require.NoError(t, cast(t, "close", fds...).Run())
	return len(fds) - 1
}

// closeRole closes descriptors in the process of its first argument. The other
// arguments are the descriptors.
func closeRole() error {
	var numbers []int
	for _, text := range os.Args[1:] {
		number, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		numbers = append(numbers, number)
	}
	for _, fd := range numbers[1:] {
		if err := inject(numbers[0], unix.SYS_CLOSE, uint64(fd)); err != nil {
			return err
		}
	}
	return nil
}
