package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// host returns a root with files.
func host(t *testing.T, files map[string]string) Root {
	t.Helper()
	root := Root(t.TempDir())
	for name, content := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(root.path(name)), 0o755))
		require.NoError(t, os.WriteFile(root.path(name), []byte(content), 0o644))
	}
	return root
}

// requireResult checks the first result: its status, a part of its reason and one of its
// remedy.
func requireResult(t *testing.T, results []Result, status Status, reason, remedy string) {
	t.Helper()
	require.NotEmpty(t, results)
	require.Equal(t, status, results[0].Status, results)
	require.Contains(t, results[0].Reason, reason)
	require.Contains(t, results[0].Remedy, remedy)
}

func TestKernel(t *testing.T) {
	modules := map[string]string{"/proc/modules": "", "/proc/self/status": ""}
	for _, test := range []struct {
		release        string
		files          map[string]string
		status         Status
		reason, remedy string
	}{
		{"6.12.0-1-amd64", modules, OK, "Linux 6.12.0-1-amd64", ""},
		{"5.4.0", modules, Warning, "older than 5.8", "5.8 or later"},
		{"5.9.1", modules, Warning, "cannot keep the hooks attached", "5.10"},
		{"", modules, Unknown, "has no version", ""},
		{"6.12.0", map[string]string{"/proc/self/status": ""}, Note, "cannot load modules", ""},
		{"6.12.0", nil, Critical, "/proc is not mounted", "mount"},
		{"6.12.0", map[string]string{"/proc/modules": "", "/proc/sys/kernel/modules_disabled": "1\n"}, OK, "loads no module until the next boot", ""},
	} {
		requireResult(t, host(t, test.files).Kernel(test.release), test.status, test.reason, test.remedy)
	}
}

func TestBTF(t *testing.T) {
	const path = "/sys/kernel/btf/vmlinux"
	requireResult(t, host(t, map[string]string{path: "\x9f\xeb\x01"}).BTF(), OK, path, "")
	requireResult(t, host(t, map[string]string{path: "text"}).BTF(), Warning, "not what the kernel writes", "mounted")
	requireResult(t, host(t, nil).BTF(), Warning, "there is no "+path, "CONFIG_DEBUG_INFO_BTF")
}

func TestRights(t *testing.T) {
	status := func(effective string) map[string]string {
		return map[string]string{"/proc/self/status": "Name:\tx\nCapEff:\t" + effective + "\nCapBnd:\t0\n", "/proc/sys/kernel/perf_event_paranoid": "3\n"}
	}
	requireResult(t, host(t, status("000001ffffffffff")).Rights(), OK, "CAP_SYS_ADMIN", "")
	requireResult(t, host(t, status("0000000000000000")).Rights(), Unknown, "lacks CAP_BPF", "root")
	requireResult(t, host(t, status("000000c000000000")).Rights(), Warning, "perf_event_paranoid is 3", "CAP_SYS_ADMIN")
	permissive := status("000000c000000000")
	permissive["/proc/sys/kernel/perf_event_paranoid"] = "2\n"
	requireResult(t, host(t, permissive).Rights(), OK, "CAP_BPF and CAP_PERFMON", "")
	requireResult(t, host(t, map[string]string{"/proc/self/status": "Name:\tx\n"}).Rights(), Unknown, "does not show", "")
}

func TestLockdown(t *testing.T) {
	const path = "/sys/kernel/security/lockdown"
	requireResult(t, host(t, nil).Lockdown(), OK, "no lockdown", "")
	requireResult(t, host(t, map[string]string{path: "none [integrity] confidentiality\n"}).Lockdown(), OK, "lockdown is integrity", "")
	requireResult(t, host(t, map[string]string{path: "none integrity [confidentiality]\n"}).Lockdown(), Warning, "without parameters", "integrity")
	requireResult(t, host(t, map[string]string{path: "?\n"}).Lockdown(), Unknown, `"?"`, "")
}

const flagFile = "/etc/osquery/osquery.flags"

func osqueryOf(root Root, processes ...Process) Osquery {
	return Osquery{Root: root, Folder: "/etc/osquery", Programs: []string{"/usr/bin/osqueryd"}, Processes: func(string) ([]Process, error) { return processes, nil }}
}

func TestPresenceOfOsquery(t *testing.T) {
	installed := host(t, map[string]string{"/usr/bin/osqueryd": ""})
	requireResult(t, osqueryOf(host(t, nil)).Presence(), Note, "was not found", "")
	requireResult(t, osqueryOf(installed).Presence(), Note, "does not run", "start it")
	requireResult(t, osqueryOf(installed, Process{PID: 7}).Presence(), OK, "process 7", "")
	unknown := osqueryOf(installed)
	unknown.Processes = func(string) ([]Process, error) { return nil, errors.New("no") }
	requireResult(t, unknown.Presence(), Unknown, "not known", "root")
}

