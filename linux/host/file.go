//go:build linux

package host

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

var (
	errNotRegular = errors.New("it is not a regular file")
	errRemote     = errors.New("a program or another host serves its file system, which may never answer")
	// ErrOtherFile is the error of a file that is not the one that the kernel read, or
	// that was changed since.
	ErrOtherFile = errors.New("it is not the file that the kernel read, or was changed since")
)

// OpenRegular opens a regular file for reading. It opens nothing else: opening a pipe or a
// device may block, or have an effect.
func OpenRegular(path string) (*os.File, error) {
	found, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	return reopen(found)
}

// OpenFile opens a regular file at a path without links below the root of a process, whose
// folder in /proc is given. If id is not nil, it opens only the file that id describes. It
// touches no file system that a program or another host serves.
func OpenFile(proc, path string, id *kmodquery.FileID) (*os.File, error) {
	mounts, err := readMounts(proc)
	if err != nil {
		return nil, err
	}
	if isRemotePath(mounts, path) {
		return nil, errRemote
	}
	found, err := find(proc, path)
	if err != nil {
		return nil, fmt.Errorf("find a file: %w", err)
	}
	defer found.Close()
	if id != nil {
		if err := CheckFile(found, id); err != nil {
			return nil, err
		}
		if err := checkDevice(found, mounts, uint64(id.Device)); err != nil {
			return nil, err
		}
	}
	return reopen(found)
}

// CheckFile returns [ErrOtherFile] unless an open file is a regular one with the inode, size and
// time of change of id.
func CheckFile(file *os.File, id *kmodquery.FileID) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return fmt.Errorf("stat a file: %w", err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Ino != uint64(id.Inode) || stat.Size != id.Size || stat.Ctim.Sec != id.Ctime ||
		id.CtimeNanos != nil && stat.Ctim.Nsec != *id.CtimeNanos {
		return ErrOtherFile
	}
	return nil
}

// find opens a path as O_PATH does. Where there is no openat2 (before Linux 5.6), or where
// the service manager's filter does not know it, links to folders are followed.
func find(proc, path string) (*os.File, error) {
	root, err := unix.Open(proc+"/root", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	path = strings.TrimLeft(path, "/")
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(root, path, &how)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		fd, err = unix.Openat(root, path, int(how.Flags), 0)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// reopen opens for reading what was opened with O_PATH, if it is a regular file.
func reopen(found *os.File) (*os.File, error) {
	info, err := found.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	// Without O_NONBLOCK the open would wait for the holder of a lease (fcntl(2)).
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", found.Fd()), unix.O_RDONLY|unix.O_NONBLOCK, 0)
}
