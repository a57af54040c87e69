//go:build linux

package e2e

import (
	"context"
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

	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// debianEnv is set in the VMs that TestDebian boots, to one of the parts below.
const debianEnv = "KMODQUERY_DEBIAN"

const (
	debianInstalled = "installed" // the first boot, with the kernel of the installation
	debianUpgraded  = "upgraded"  // the second boot, with the same store and a newer kernel
	debianCycles    = "cycles"    // the newer kernel and a store of its own
)

// honestCycles is how often the cycles part loads and unloads a module, honestLooks how
// often the recorder compares the views meanwhile, at least.
const (
	honestCycles = 10_000
	honestLooks  = 300
)

// coldplugged are modules that udev loads for the devices of the VM.
var coldplugged = []string{"e1000", "virtio_net", "virtio_balloon", "virtio_scsi", "ahci", "snd_hda_intel", "xhci_hcd", "usbhid", "i6300esb"}

// replugged are some of them that can be unloaded.
var replugged = []string{"e1000", "snd_hda_intel", "i6300esb", "virtio_balloon"}

// listed are the modules in modules-load.d.
var listed = []string{"loop", "bridge", "br_netfilter", "tun", "dm_crypt", "overlay", "nbd"}

// byHand are modules for modprobe.
var byHand = []string{
	"vfat", "xfs", "squashfs", "isofs", "nfs", "cifs", "wireguard", "algif_hash", "twofish_generic", "raid1", "snd_aloop", "usb_storage", "sctp", "nf_conntrack", "veth",
}

// debianFiles make the guest's tests a service of Debian's systemd, and enable the unit.
var debianFiles = map[string]string{
	"/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
	"/etc/hostname":   "debian\n",
	"/etc/fstab":      "/dev/vdb /var/lib/kmodquery ext4 defaults,x-systemd.device-timeout=10min 0 2\n",
	// An emulator on a busy host takes its time.
	"/etc/systemd/system.conf.d/vm.conf": "[Manager]\nDefaultDeviceTimeoutSec=10min\nDefaultTimeoutStartSec=10min\n",
	"/etc/modules-load.d/usual.conf":     strings.Join(listed, "\n") + "\n",
	"/etc/modprobe.d/usual.conf":         "options loop max_loop=4\n",
	// The ratios of the limits that depend on it stay.
	"/etc/kmodquery/kmodquery.conf":               "poll 1s\n",
	"/etc/systemd/system/sysinit.target.d/k.conf": "[Unit]\nWants=" + unitName + "\n", // as systemctl enable does
	"/etc/systemd/system/guest.target":            "[Unit]\nRequires=multi-user.target guest.service\nAfter=multi-user.target\nAllowIsolate=yes\n",
	"/etc/systemd/system/guest.service": "[Unit]\nAfter=multi-user.target\n[Service]\nExecStart=/init\nEnvironment=" + guest.ServiceEnv + "=1\n" +
		"StandardOutput=tty\nStandardError=tty\nTTYPath=/dev/console\n",
}

// TestDebian boots a whole Debian with its usual devices and modules, a dkms module and
// the unit, upgrades its kernel, and loads and unloads modules many times. Nothing that
// an honest host does may look like an attack. Its parts run on their own with -run:
// TestDebian/upgrade takes some ten minutes, TestDebian/cycles half an hour.
func TestDebian(t *testing.T) {
	if !suite.Long() {
		t.Skip("boots three whole systems; set SUITE=long to run it")
	}
	t.Parallel()
	systems, err := vm.DebianKernels(t.Context(), t.Logf)
	if err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Run("upgrade", func(t *testing.T) {
		t.Parallel()
		state := debianState(t)
		for i, part := range []string{debianInstalled, debianUpgraded} {
			t.Run(systems[i].Name, func(t *testing.T) { bootDebian(t, systems[i], part, state, 40*time.Minute) })
		}
	})
	t.Run("cycles", func(t *testing.T) {
		t.Parallel()
		bootDebian(t, systems[1], debianCycles, debianState(t), 90*time.Minute)
	})
}

// debianState returns the image of an empty disk for the store.
func debianState(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.ext4")
	require.NoError(t, vm.MakeDisk(t.Context(), path))
	return path
}

func bootDebian(t *testing.T, system *vm.Debian, part, state string, timeout time.Duration) {
	t.Helper()
	files := map[string]string{
		installed:                             buildExtension(t, vm.AMD64),
		"/usr/lib/systemd/system/" + unitName: abs(t, "../../packaging/systemd/"+unitName),
	}
	for name, content := range debianFiles {
		path := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		files[name] = path
	}
	vm.Test(t, vm.Newest(), "^TestGuestHonestDebian$", vm.Options{
		Debian:  system,
		State:   state,
		Files:   files,
		Env:     []string{debianEnv + "=" + part},
		Cmdline: []string{"systemd.unit=guest.target"},
		Memory:  2048,
		Timeout: timeout,
	})
}

func TestGuestHonestDebian(t *testing.T) {
	guest.Only(t)
	part := os.Getenv(debianEnv)
	if part == "" {
		t.Skip("runs in the VMs that TestDebian boots")
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("journalctl", "--no-pager", "-b", "-u", unitName).CombinedOutput()
			t.Logf("%s", out)
		}
	})
	t.Logf("Linux %s", strings.TrimSpace(read(t, "/proc/sys/kernel/osrelease")))
	require.Eventually(t, func() bool {
		text := show(t, unitName, "StatusText")
		return strings.Contains(text, "ebpf is active") && strings.Contains(text, "procfs is active")
	}, 10*time.Minute, time.Second, "the unit does not record")
	t.Run("boot", func(t *testing.T) {
		requireLoaded(t, slices.Concat(coldplugged, listed)...)
		if part == debianCycles {
			return
		}
		// As if the devices were plugged in again: the boot loaded the drivers of most
		// before the recorder was ready.
		for _, name := range replugged {
			runProgram(t, "modprobe", "-r", name)
		}
		runProgram(t, "udevadm", "trigger", "--action=add")
		runProgram(t, "udevadm", "settle")
		requireLoaded(t, replugged...)
		for _, name := range replugged {
			rows := queryService(t, "SELECT final_outcome, process_path FROM kernel_module_loads WHERE name = '"+name+"' ORDER BY time_nanos DESC LIMIT 1")
			require.Len(t, rows, 1, name)
			require.Equal(t, "loaded /usr/bin/udevadm", rows[0]["final_outcome"]+" "+rows[0]["process_path"], name)
		}
	})
	switch part {
	case debianInstalled:
		t.Run("modprobe", testUsualModules)
		t.Run("dkms", testDKMS)
	case debianUpgraded:
		t.Run("the store of the former kernel", func(t *testing.T) {
			require.Len(t, queryService(t, "SELECT DISTINCT boot_id FROM kernel_module_events WHERE source = 'ebpf'"), 2)
		})
		t.Run("depmod", func(t *testing.T) { runProgram(t, "depmod", "-a") })
		t.Run("modprobe", testUsualModules)
		t.Run("dkms", testDKMS)
		t.Run("clock", testSuspendedClock)
	case debianCycles:
		t.Run("cycles", testHonestCycles)
	}
	t.Run("verdict", testNothingStandsOut)
	systemctl(t, "stop", unitName)
	require.Equal(t, "success", show(t, unitName, "Result"))
}

