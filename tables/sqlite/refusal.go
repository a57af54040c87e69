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

// probeName is a file that is made and removed to learn why nothing can be
// written: SQLite tells a quota, a broken disk and a file system that became
// read-only no more exactly than as an error of input or output.
const probeName = "probe"

// A refusal is an error for which the store takes no events, until its cause is
// gone.
type refusal struct {
	reason string
	err    error
}

func (r *refusal) Error() string { return r.reason + ": " + r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// Reason is why the store takes nothing and what to do about it. It stays the
// same as long as the cause does.
func (r *refusal) Reason() string { return r.reason }

// refuse explains an error of writing to the store in dir.
func refuse(err error, dir string) error {
	if known := new(refusal); err == nil || errors.As(err, &known) || errors.Is(err, context.Canceled) {
		return err
	}
	return &refusal{reason: "store: " + cause(err, dir), err: err}
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

// probe writes a page into dir and returns what the system says of it.
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

// codeOf is SQLite's extended result code.
func codeOf(err error) (code int, ok bool) {
	var failure *driver.Error
	if !errors.As(err, &failure) {
		return 0, false
	}
	return failure.Code(), true
}

// describe says what to do about a file that SQLite refuses.
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

// errText says that a file was never a database.
var errText = errors.New("is no SQLite database; move it away or choose another state folder")

// isText reports whether a file begins like something that was written by hand:
// a database whose header was lost still has a zero byte in its first page.
func isText(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	head, err := io.ReadAll(io.LimitReader(file, 4096))
	return err == nil && !bytes.Contains(head, []byte{0})
}
