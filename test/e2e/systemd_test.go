//go:build linux

package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

const (
	unitName = "kmodquery.service"
	// unitExposure is the maximum exposure of the unit in systemd-analyze, of 100. The
	// remaining exposure is due to rights that a recorder needs.
	unitExposure = "40"
	// installed is the extension's path in the unit.
	installed = "/usr/lib/osquery/kmodquery.ext"
)

// unitCapabilities are the capabilities that the unit keeps.
var unitCapabilities = []int{
	unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_ADMIN, unix.CAP_AUDIT_CONTROL, unix.CAP_AUDIT_READ, unix.CAP_SYSLOG,
	unix.CAP_DAC_READ_SEARCH, unix.CAP_SYS_PTRACE,
}

// unit returns the path of a copy of the unit with the extension at another path.
func unit(t *testing.T, extension string) string {
	t.Helper()
	content := read(t, "../../packaging/systemd/"+unitName)
	require.Contains(t, content, "\nExecStart="+installed+" record\n")
	path := filepath.Join(t.TempDir(), unitName)
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(content, installed, extension)), 0o644))
	return path
}

// TestUnitPassesSystemdAnalyze checks the unit with systemd-analyze.
func TestUnitPassesSystemdAnalyze(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getuid() != 0 {
			t.Skip("missing Debian packages: run as root: apt-get install systemd")
		}
		for _, args := range [][]string{{"update", "-q"}, {"install", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "systemd"}} {
			cmd := exec.Command("apt-get", args...)
			cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
	}
	path := unit(t, buildExtension(t, vm.Arch(runtime.GOARCH)))
	out, err := exec.Command("systemd-analyze", "verify", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), unitName, "systemd-analyze warns of the unit")

	out, err = exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+unitExposure, path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Log(regexp.MustCompile(`Overall exposure.*`).FindString(string(out)))
}

// serviceEnv is set in the VM that TestService boots.
const serviceEnv = "KMODQUERY_SERVICE"

// servicePackages are systemd and its dependencies.
var servicePackages = []string{
	"systemd", "libsystemd-shared", "libsystemd0", "libcap2", "libacl1", "libblkid1", "libmount1", "libseccomp2",
	"libselinux1", "libpcre2-8-0", "libcrypt1", "libaudit1", "libcap-ng0", "libpam0g", "libapparmor1", "libuuid1", "mount", "libbpf1", "libelf1t64",
}

var servicePrograms = []string{
	systemd, "/usr/lib/systemd/systemd-executor", "/usr/lib/systemd/systemd-journald", "/usr/lib/systemd/systemd-modules-load",
	"/usr/bin/systemctl", "/usr/bin/journalctl", "/usr/bin/mount", "/usr/bin/umount",
	// systemd opens these at run time.
	"/usr/lib/x86_64-linux-gnu/libkmod.so.2", "/usr/lib/x86_64-linux-gnu/libseccomp.so.2", "/usr/lib/x86_64-linux-gnu/libmount.so.1",
	"/usr/lib/x86_64-linux-gnu/libaudit.so.1", "/usr/lib/x86_64-linux-gnu/libpam.so.0", "/usr/lib/x86_64-linux-gnu/libacl.so.1",
	"/usr/lib/x86_64-linux-gnu/libblkid.so.1", "/usr/lib/x86_64-linux-gnu/libselinux.so.1",
	"/usr/lib/x86_64-linux-gnu/libbpf.so.1",
}

const systemd = "/usr/lib/systemd/systemd"

// serviceUnits are systemd's own units that the VM has.
var serviceUnits = []string{
	"basic.target", "sysinit.target", "local-fs.target", "local-fs-pre.target", "swap.target", "sockets.target", "timers.target",
	"paths.target", "slices.target", "shutdown.target", "umount.target", "final.target", "poweroff.target",
	"systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-modules-load.service",
	"sys-kernel-tracing.mount", "sys-kernel-debug.mount",
}