func TestOsqueryFlags(t *testing.T) {
	good := "# comment\n--extensions_require=other,kmodquery\n--extensions_timeout=10\n"
	for _, test := range []struct {
		flags          string
		status         Status
		reason, remedy string
	}{
		{good, OK, "lets osquery start the extension", ""},
		{good + "--disable_extensions\n", Critical, "disables extensions", "remove"},
		{good + "--disable_extensions=true\n--nodisable_extensions\n", OK, "", ""},
		{good + "--enable_extensions_watchdog=1\n", Warning, "watchdog", "remove"},
		{good + "--extensions_timeout=1\n", Warning, "1 seconds", "extensions_timeout=10"},
		{"--verbose\n", Note, "does not require kmodquery", "extensions_require=kmodquery"},
	} {
		requireResult(t, osqueryOf(host(t, map[string]string{flagFile: test.flags})).CheckFlags(), test.status, test.reason, test.remedy)
	}
	requireResult(t, osqueryOf(host(t, nil)).CheckFlags(), Note, "no flag file", "")

	// The command line of the process wins, and names the file.
	root := host(t, map[string]string{"/opt/flags": good, flagFile: "--disable_extensions\n"})
	running := osqueryOf(root, Process{7, []string{"osqueryd", "--flagfile=/opt/flags", "--extensions_socket=/run/o.em"}})
	requireResult(t, running.CheckFlags(), OK, "/opt/flags and the command line of process 7", "")
	require.Equal(t, "/run/o.em", running.Socket())
	missing := osqueryOf(root, Process{7, []string{"osqueryd", "--flagfile=/none"}})
	requireResult(t, missing.CheckFlags(), Warning, "/none", "flag file")
}

func TestAutoload(t *testing.T) {
	const list = "/etc/osquery/extensions.load"
	requireResult(t, osqueryOf(host(t, nil)).CheckAutoload(), Note, "does not exist", "write")
	requireResult(t, osqueryOf(host(t, map[string]string{list: "/opt/other.ext\n"})).CheckAutoload(), Critical, "does not name", "add the line")
	root := host(t, map[string]string{list: "/opt/other.ext\n /usr/lib/osquery/kmodquery.ext \n"})
	o := osqueryOf(root)
	requireResult(t, o.CheckAutoload(), OK, "names /usr/lib/osquery/kmodquery.ext", "")
	require.Equal(t, "/usr/lib/osquery/kmodquery.ext", o.Extension())
	require.NoError(t, os.Chmod(root.path(list), 0o666))
	requireResult(t, o.CheckAutoload(), Critical, "can be changed by users other than root", "chmod go-w")

	other := host(t, map[string]string{flagFile: "--extensions_autoload=/opt/list\n", "/opt/list": "/x/kmodquery.ext\n"})
	require.Equal(t, "/x/kmodquery.ext", osqueryOf(other).Extension())
}

func TestBinary(t *testing.T) {
	const path = "/usr/lib/osquery/kmodquery.ext"
	root := host(t, map[string]string{path: "", "/usr/lib/osquery/kmodquery": "", "/usr/lib/osquery/folder.ext/x": ""})
	folder := filepath.Dir(root.path(path))
	set := func(name string, mode fs.FileMode) { require.NoError(t, os.Chmod(name, mode)) }
	requireResult(t, root.Binary(path), Critical, "not executable", "chmod 0755")
	set(root.path(path), 0o755)
	if os.Geteuid() == 0 {
		requireResult(t, root.Binary(path), OK, "belongs to root", "")
		require.NoError(t, os.Chown(root.path(path), 1234, 0))
		requireResult(t, root.Binary(path), Critical, "belongs to user 1234", "chown root")
		require.NoError(t, os.Chown(root.path(path), 0, 0))
		require.NoError(t, os.Chown(folder, 1234, 0))
		requireResult(t, root.Binary(path), Critical, "osquery belongs to user 1234", "chown root")
		require.NoError(t, os.Chown(folder, 0, 0))
	} else {
		requireResult(t, root.Binary(path), Warning, "runs as root starts only", "chown root")
	}
	set(root.path(path), 0o775)
	requireResult(t, root.Binary(path), Critical, "written by others (mode 0775)", "chmod 0755")
	set(root.path(path), 0o755)
	set(folder, 0o777)
	requireResult(t, root.Binary(path), Critical, "could replace the binary", "chmod go-w")
	set(folder, 0o755|fs.ModeSticky)
	requireResult(t, root.Binary(path), Critical, "sticky bit", "/usr/lib/osquery")
	set(folder, 0o755)
	requireResult(t, root.Binary("/none/kmodquery.ext"), Critical, "does not exist", "install")
	requireResult(t, root.Binary("/usr/lib/osquery/folder.ext"), Critical, "no regular file", "")
	requireResult(t, root.Binary("/usr/lib/osquery/kmodquery"), Warning, "does not end in .ext", "rename")
}

