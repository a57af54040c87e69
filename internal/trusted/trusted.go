// Package trusted opens configuration that only root and the running user can change.
package trusted

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Open opens the regular file that path leads to. It returns an error if a user other than root
// and the running one can change the file, or replace it or a folder of its path.
func Open(path string) (*os.File, error) {
	resolved, err := resolve(path)
	if err != nil {
		return nil, err
	}
	// O_NONBLOCK: open(2) of a named pipe would block.
	file, err := os.OpenFile(resolved, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := check(file); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// check returns an error if another user can change or replace an open file,
// or a folder in its path. The file must have been opened by a path without links. The
// folders are checked last: if they are safe, the file cannot have been replaced
// between open and check.
func check(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file; choose another one", file.Name())
	}
	if err := checkWriters(file.Name(), info, false); err != nil {
		return err
	}
	return checkFolders(filepath.Dir(file.Name()))
}

// checkFolders checks a folder and those above it.
func checkFolders(folder string) error {
	for dir, nearest := folder, true; ; dir, nearest = filepath.Dir(dir), false {
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		// In a sticky folder, such as /tmp, users cannot replace the folders of
		// others.
		isSticky := !nearest && info.Mode()&fs.ModeSticky != 0
		if err := checkWriters(dir, info, isSticky); err != nil {
			return err
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// checkWriters returns an error if a file or folder belongs to a user other than root and
// the running one, or unless isSticky, if others can write it.
func checkWriters(path string, info fs.FileInfo, isSticky bool) error {
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if owner != 0 && owner != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, who could change it; run chown root %[1]s", path, owner)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 && !isSticky {
		return fmt.Errorf("%s can be written by others (mode %#o), who could change it; run chmod go-w %[1]s", path, mode)
	}
	return nil
}

// OpenFolder opens the folder that path leads to. It returns an error if a user other than
// root and the running one can add a file to it, or replace it or a folder of its path.
func OpenFolder(path string) (*os.File, error) {
	resolved, err := resolve(path)
	if err != nil {
		return nil, err
	}
	folder, err := os.OpenFile(resolved, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	if err := checkFolders(resolved); err != nil {
		folder.Close()
		return nil, err
	}
	return folder, nil
}

// resolve returns the absolute path without links.
func resolve(path string) (string, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	return filepath.Abs(resolved)
}