// TestService boots whole systems with systemd and the unit. The unit records before
// systemd-modules-load loads anything.
func TestService(t *testing.T) {
	if !suite.Long() {
		t.Skip("boots two whole systems; set SUITE=long to run it")
	}
	t.Parallel()
	for _, kernel := range kernels("5.10", vm.Newest().String()) {
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			files, err := vm.Programs(t.Context(), kernel.Arch, servicePackages, servicePrograms, t.Logf)
			if err != nil && os.Getenv("CI") == "" {
				t.Skip(err)
			}
			require.NoError(t, err)
			units := filepath.Join(filepath.Dir(files[systemd]), "system")
			for _, name := range serviceUnits {
				files["/usr/lib/systemd/system/"+name] = filepath.Join(units, name)
			}
			files[installed] = buildExtension(t, kernel.Arch)
			files["/etc/systemd/system/"+unitName] = abs(t, "../../packaging/systemd/"+unitName)
			for name, content := range serviceFiles {
				path := filepath.Join(t.TempDir(), "file")
				require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
				files[name] = path
			}
			vm.Test(t, kernel, "^TestGuestServiceRecordsEarly$", vm.Options{
				Files:   files,
				Modules: []string{"nbd", "brd"},
				Env:     []string{serviceEnv + "=1"},
				Cmdline: []string{"systemd.unit=guest.target", "systemd.log_target=console", "systemd.show_status=1"},
				Timeout: 15 * time.Minute,
			})
		})
	}
}

// serviceFiles make the guest's tests a service of its systemd.
var serviceFiles = map[string]string{
	"/home/.keep":                   "",
	"/etc/machine-id":               "0123456789abcdef0123456789abcdef\n",
	"/etc/modules-load.d/vm.conf":   "dummy\n",
	"/etc/kmodquery/kmodquery.conf": "sources ebpf,audit,journal,kmsg\n",
	// As systemctl enable does.
	"/etc/systemd/system/sysinit.target.d/vm.conf": "[Unit]\nWants=" + unitName + " systemd-modules-load.service systemd-journald.service " +
		"sys-kernel-tracing.mount sys-kernel-debug.mount\n",
	"/etc/systemd/system/" + unitName + ".d/vm.conf": "[Service]\nWatchdogSec=20\nTimeoutAbortSec=2\n",
	"/etc/systemd/system/guest.target":               "[Unit]\nRequires=basic.target guest.service\nAfter=basic.target\nAllowIsolate=yes\n",
	"/etc/systemd/system/guest.service": "[Unit]\nAfter=basic.target\n[Service]\nExecStart=/init\nEnvironment=" + guest.ServiceEnv + "=1\n" +
		"StandardOutput=tty\nStandardError=tty\nTTYPath=/dev/console\n",
}

// becomeSystemd makes systemd the VM's init, if it is installed.
func becomeSystemd() error {
	if _, err := os.Stat(guest.ConfigPath); err != nil || os.Getpid() != 1 {
		return nil
	}
	if _, err := os.Stat("/etc/systemd/system/guest.target"); err != nil {
		return nil
	}
	// systemd moves mounts for each service, which is impossible in the initramfs, so
	// the same files are mounted over it.
	const over = "/.root"
	if err := os.Mkdir(over, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", over, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the root: %w", err)
	}
	for _, step := range []func() error{
		func() error { return unix.Chdir(over) },
		func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") },
		func() error { return unix.Chroot(".") },
		func() error { return unix.Chdir("/") },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("mount another root over the initramfs: %w", err)
		}
	}
	return syscall.Exec(systemd, []string{systemd}, []string{"PATH=/usr/sbin:/usr/bin", "container="})
}