// runProgram runs a program of Debian that must succeed.
func runProgram(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := tryProgram(t, name, args...)
	require.NoError(t, err, "%s %v: %s", name, args, out)
}

// tryProgram runs a program of Debian that must end.
func tryProgram(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	require.NoError(t, ctx.Err(), "%s %v", name, args)
	return string(out), err
}

// requireLoaded waits until the kernel lists the modules or has them built in.
func requireLoaded(t *testing.T, names ...string) {
	t.Helper()
	builtin := read(t, "/lib/modules/"+strings.TrimSpace(read(t, "/proc/sys/kernel/osrelease"))+"/modules.builtin")
	var absent []string
	require.Eventually(t, func() bool {
		loaded, _ := os.ReadFile("/proc/modules")
		absent = slices.DeleteFunc(slices.Clone(names), func(name string) bool {
			return strings.Contains("\n"+string(loaded), "\n"+name+" ") || strings.Contains(builtin, "/"+name+".ko\n") ||
				strings.Contains(builtin, "/"+strings.ReplaceAll(name, "_", "-")+".ko\n")
		})
		return len(absent) == 0
	}, 5*time.Minute, time.Second)
	require.Empty(t, absent)
}

// testUsualModules loads modules as an administrator and as the kernel do: by modprobe,
// and on request of programs that do not name the module.
func testUsualModules(t *testing.T) {
	for _, name := range byHand {
		runProgram(t, "modprobe", name)
	}
	requireLoaded(t, byHand...)
	runProgram(t, "nft", "add table inet filter; add chain inet filter input { type filter hook input priority 0; }; add rule inet filter input ct state established accept")
	runProgram(t, "ip", "link", "add", "bond0", "type", "bond")
	runProgram(t, "ip", "link", "add", "link", "bond0", "name", "vlan7", "type", "macvlan")
	requireLoaded(t, "nf_tables", "nft_ct", "bonding", "macvlan")
	// Both fail without an intent to harm.
	for _, name := range []string{"kvm_intel", "no_such_module"} {
		_, err := tryProgram(t, "modprobe", name)
		require.Error(t, err, name)
	}
	runProgram(t, "ip", "link", "delete", "bond0")
	for _, name := range []string{"bonding", "snd_aloop", "usb_storage", "cifs"} {
		runProgram(t, "modprobe", "-r", name)
	}
}

