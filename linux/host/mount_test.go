//go:build linux

package host

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// recordedMounts are lines of real hosts: two subvolumes of one btrfs, an overlay, and mounts
// of others.
const recordedMounts = `22 1 0:33 /root / rw,relatime shared:1 - btrfs /dev/vda3 rw,compress=zstd:1,subvolid=256,subvol=/root
45 22 0:33 /home /home rw,relatime shared:30 - btrfs /dev/vda3 rw,subvolid=257,subvol=/home
48 45 0:43 / /home/merged rw,relatime - overlay none rw,lowerdir=/l,upperdir=/u,workdir=/w
60 22 0:50 / /mnt/my\040files\134x rw,nosuid,nodev,relatime shared:40 master:2 - fuse.sshfs host:/ rw,user_id=0,group_id=0
61 22 0:51 / /data rw,relatime - nfs4 server:/data rw,vers=4.2
62 22 0:52 / /net rw,relatime - autofs /etc/auto.net rw,fd=7,pgrp=1
64 22 0:54 / /mnt/no break rw - fuse none rw
63 22 259:1048575 / /big rw,relatime - ext4 /dev/nvme0n1p1 rw
`

func parse(text string) ([]mount, error) {
	return parseMounts(&io.LimitedReader{R: strings.NewReader(text), N: maxMountinfo})
}

func TestMounts(t *testing.T) {
	mounts, err := parse(recordedMounts)
	require.NoError(t, err)
	require.Len(t, mounts, 8)
	require.Equal(t, mount{"60", `/mnt/my files\x`, "0:50", "fuse.sshfs"}, mounts[3])
	require.Equal(t, mount{"63", "/big", "259:1048575", "ext4"}, mounts[7])
	for path, want := range map[string]bool{
		"/lib/a.ko": false, "/home/a.ko": false, "/home/merged/a.ko": false, "/datax/a.ko": false, "/mnt/a.ko": false,
		`/mnt/my files\x/a.ko`: true, "/data/a/b.ko": true, "/data": true, "/net/host/a.ko": true, "/mnt/no break/a.ko": true, "/mnt/no/a.ko": false,
	} {
		require.Equal(t, want, isRemotePath(mounts, path), path)
	}
	for fdinfo, want := range map[string]bool{
		"pos:\t0\nflags:\t012100000\nmnt_id:\t22\nino:\t257\n": true,
		"mnt_id:\t45\n": true,  // another subvolume of the same file system
		"mnt_id:\t48\n": false, // an overlay
		"mnt_id:\t2\n":  false,
		"pos:\t0\n":     false,
	} {
		require.Equal(t, want, isOn(mounts, fdinfo, unix.Mkdev(0, 33)), fdinfo)
	}
	for _, text := range []string{"22 1 0:33 / /\n", "\n"} {
		_, err := parse(text)
		require.Error(t, err, text)
	}
	_, err = parseMounts(&io.LimitedReader{R: strings.NewReader(recordedMounts), N: 300})
	require.Error(t, err, "the list is cut")
}

func TestRemoteFileSystems(t *testing.T) {
	for fstype, want := range map[string]bool{
		"ext4": false, "btrfs": false, "overlay": false, "tmpfs": false, "zfs": false, "fuse.sshfs": true, "fuseblk": true,
		"nfs4": true, "cifs": true, "smb3": true, "9p": true, "virtiofs": true,
		"vboxsf": true, "vmhgfs": true, "prl_fs": true, "hostfs": true, // served by the virtual machine's host
	} {
		require.Equal(t, want, IsRemote(fstype), fstype)
	}
}

// mountAt mounts a file system for the time of a test. It skips the test if this host
// cannot mount it.
func mountAt(t *testing.T, fstype, source, point, data string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(point, 0o755))
	if err := unix.Mount(source, point, fstype, 0, data); err != nil {
		t.Skipf("mounting %s takes root and a kernel that has it: %v", fstype, err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(point, unix.MNT_DETACH)) })
}