// show returns a property of a unit.
func show(t *testing.T, name, property string) string {
	t.Helper()
	out, err := exec.Command("systemctl", "show", "-P", property, name).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

func systemctl(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// queryService queries the store that the service writes.
func queryService(t *testing.T, sql string) (rows []map[string]string) {
	t.Helper()
	cmd := exec.Command(installed, "query", "--format", "json", sql)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(out, &rows))
	return rows
}

// sensors returns the state of each source of the recorder, or nil if no other process
// records.
func sensors(t *testing.T) (states map[string]string) {
	t.Helper()
	states = map[string]string{}
	for _, row := range queryService(t, "SELECT source, state, reason, hooks, role FROM kernel_module_sensors") {
		if row["role"] != "reader" {
			return nil
		}
		states[row["source"]] = row["state"] + " " + row["hooks"]
		if row["state"] != "active" || row["source"] == "procfs" {
			states[row["source"]] += " " + row["reason"]
		}
	}
	return states
}

func TestGuestServiceRecordsEarly(t *testing.T) {
	guest.Only(t)
	if os.Getenv(serviceEnv) == "" {
		t.Skip("runs in the VMs that TestService boots, with a real systemd")
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("journalctl", "--no-pager", "-u", unitName).CombinedOutput()
			t.Logf("%s", out)
		}
	})
	require.Equal(t, "active", show(t, unitName, "ActiveState"))
	require.Eventually(t, func() bool {
		return show(t, unitName, "StatusText") == "recording: ebpf is active, audit is active, journal is active, kmsg is active, procfs is active"
	}, time.Minute, time.Second, "procfs is active after the first look")

	t.Run("early", func(t *testing.T) {
		ready, err := strconv.Atoi(show(t, unitName, "ActiveEnterTimestampMonotonic"))
		require.NoError(t, err)
		loads, err := strconv.Atoi(show(t, "systemd-modules-load.service", "ExecMainStartTimestampMonotonic"))
		require.NoError(t, err)
		require.Less(t, ready, loads)
		require.Equal(t, []map[string]string{{
			"event_name": "module_load", "process_path": "/usr/lib/systemd/systemd-modules-load", "missing": "", "hash_source": "kernel",
		}}, queryService(t, "SELECT event_name, process_path, ifnull(missing, '') AS missing, hash_source FROM kernel_module_events "+
			"WHERE source = 'ebpf' AND name = 'dummy' AND event_name = 'module_load'"))
	})
	t.Run("restricted", func(t *testing.T) { testRestrictions(t, show(t, unitName, "MainPID")) })
	t.Run("canary", func(t *testing.T) {
		// The filter of system calls permits it, and no source reports it. Other hooks count it.
		others, err := bpf.Open(t.Context(), bpf.Options{})
		require.NoError(t, err)
		defer others.Close()
		systemctl(t, "restart", unitName)
		require.Eventually(t, func() bool {
			counts, err := others.DeniedCounts()
			return err == nil && len(counts) == 1 && counts[0].Count == 1
		}, time.Minute, time.Second)
		require.Empty(t, queryService(t, "SELECT * FROM kernel_module_sensors WHERE source = 'ebpf' AND reason != ''"))
		require.Empty(t, queryService(t, "SELECT * FROM kernel_module_events WHERE error = 'EPERM' OR event_name = 'sensor_tampered'"))
	})
	t.Run("files", testServiceFiles)
	t.Run("the same sources as without restrictions", func(t *testing.T) {
		restricted := map[string]string{}
		require.Eventually(t, func() bool {
			restricted = sensors(t)
			return !strings.Contains(fmt.Sprint(restricted), "standby")
		}, 2*time.Minute, time.Second)
		require.NotEmpty(t, restricted, "the service does not record")
		systemctl(t, "stop", unitName)
		require.Equal(t, "success", show(t, unitName, "Result"))
		require.Equal(t, "0", show(t, unitName, "ExecMainStatus"))
		recorder := exec.Command(installed, "record")
		recorder.Stderr = os.Stderr
		require.NoError(t, recorder.Start())
		free := map[string]string{}
		defer func() {
			if t.Failed() {
				t.Logf("with restrictions: %v\nwithout: %v", restricted, free)
				recorder.Process.Kill()
				recorder.Wait()
				systemctl(t, "start", unitName)
			}
		}()
		// The service leaves its socket behind. A query that is ready before the
		// recorder records for its own duration.
		require.Eventually(t, func() bool {
			_, err := os.Stat("/var/lib/kmodquery/recorder.sock")
			if err == nil {
				free = sensors(t)
			}
			return len(free) == len(restricted) && !strings.Contains(fmt.Sprint(free), "standby")
		}, 2*time.Minute, time.Second)
		require.NoError(t, recorder.Process.Signal(unix.SIGTERM))
		require.NoError(t, recorder.Wait())
		require.Equal(t, free, restricted)
		systemctl(t, "start", unitName)
	})
	t.Run("watchdog", func(t *testing.T) {
		require.Equal(t, "0", show(t, unitName, "NRestarts"))
		before := show(t, unitName, "MainPID")
		pid, err := strconv.Atoi(before)
		require.NoError(t, err)
		require.NoError(t, unix.Kill(pid, unix.SIGSTOP))
		require.Eventually(t, func() bool {
			return show(t, unitName, "NRestarts") == "1" && show(t, unitName, "ActiveState") == "active"
		}, 2*time.Minute, time.Second)
		require.NotEqual(t, before, show(t, unitName, "MainPID"))
		require.Eventually(t, func() bool { return strings.Contains(show(t, unitName, "StatusText"), "ebpf is active") },
			time.Minute, time.Second, "ebpf is not active again")
	})
	t.Run("removed state folder", testRemovedStateFolder)
}