// testDKMS loads the module that dkms built, signed and installed when its package or
// the kernel's was configured.
func testDKMS(t *testing.T) {
	runProgram(t, "modprobe", "acpi_call")
	rows := queryService(t, "SELECT path, signature_status, findings FROM kernel_module_loads WHERE name = 'acpi_call' "+
		"ORDER BY time_nanos DESC LIMIT 1")
	require.Len(t, rows, 1)
	require.Contains(t, rows[0]["path"], "/updates/dkms/acpi_call.ko")
	require.Equal(t, "untrusted", rows[0]["signature_status"])
	require.Contains(t, rows[0]["findings"], "KMQ-1001")
	runProgram(t, "modprobe", "-r", "acpi_call")
	runProgram(t, "modprobe", "acpi_call")
}

// testSuspendedClock sets the wall clock as the kernel does after a suspend, and as a
// time daemon does that corrects it. Modules come and go between.
func testSuspendedClock(t *testing.T) {
	for _, step := range []time.Duration{8 * time.Hour, -90 * time.Second, 3 * time.Hour, -2 * time.Second} {
		stepClock(t, step)
		runProgram(t, "modprobe", "dummy")
		time.Sleep(5 * time.Second) // some looks
		runProgram(t, "modprobe", "-r", "dummy")
	}
}

// testHonestCycles loads and unloads a module, most times without the time that it takes
// to start a program, and so long that the recorder has looked often enough.
func testHonestCycles(t *testing.T) {
	path, err := guest.ModulePath("dummy")
	require.NoError(t, err)
	modules := int64(strings.Count(read(t, "/proc/modules"), "\n")) + 1
	received := receivedByViews(t)
	looks := int64(0)
	started, cycles := time.Now(), 0
	for ; cycles < honestCycles || looks < honestLooks; cycles++ {
		switch {
		case cycles%500 == 0:
			looks = (receivedByViews(t) - received) / modules
			fallthrough
		case cycles%50 == 0:
			runProgram(t, "modprobe", "dummy")
			runProgram(t, "modprobe", "-r", "dummy")
		default:
			require.NoError(t, guest.LoadFile(path, ""))
			require.NoError(t, guest.Unload("dummy"))
		}
	}
	t.Logf("%d cycles in %.0f s, with at least %d looks", cycles, time.Since(started).Seconds(), looks)
	count := "SELECT count(*) AS n FROM kernel_module_events WHERE source = 'ebpf' AND name = 'dummy' AND event_name = "
	want := []map[string]string{{"n": strconv.Itoa(cycles)}}
	require.Equal(t, want, queryService(t, count+"'module_load'"))
	require.Equal(t, want, queryService(t, count+"'module_free'"))
	require.Equal(t, want, queryService(t, "SELECT count(*) AS n FROM kernel_module_loads WHERE name = 'dummy' AND outcome = 'loaded'"))
}

