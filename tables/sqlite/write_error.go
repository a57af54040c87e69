package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// probeName is a file that is created and removed to find out why nothing can be
// written. SQLite reports an exceeded quota, a broken disk and a read-only file system
// alike as an input/output error.
const probeName = "probe"

// A writeError is an error because of which the store accepts no events until its
// cause is gone.
type writeError struct {
	reason string
	err    error
}

func (e *writeError) Error() string { return e.reason + ": " + e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// Reason says why the store accepts no events and what to do about it. It stays the
// same as long as the cause does.
func (e *writeError) Reason() string { return e.reason }

// explain adds the cause to an error of writing to the store in dir.
func explain(err error, dir string) error {
	if known := new(writeError); err == nil || errors.As(err, &known) || errors.Is(err, context.Canceled) {
		return err
	}
	return &writeError{reason: "store: " + cause(err, dir), err: err}
}

func cause(err error, dir string) string {
	if code, ok := codeOf(err); ok && code&0xff == sqlite3.SQLITE_BUSY {
		return "another process keeps the database locked; end it"
	}
	for _, err := range []error{err, probe(dir)} {
		switch {
		case errors.Is(err, unix.ENOSPC):
			return "disk full; make room on the file system of " + dir
		case errors.Is(err, unix.EDQUOT):
			return "disk quota exceeded; make room in " + dir
		case errors.Is(err, unix.EROFS):
			return "the file system of " + dir + " is read-only; mount it for writing"
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return dir + " cannot be written to; run as a user who may"
		case errors.Is(err, unix.EIO):
			return "input/output error; look at the disk of " + dir
		}
	}
	if code, ok := codeOf(err); ok {
		switch code & 0xff {
		case sqlite3.SQLITE_FULL:
			return "disk full; make room on the file system of " + dir
		case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
			return "input/output error; look at the disk of " + dir
		case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
			return dir + " cannot be written to; run as a user who may"
		}
	}
	if isDamage(err) {
		return "the database is damaged"
	}
	return "the database cannot be written"
}

// probe writes a page into dir and returns the system's error.
func probe(dir string) error {
	path := filepath.Join(dir, probeName)
	if err := unix.Unlink(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(make([]byte, os.Getpagesize()))
	return errors.Join(err, file.Close(), os.Remove(path))
}

// codeOf returns SQLite's extended result code.
func codeOf(err error) (code int, ok bool) {
	var failure *driver.Error
	if !errors.As(err, &failure) {
		return 0, false
	}
	return failure.Code(), true
}

// describe adds to an error of opening a file what to do about it.
func describe(err error, path string) error {
	code, ok := codeOf(err)
	if !ok {
		return err
	}
	switch code & 0xff {
	case sqlite3.SQLITE_NOTADB:
		if isText(path) {
			return fmt.Errorf("%s %w", path, errText)
		}
		return fmt.Errorf("%s is no SQLite database: %w", path, err)
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY:
		return fmt.Errorf("%s cannot be opened for reading and writing; run as a user who may or choose another state folder", path)
	case sqlite3.SQLITE_CORRUPT:
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return fmt.Errorf("read %s: %w", path, err)
}

// errText matches errors for a file that never was a database.
var errText = errors.New("is no SQLite database; move it away or choose another state folder")

// isText reports whether a file begins like a text file. A database with a destroyed
// header still has a zero byte in its first page.
func isText(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	head, err := io.ReadAll(io.LimitReader(file, 4096))
	return err == nil && !bytes.Contains(head, []byte{0})
}