// requireOnlyOn checks that a file is opened as the one that the kernel reports, though
// stat(2) returns another device than that of the superblock, and not as one of another
// device.
func requireOnlyOn(t *testing.T, path, mountPoint string) {
	t.Helper()
	mounts, err := readMounts("/proc/self")
	require.NoError(t, err)
	var stat unix.Stat_t
	require.NoError(t, unix.Stat(path, &stat))
	for _, m := range mounts {
		if m.point != mountPoint {
			continue
		}
		var major, minor uint32
		_, err := fmt.Sscanf(m.device, "%d:%d", &major, &minor)
		require.NoError(t, err)
		device := unix.Mkdev(major, minor)
		require.NotEqual(t, device, stat.Dev, "the test needs a file whose st_dev is not the superblock's")
		id := kmodquery.FileID{Device: int64(device), Inode: int64(stat.Ino), Size: stat.Size, Ctime: stat.Ctim.Sec, CtimeNanos: &stat.Ctim.Nsec}
		file, err := OpenFile("/proc/self", path, &id)
		require.NoError(t, err)
		require.NoError(t, CheckFile(file, &id))
		require.NoError(t, file.Close())
		id.Device = int64(unix.Mkdev(4095, 1))
		_, err = OpenFile("/proc/self", path, &id)
		require.ErrorIs(t, err, ErrOtherFile)
		return
	}
	require.Fail(t, "the mount is not listed")
}

func TestFileOnOverlayfs(t *testing.T) {
	dir := t.TempDir()
	lower, upper, merged := filepath.Join(dir, "lower"), filepath.Join(dir, "upper"), filepath.Join(dir, "merged")
	mountAt(t, "tmpfs", "none", lower, "")
	mountAt(t, "tmpfs", "none", upper, "")
	for _, folder := range []string{upper + "/u", upper + "/w"} {
		require.NoError(t, os.Mkdir(folder, 0o755))
	}
	require.NoError(t, os.WriteFile(lower+"/a.ko", []byte("a"), 0o644))
	require.NoError(t, os.WriteFile(upper+"/u/b.ko", []byte("b"), 0o644))
	mountAt(t, "overlay", "none", merged, fmt.Sprintf("xino=off,lowerdir=%s,upperdir=%s/u,workdir=%[2]s/w", lower, upper))
	requireOnlyOn(t, merged+"/a.ko", merged)
	requireOnlyOn(t, merged+"/b.ko", merged)
}

func TestFileOnBtrfs(t *testing.T) {
	for _, program := range []string{"mkfs.btrfs", "btrfs", "mount", "umount"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s on this host (Debian's package btrfs-progs)", program)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	dir := t.TempDir()
	image, point := filepath.Join(dir, "image"), filepath.Join(dir, "point")
	require.NoError(t, os.Mkdir(point, 0o755))
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 128<<20))
	out, err := exec.Command("mkfs.btrfs", "-q", image).CombinedOutput()
	require.NoError(t, err, string(out))
	if out, err := exec.Command("mount", "-o", "loop", image, point).CombinedOutput(); err != nil {
		t.Skipf("this host cannot mount btrfs: %s", out)
	}
	t.Cleanup(func() {
		out, err := exec.Command("umount", point).CombinedOutput()
		require.NoError(t, err, string(out))
	})
	out, err = exec.Command("btrfs", "subvolume", "create", point+"/sub").CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, os.WriteFile(point+"/a.ko", []byte("a"), 0o644))
	require.NoError(t, os.WriteFile(point+"/sub/b.ko", []byte("b"), 0o644))
	requireOnlyOn(t, point+"/a.ko", point)
	requireOnlyOn(t, point+"/sub/b.ko", point)
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	pipe, file, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "file"), filepath.Join(dir, "link")
	require.NoError(t, unix.Mkfifo(pipe, 0o600))
	require.NoError(t, os.WriteFile(file, []byte("text"), 0o600))
	require.NoError(t, os.Symlink(file, link))
	for _, path := range []string{pipe, dir, "/dev/null"} {
		_, err := OpenRegular(path)
		require.ErrorIs(t, err, errNotRegular, path)
		_, err = OpenFile("/proc/self", path, nil)
		require.ErrorIs(t, err, errNotRegular, path)
	}
	_, err := OpenRegular(filepath.Join(dir, "nosuch"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = OpenFile("/proc/self", link, nil)
	require.Error(t, err, "a link")
	for _, open := range []func() (*os.File, error){
		func() (*os.File, error) { return OpenRegular(link) },
		func() (*os.File, error) { return OpenFile("/proc/self", file, nil) },
	} {
		opened, err := open()
		require.NoError(t, err)
		text, err := io.ReadAll(opened)
		require.NoError(t, err)
		require.NoError(t, opened.Close())
		require.Equal(t, "text", string(text))
	}
}
