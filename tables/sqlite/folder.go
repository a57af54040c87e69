package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	databaseName = "events.db"
	lockName     = "lock"
	folderMode   = 0o700
	fileMode     = 0o600
	// historyName begins the names of the shell's history file and of its new version. A
	// folder with them may still be the store's alone.
	historyName = "history"
)

// companions are the suffixes of the files that belong to a database; the first is
// that of the database itself.
var companions = []string{"", "-wal", "-shm", "-journal"}

// secure creates the state folder and returns its path without links. It refuses a
// folder or a file in which another user could have put something, or still can: the
// files are opened as the user that runs, often root. It removes the permissions of
// others from the store's own files and folder.
func secure(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, folderMode); err != nil {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err == nil && info.Mode().Type() == fs.ModeSymlink {
		if err := requireOwner(dir, info); err != nil {
			return "", err
		}
		if dir, err = filepath.EvalSymlinks(dir); err == nil {
			info, err = os.Lstat(dir)
		}
	}
	if err != nil {
		return "", err
	}
	if err := requireSafe(dir, info); err != nil {
		return "", err
	}
	return dir, secureFiles(dir, info)
}

// requireSafe refuses what is no folder, and a folder in which another user could put
// something.
func requireSafe(dir string, info fs.FileInfo) error {
	if !info.IsDir() {
		return &fs.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
	}
	if err := requireOwner(dir, info); err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others may write to %s (mode %04o); give it mode 0700 or choose another state folder",
			dir, info.Mode().Perm())
	}
	return nil
}

// secureFiles checks the files in the folder before any of them is opened.
func secureFiles(dir string, folder fs.FileInfo) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	onlyOurs := true
	for _, entry := range entries {
		name := entry.Name()
		if name == keyName {
			continue // keepKey checks it, and does without
		}
		isOurs := strings.HasPrefix(name, databaseName) || slices.Contains([]string{lockName, probeName, watchedName, gapName, readingName, canariesName}, name)
		if !isOurs {
			onlyOurs = onlyOurs && (entry.Type() == fs.ModeSocket || strings.HasPrefix(name, historyName))
			continue
		}
		path := filepath.Join(dir, name)
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a file that the recorder has just removed
		}
		if err != nil {
			return err
		}
		if !strings.HasPrefix(name, databaseName+damagedInfix) { // damaged copies are never opened
			if err := requireOwner(path, info); err != nil {
				return err
			}
			if !info.Mode().IsRegular() {
				return fmt.Errorf("%s cannot be opened: it is a %s; move it away or choose another state folder", path, kindOf(info))
			}
		}
		if info.Mode().IsRegular() {
			if err := restrict(path, info, fileMode); err != nil {
				return err
			}
		}
	}
	if !onlyOurs {
		return nil // the folder has other uses too
	}
	return restrict(dir, folder, folderMode)
}

// requireOwner refuses a path that belongs to neither root nor the user that runs,
// and a file with several names.
func requireOwner(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d; give it to user %d or choose another state folder", path, stat.Uid, os.Geteuid())
	}
	if ok && info.Mode().IsRegular() && stat.Nlink > 1 {
		return fmt.Errorf("%s has other names; move it away or choose another state folder", path)
	}
	return nil
}

// restrict removes the permissions beyond mode from a path that belongs to this user.
func restrict(path string, info fs.FileInfo, mode fs.FileMode) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if info.Mode().Perm()&^mode == 0 || !ok || int(stat.Uid) != os.Geteuid() {
		return nil
	}
	err := os.Chmod(path, info.Mode().Perm()&mode)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EROFS) {
		return nil
	}
	return err
}

func kindOf(info fs.FileInfo) string {
	switch info.Mode().Type() {
	case fs.ModeDir:
		return "folder"
	case fs.ModeSymlink:
		return "link"
	}
	return "special file"
}

// syncFolder makes renames in dir durable.
func syncFolder(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