// receivedByViews returns how many listed modules the recorder has read. Each look reads
// all of them.
func receivedByViews(t *testing.T) int64 {
	t.Helper()
	rows := queryService(t, "SELECT received FROM kernel_module_sensors WHERE source = 'procfs'")
	require.Len(t, rows, 1)
	n, err := strconv.ParseInt(rows[0]["received"], 10, 64)
	require.NoError(t, err)
	return n
}

// testNothingStandsOut prints what the tables have, and requires that nothing looks like
// an attack.
func testNothingStandsOut(t *testing.T) {
	time.Sleep(30 * time.Second) // looks that would report what came before
	for _, sql := range []string{
		"SELECT outcome, final_outcome, count(*) AS n FROM kernel_module_loads GROUP BY 1, 2 ORDER BY 1, 2",
		"SELECT event_name, source, count(*) AS n FROM kernel_module_events GROUP BY 1, 2 ORDER BY 1, 2",
		"SELECT signature_id, severity, count(*) AS n FROM kernel_module_findings GROUP BY 1, 2 ORDER BY 1, 2",
		"SELECT name, outcome, sources, process_name, error, missing, uptime FROM kernel_module_loads WHERE sources != 'ebpf' OR outcome != 'loaded' ORDER BY time_nanos",
		"SELECT source, state, reason, received, lost, filtered, decode_errors FROM kernel_module_sensors",
	} {
		t.Log(sql)
		for _, row := range queryService(t, sql) {
			t.Log(fmt.Sprint(row))
		}
	}
	require.Empty(t, queryService(t, "SELECT event_name, source, name, reason, time, load_id FROM kernel_module_events WHERE event_name IN "+
		"('module_hidden', 'module_unwitnessed', 'taint_reset', 'sensor_tampered')"))
	require.Empty(t, queryService(t, "SELECT * FROM kernel_module_events WHERE event_name = 'module_free' AND source = 'procfs'"),
		"the recorder saw every unload itself")
	require.Empty(t, queryService(t, "SELECT f.signature_id, f.severity, f.reason, f.data FROM kernel_module_findings f WHERE severity >= 2 AND signature_id != 'TRC-1017'"))
	require.Empty(t, queryService(t, "SELECT source, lost, filtered, decode_errors FROM kernel_module_sensors WHERE source = 'ebpf' AND lost > 0 OR filtered > 0 OR decode_errors > 0"),
		"the kernel drops audit records of the boot, for which no daemon waits")
	require.Empty(t, queryService(t, "SELECT name FROM kernel_module_inventory WHERE hidden = 1"))
	require.Empty(t, queryService(t, "SELECT l.name, l.n, coalesce(f.n, 0) AS unloads FROM "+
		"(SELECT boot_id, name, count(*) AS n FROM kernel_module_loads WHERE final_outcome = 'loaded' GROUP BY 1, 2) l LEFT JOIN "+
		"(SELECT boot_id, name, count(*) AS n FROM kernel_module_events WHERE event_name = 'module_free' GROUP BY 1, 2) f "+
		"ON l.boot_id = f.boot_id AND l.name = f.name WHERE l.n > 1 + coalesce(f.n, 0)"), "more loads than a module can have had")
}
