//go:build linux

package vm

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

func TestGuestKernel(t *testing.T) {
	guest.Only(t)
	var uts unix.Utsname
	require.NoError(t, unix.Uname(&uts))
	release := unix.ByteSliceToString(uts.Release[:])
	name, _, _ := strings.Cut(guest.Kernel(), "-")
	version := strings.TrimSuffix(name, ".x") + "."
	require.True(t, strings.HasPrefix(release, version), "kernel %s calls itself %s", guest.Kernel(), release)
	t.Logf("release %s", release)
	require.FileExists(t, "/sys/kernel/btf/vmlinux")
}

func TestGuestTestsAreNotInit(t *testing.T) {
	guest.Only(t)
	require.NotEqual(t, 1, os.Getpid())
	require.Equal(t, 1, os.Getppid())
	out, err := exec.Command("sh", "-c", "exit 3").CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", out)
	require.Equal(t, 3, exit.ExitCode())
}

func TestGuestFilesystems(t *testing.T) {
	guest.Only(t)
	for path, magic := range map[string]int64{
		"/proc":               unix.PROC_SUPER_MAGIC,
		"/sys":                unix.SYSFS_MAGIC,
		"/sys/fs/bpf":         unix.BPF_FS_MAGIC,
		"/sys/fs/cgroup":      unix.CGROUP2_SUPER_MAGIC,
		"/sys/kernel/tracing": unix.TRACEFS_MAGIC,
		"/sys/kernel/debug":   unix.DEBUGFS_MAGIC,
		"/tmp":                unix.TMPFS_MAGIC,
		"/run":                unix.TMPFS_MAGIC,
	} {
		t.Run(path, func(t *testing.T) {
			var fs unix.Statfs_t
			require.NoError(t, unix.Statfs(path, &fs))
			require.Equal(t, magic, fs.Type)
		})
	}
}

func TestGuestLoadsByFinitModule(t *testing.T) {
	guest.Only(t)
	path, err := guest.ModulePath("dummy")
	require.NoError(t, err)
	require.NoError(t, guest.LoadFile(path, "numdummies=2"))
	require.DirExists(t, "/sys/module/dummy")
	_, err = net.InterfaceByName("dummy1")
	require.NoError(t, err, "the parameter numdummies did not arrive")
	require.ErrorIs(t, guest.LoadFile(path, ""), unix.EEXIST)
	require.NoError(t, guest.Unload("dummy"))
	require.NoDirExists(t, "/sys/module/dummy")
	require.ErrorIs(t, guest.Unload("dummy"), unix.ENOENT)
}

func TestGuestLoadsByInitModule(t *testing.T) {
	guest.Only(t)
	image, err := guest.ModuleImage("dummy")
	require.NoError(t, err)
	require.NoError(t, guest.LoadImage(image, ""))
	require.DirExists(t, "/sys/module/dummy")
	require.NoError(t, guest.Unload("dummy"))
	require.ErrorIs(t, guest.LoadImage(image[:100], ""), unix.ENOEXEC)
}

func TestGuestHasKmod(t *testing.T) {
	guest.Only(t)
	path, err := guest.ModulePath("dummy")
	require.NoError(t, err)
	for _, command := range [][]string{
		{"insmod", path}, {"rmmod", "dummy"},
		{"modprobe", "overlay"}, {"modprobe", "-r", "overlay"},
		// A module with dependencies.
		{"modprobe", "ext4"},
	} {
		out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		require.NoError(t, err, "%v: %s", command, out)
	}
	// A shell also runs kmod's program under this name.
	out, err := exec.Command("sh", "-c", "insmod --version").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(out), "kmod version")
}

func TestGuestHasAnExt4Disk(t *testing.T) {
	guest.Only(t)
	dir := t.TempDir()
	unmount, err := guest.MountImage(guestDisk, "ext4", dir)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600))
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &fs))
	require.EqualValues(t, unix.EXT4_SUPER_MAGIC, fs.Type)
	require.NoError(t, unmount())

	// Each mount gets a new copy.
	unmount, err = guest.MountImage(guestDisk, "ext4", dir)
	require.NoError(t, err)
	require.NoFileExists(t, filepath.Join(dir, "file"))
	require.NoError(t, unmount())
}

// TestGuestAutoloads makes the kernel itself run modprobe.
func TestGuestAutoloads(t *testing.T) {
	guest.Only(t)
	require.NoDirExists(t, "/sys/module/af_alg")
	socket, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Close(socket))
	require.NoError(t, guest.Unload("af_alg"))
}
