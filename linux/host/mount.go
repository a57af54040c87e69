//go:build linux

package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxMountinfo bounds the list of mounts that is read, in bytes.
const maxMountinfo = 16 << 20

// A mount is a mounted file system.
type mount struct {
	id     string
	point  string // below the root of the process whose list it is in
	device string // of the superblock, as MAJOR:MINOR
	fstype string
}

// readMounts reads the mounts of a process. proc is its folder in /proc. Only files of proc
// are read.
func readMounts(proc string) ([]mount, error) {
	file, err := os.Open(proc + "/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("open the list of mounts: %w", err)
	}
	defer file.Close()
	return parseMounts(&io.LimitedReader{R: file, N: maxMountinfo})
}

// parseMounts parses /proc/PID/mountinfo (proc_pid_mountinfo(5)). It fails if the list
// is cut.
func parseMounts(r *io.LimitedReader) ([]mount, error) {
	var mounts []mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		left, right, _ := strings.Cut(lines.Text(), " - ")
		fields := strings.Split(left, " ") // other blanks are part of a name
		fstype, _, _ := strings.Cut(right, " ")
		if len(fields) < 5 || fstype == "" {
			return nil, errors.New("parse the list of mounts: a line lacks fields")
		}
		mounts = append(mounts, mount{fields[0], mountEscapes.Replace(fields[4]), fields[2], fstype})
	}
	if lines.Err() == nil && r.N <= 0 {
		return nil, errors.New("parse the list of mounts: it is too long")
	}
	return mounts, lines.Err()
}

// mountEscapes replaces the octal numbers that the kernel writes for separators.
var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

// isRemotePath reports whether the way to an absolute path leads through a mount that a
// program or another host serves.
func isRemotePath(mounts []mount, path string) bool {
	return slices.ContainsFunc(mounts, func(m mount) bool {
		covers := m.point == "/" || path == m.point || strings.HasPrefix(path, m.point+"/")
		return covers && IsRemote(m.fstype)
	})
}

// IsRemote reports whether a program or another host serves the file systems of a type. Such
// a file system may return other bytes than the kernel read, or never answer.
func IsRemote(fstype string) bool {
	remote := []string{"fuse", "virtiofs", "nfs", "cifs", "smb", "9p", "ceph", "afs", "autofs", "coda", "lustre", "gpfs",
		"gfs2", "ocfs2", "beegfs", "pvfs2", "panfs", "wekafs", "vboxsf", "vmhgfs", "prl_fs", "hostfs"}
	return slices.ContainsFunc(remote, func(prefix string) bool { return strings.HasPrefix(fstype, prefix) })
}

// checkDevice returns [ErrOtherFile] unless an open file's superblock has a device. On btrfs
// and overlayfs stat(2) returns another device, and only the mount has the superblock's.
// The mount may not be in the list of a process with another root.
func checkDevice(file *os.File, mounts []mount, device uint64) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return fmt.Errorf("stat a file: %w", err)
	}
	if stat.Dev == device {
		return nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", file.Fd()))
	if err != nil {
		return fmt.Errorf("read the mount of a file: %w", err)
	}
	if !isOn(mounts, string(text), device) {
		return ErrOtherFile
	}
	return nil
}

// isOn reports whether the mount that /proc/PID/fdinfo/FD names is of a device.
func isOn(mounts []mount, fdinfo string, device uint64) bool {
	name := fmt.Sprintf("%d:%d", unix.Major(device), unix.Minor(device))
	for line := range strings.Lines(fdinfo) {
		if id, isMount := strings.CutPrefix(line, "mnt_id:"); isMount {
			return slices.ContainsFunc(mounts, func(m mount) bool { return m.id == strings.TrimSpace(id) && m.device == name })
		}
	}
	return false
}