// testRemovedStateFolder removes the state folder. The service cannot create it again, so
// it ends, and systemd creates the folder when it restarts the service.
func testRemovedStateFolder(t *testing.T) {
	restarts, err := strconv.Atoi(show(t, unitName, "NRestarts"))
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll("/var/lib/kmodquery"))
	require.Eventually(t, func() bool {
		return show(t, unitName, "NRestarts") == strconv.Itoa(restarts+1) && show(t, unitName, "ActiveState") == "active"
	}, 2*time.Minute, time.Second)
	out, err := exec.Command("journalctl", "--no-pager", "-o", "cat", "-u", unitName).Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "\nkmodquery: the state folder was removed, and this process may not create it again: "+
		"mkdir /var/lib/kmodquery: read-only file system; start it again")
	testRestrictions(t, show(t, unitName, "MainPID"))
	require.NoError(t, guest.LoadImage(image(t, "brd"), ""))
	defer guest.Unload("brd")
	require.Equal(t, []map[string]string{{"loads": "1"}},
		queryService(t, "SELECT count(*) AS loads FROM kernel_module_events WHERE source = 'ebpf' AND event_name = 'module_load' AND name = 'brd'"))
}

// testRestrictions checks in the process of the unit that systemd could apply the
// unit's restrictions.
func testRestrictions(t *testing.T, pid string) {
	status := read(t, "/proc/"+pid+"/status")
	require.Contains(t, status, "\nNoNewPrivs:\t1\n")
	require.Contains(t, status, "\nSeccomp:\t2\n")
	var mask uint64
	for _, capability := range unitCapabilities {
		mask |= 1 << capability
	}
	require.Contains(t, status, fmt.Sprintf("\nCapEff:\t%016x\n", mask))
	require.Contains(t, status, fmt.Sprintf("\nCapBnd:\t%016x\n", mask))
	// access(2) reports whether the mount that the process sees is read-only.
	for place, want := range map[string]error{
		"/": unix.EROFS, "/etc": unix.EROFS, "/usr": unix.EROFS, "/proc/sys/kernel/hostname": unix.EROFS, "/sys/fs/cgroup": unix.EROFS,
		"/home": unix.EROFS, "/sys/fs/bpf": nil, "/var/lib/kmodquery": nil,
	} {
		require.Equal(t, want, unix.Access("/proc/"+pid+"/root"+place, unix.W_OK), place)
	}
	info, err := os.Stat("/var/lib/kmodquery")
	require.NoError(t, err)
	require.Equal(t, os.ModeDir|0o700, info.Mode())
	require.Equal(t, "max", strings.TrimSpace(read(t, "/sys/fs/cgroup/system.slice/kmodquery.service/memory.high")))
	require.Equal(t, "536870912", strings.TrimSpace(read(t, "/sys/fs/cgroup/system.slice/kmodquery.service/memory.max")))
}

// testServiceFiles loads from folders that only their user can read, first with the
// image from the kernel and then from the file.
func testServiceFiles(t *testing.T) {
	for _, place := range []string{"/tmp", "/home"} {
		for _, from := range []string{"kernel", "file"} {
			t.Run(from+place, func(t *testing.T) {
				limit := ""
				if from == "file" {
					limit = "image-limit 0\n"
				}
				require.NoError(t, os.WriteFile("/etc/kmodquery/kmodquery.conf", []byte(serviceFiles["/etc/kmodquery/kmodquery.conf"]+limit), 0o644))
				systemctl(t, "restart", unitName)
				dir := filepath.Join(place, "user", from)
				require.NoError(t, os.MkdirAll(dir, 0o700))
				path := filepath.Join(dir, "nbd.ko")
				content := image(t, "nbd")
				require.NoError(t, os.WriteFile(path, content, 0o600))
				require.NoError(t, os.Chown(path, ordinaryUser, ordinaryUser))
				require.NoError(t, os.Chown(dir, ordinaryUser, ordinaryUser))
				out, err := exec.Command("insmod", path).CombinedOutput()
				require.NoError(t, err, "%s", out)
				defer guest.Unload("nbd")
				require.Equal(t, []map[string]string{{"sha256": fmt.Sprintf("%x", sha256.Sum256(content)), "hash_source": from, "missing": ""}},
					queryService(t, "SELECT sha256, hash_source, ifnull(missing, '') AS missing FROM kernel_module_events "+
						"WHERE event_name = 'module_load' AND source = 'ebpf' AND path = '"+path+"'"))
			})
		}
	}
}