func TestMacOS(t *testing.T) {
	requireResult(t, macKernel("23.1.0"), OK, "Darwin 23.1.0", "")
	requireResult(t, macKernel("21.6.0"), Warning, "older than macOS 13", "")
	requireResult(t, macKernel(""), Unknown, "no version", "")
	root := host(t, map[string]string{tccDatabase: "", "/usr/bin/eslogger": ""})
	requireResult(t, root.program("/usr/bin/eslogger", Critical), Critical, "not executable", "chmod")
	require.NoError(t, os.Chmod(root.path("/usr/bin/eslogger"), 0o755))
	requireResult(t, root.program("/usr/bin/eslogger", Critical), OK, "/usr/bin/eslogger", "")
	requireResult(t, root.program("/usr/bin/kmutil", Warning), Warning, "there is no /usr/bin/kmutil", "macOS 13")
	requireResult(t, root.fullDiskAccess(), OK, "has Full Disk Access", "")
	requireResult(t, host(t, nil).fullDiskAccess(), Unknown, "", "")
	if os.Geteuid() != 0 {
		require.NoError(t, os.Chmod(root.path(tccDatabase), 0))
		requireResult(t, root.fullDiskAccess(), Warning, "lacks Full Disk Access", "PPPC")
	}
}

func TestSensors(t *testing.T) {
	ebpf := kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateActive}
	views := kmodquery.Sensor{Source: kmodquery.SourceProcfs, State: kmodquery.StateActive}
	results := Sensors([]kmodquery.Sensor{ebpf, {Source: "audit", State: kmodquery.StateStandby, Reason: "not needed while ebpf watches"}, views}, views.Source)
	require.Equal(t, OK, Worst(results), results)
	requireResult(t, results, OK, "ebpf watches", "")

	broken := ebpf
	broken.State, broken.Reason = kmodquery.StateFailed, "no memory"
	results = Sensors([]kmodquery.Sensor{broken, views}, views.Source)
	requireResult(t, results, Critical, "no source watches", "")
	require.Contains(t, results, Result{"sensor ebpf", Warning, "failed: no memory", ""})

	starting := kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateStandby}
	requireResult(t, Sensors([]kmodquery.Sensor{starting, views}, views.Source), Unknown, "may be starting", "again")

	for status, changed := range map[Status]kmodquery.Sensor{
		Warning:  {Source: "ebpf", State: kmodquery.StateActive, Lost: 1},
		Critical: {Source: "ebpf", State: kmodquery.StateActive, Filtered: 1},
		Note:     {Source: "ebpf", State: kmodquery.StateUnavailable},
	} {
		require.Equal(t, status, Sensors([]kmodquery.Sensor{changed}, "procfs")[1].Status)
	}
	full := ebpf
	full.StoreReason = "the disk is full"
	require.Contains(t, Sensors([]kmodquery.Sensor{full}, "procfs"), Result{"store_health", Critical, "the disk is full", ""})
}

func TestStore(t *testing.T) {
	root := host(t, map[string]string{"/state/events.db": ""})
	state := root.path("/state")
	requireResult(t, Store(root.path("/none")), Note, "does not exist", "")
	requireResult(t, Store(state), Note, "does not exist", "")
	require.NoError(t, os.WriteFile(filepath.Join(state, "events.db"), []byte(strings.Repeat("x", 200)), 0o600))
	requireResult(t, Store(state), Critical, "no SQLite database", "")
	require.NoError(t, os.Chmod(state, 0o777))
	requireResult(t, Store(state), Critical, "others may write", "")
	_, err := os.Lstat(root.path("/none"))
	require.ErrorIs(t, err, fs.ErrNotExist, "a check makes nothing")
}

func TestNoRecorder(t *testing.T) {
	requireResult(t, NoRecorder(t.TempDir(), fs.ErrNotExist), Critical, "no process records", "systemctl")
	requireResult(t, NoRecorder(t.TempDir(), fs.ErrPermission), Unknown, "may not ask", "root")
}

func TestRegistered(t *testing.T) {
	requireResult(t, Registered("/s", []string{"other", "kmodquery"}, nil), OK, "its tables answer", "")
	requireResult(t, Registered("/s", []string{"kmodquery"}, errors.New("no such table")), Critical, "no such table", "restart")
	requireResult(t, Registered("/s", nil, nil), Critical, "does not list", "autoload")
}
