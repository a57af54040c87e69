package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxConfigFile bounds a configuration file, in bytes. It is less than the longest line
// that [ff.PlainParser] reads: that parser silently ignores the rest of the file after a
// longer line.
const maxConfigFile = bufio.MaxScanTokenSize - 1

// readConfigFile returns the content of the configuration file. It follows links, and
// refuses a file that users other than root and the running one can write. It returns
// nil if the default file does not exist, and if path is empty.
func readConfigFile(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	file, err := openConfigFile(path)
	if errors.Is(err, fs.ErrNotExist) && path == defaultConfigFile {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxConfigFile+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxConfigFile {
		return nil, fmt.Errorf("%s has more than %d bytes; choose another one with --config", file.Name(), maxConfigFile)
	}
	return content, nil
}

// openConfigFile opens the file that path leads to, and checks the open file.
func openConfigFile(path string) (*os.File, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if resolved, err = filepath.Abs(resolved); err != nil {
		return nil, err
	}
	// O_NONBLOCK: open(2) of a named pipe would block.
	file, err := os.OpenFile(resolved, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := checkConfigFile(file); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// checkConfigFile returns an error if another user can change or replace an open file,
// or a folder in its path. The file must have been opened by a path without links. The
// folders are checked last: if they are safe, the file cannot have been replaced
// between open and check.
func checkConfigFile(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file; choose another one with --config", file.Name())
	}
	if err := checkWriters(file.Name(), info, false); err != nil {
		return err
	}
	for dir, nearest := filepath.Dir(file.Name()), true; ; dir, nearest = filepath.Dir(dir), false {
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
		return fmt.Errorf("%s belongs to user %d, who could change the settings; run chown root %[1]s", path, owner)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 && !isSticky {
		return fmt.Errorf("%s can be written by others (mode %#o), who could change the settings; run chmod go-w %[1]s", path, mode)
	}
	return nil
}
