//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

const (
	unitName = "kmodquery.service"
	// unitExposure is the worst that systemd-analyze may think of the unit, of
	// 100: what it holds against it is what a recorder is for.
	unitExposure = "40"
	// installed is where the unit has the extension.
	installed = "/usr/lib/osquery/kmodquery.ext"
)

// unit returns the unit's file with the extension at another place.
func unit(t *testing.T, extension string) string {
	t.Helper()
	content := read(t, "../../packaging/systemd/"+unitName)
	require.Contains(t, content, "\nExecStart="+installed+" record\n")
	path := filepath.Join(t.TempDir(), unitName)
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(content, installed, extension)), 0o644))
	return path
}

// TestUnitIsSound has systemd judge the unit.
func TestUnitIsSound(t *testing.T) {
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
	require.NotContains(t, string(out), unitName, "it warns of the unit")

	out, err = exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+unitExposure, path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Log(regexp.MustCompile(`Overall exposure.*`).FindString(string(out)))
}

// serviceEnv is set in the VM that TestService boots.
const serviceEnv = "KMODQUERY_SERVICE"

// servicePackages are systemd with what it needs.
var servicePackages = []string{
	"systemd", "libsystemd-shared", "libsystemd0", "libcap2", "libacl1", "libblkid1", "libmount1", "libseccomp2",
	"libselinux1", "libpcre2-8-0", "libcrypt1", "libaudit1", "libcap-ng0", "libpam0g", "libapparmor1", "libuuid1", "mount",
}

var servicePrograms = []string{
	systemd, "/usr/lib/systemd/systemd-executor", "/usr/lib/systemd/systemd-journald", "/usr/lib/systemd/systemd-modules-load",
	"/usr/bin/systemctl", "/usr/bin/journalctl", "/usr/bin/mount", "/usr/bin/umount",
	// It opens these when it needs them.
	"/usr/lib/x86_64-linux-gnu/libkmod.so.2", "/usr/lib/x86_64-linux-gnu/libseccomp.so.2", "/usr/lib/x86_64-linux-gnu/libmount.so.1",
	"/usr/lib/x86_64-linux-gnu/libaudit.so.1", "/usr/lib/x86_64-linux-gnu/libpam.so.0", "/usr/lib/x86_64-linux-gnu/libacl.so.1",
	"/usr/lib/x86_64-linux-gnu/libblkid.so.1", "/usr/lib/x86_64-linux-gnu/libselinux.so.1",
}

const systemd = "/usr/lib/systemd/systemd"

// serviceUnits are systemd's own that the VM has.
var serviceUnits = []string{
	"basic.target", "sysinit.target", "local-fs.target", "local-fs-pre.target", "swap.target", "sockets.target", "timers.target",
	"paths.target", "slices.target", "shutdown.target", "umount.target", "final.target", "poweroff.target",
	"systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-modules-load.service",
	"sys-kernel-tracing.mount", "sys-kernel-debug.mount",
}

// TestService boots real systemds with the unit: it records before
// systemd-modules-load loads anything.
func TestService(t *testing.T) {
	for _, kernel := range vm.Matrix() {
		if name := kernel.String(); name != "5.10" && name != vm.Newest().String() {
			continue
		}
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
			vm.Test(t, kernel, "^TestGuestService$", vm.Options{
				Files:   files,
				Modules: []string{"nbd", "brd"},
				Env:     []string{serviceEnv + "=1"},
				Cmdline: []string{"systemd.unit=guest.target", "systemd.log_target=console", "systemd.show_status=1"},
				Timeout: 10 * time.Minute,
			})
		})
	}
}

// serviceFiles make the guest's tests a service of its systemd.
var serviceFiles = map[string]string{
	"/etc/machine-id":               "0123456789abcdef0123456789abcdef\n",
	"/etc/modules-load.d/vm.conf":   "dummy\n",
	"/etc/kmodquery/kmodquery.conf": "sources ebpf,audit,journal,kmsg\n",
	// What systemctl enable would do.
	"/etc/systemd/system/sysinit.target.d/vm.conf": "[Unit]\nWants=" + unitName + " systemd-modules-load.service systemd-journald.service " +
		"sys-kernel-tracing.mount sys-kernel-debug.mount\n",
	"/etc/systemd/system/" + unitName + ".d/vm.conf": "[Service]\nWatchdogSec=4\n",
	"/etc/systemd/system/guest.target":               "[Unit]\nRequires=basic.target guest.service\nAfter=basic.target\nAllowIsolate=yes\n",
	"/etc/systemd/system/guest.service": "[Unit]\nAfter=basic.target\n[Service]\nExecStart=/init\nEnvironment=" + guest.ServiceEnv + "=1\n" +
		"StandardOutput=tty\nStandardError=tty\nTTYPath=/dev/console\n",
}

// becomeSystemd makes the VM's init systemd, where it is there.
func becomeSystemd() error {
	if _, err := os.Stat(guest.ConfigPath); err != nil || os.Getpid() != 1 {
		return nil
	}
	if _, err := os.Stat("/etc/systemd/system/guest.target"); err != nil {
		return nil
	}
	// Nothing can be moved away from the initramfs, which systemd does for each
	// service; so the same lies over it.
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
			return fmt.Errorf("lay another root over the initramfs: %w", err)
		}
	}
	return syscall.Exec(systemd, []string{systemd}, []string{"PATH=/usr/sbin:/usr/bin", "container="})
}

func TestGuestService(t *testing.T) {
	guest.Only(t)
	if os.Getenv(serviceEnv) == "" {
		t.Skip("runs in the VMs that TestService boots, with a real systemd")
	}
	out, err := exec.Command("systemctl", "--no-pager", "status", unitName).CombinedOutput()
	t.Logf("%s (%v)", out, err)
	out, _ = exec.Command("journalctl", "--no-pager", "-u", unitName, "-u", "systemd-modules-load").CombinedOutput()
	t.Logf("%s", out)
	out, _ = exec.Command(installed, "query", "SELECT source, state, reason, hooks FROM kernel_module_sensors").CombinedOutput()
	t.Logf("%s", out)
	out, _ = exec.Command(installed, "query", "SELECT event_name, source, name, process_path, reason FROM kernel_module_events").CombinedOutput()
	t.Logf("%s", out)
	t.Fatal("look")
}
