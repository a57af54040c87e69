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

// maxConfigFile is far beyond what can be set, and less than the longest line
// that [ff.PlainParser] reads: it does not say when it gives up.
const maxConfigFile = bufio.MaxScanTokenSize - 1

// readConfigFile returns what stands in the configuration file, links followed,
// if nobody but root and the running user can have written it. It is nothing
// where the default one does not exist.
func readConfigFile(path string) ([]byte, error) {
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

// openConfigFile opens the file that path leads to, and judges what it opened.
func openConfigFile(path string) (*os.File, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if resolved, err = filepath.Abs(resolved); err != nil {
		return nil, err
	}
	// A named pipe would keep open(2) waiting.
	file, err := os.OpenFile(resolved, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := judgeConfigFile(file); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// judgeConfigFile says why an open file is not to be trusted: it, or a folder on
// the way to it, can be changed or replaced by somebody else. It must have been
// opened by a path without links. The folders come last: once they are found to
// be safe nobody can have exchanged what was opened before.
func judgeConfigFile(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file; choose another one with --config", file.Name())
	}
	if err := judgeOwner(file.Name(), info); err != nil {
		return err
	}
	if err := judgeMode(file.Name(), info); err != nil {
		return err
	}
	for dir, nearest := filepath.Dir(file.Name()), true; ; dir, nearest = filepath.Dir(dir), false {
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if err := judgeOwner(dir, info); err != nil {
			return err
		}
		// In a sticky folder, such as /tmp, nobody can replace the folders of
		// others.
		if nearest || info.Mode()&fs.ModeSticky == 0 {
			if err := judgeMode(dir, info); err != nil {
				return err
			}
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func judgeOwner(path string, info fs.FileInfo) error {
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if owner != 0 && owner != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, who could change the settings; run chown root %[1]s", path, owner)
	}
	return nil
}

func judgeMode(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%s can be written by others (mode %#o), who could change the settings; run chmod go-w %[1]s", path, mode)
	}
	return nil
}
