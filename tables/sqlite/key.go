package sqlite

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// keyName is a file with the key of the rows' HMACs. It is no part of the database, so that
// the database alone, or a copy of it, is not enough to change a row unnoticed.
const (
	keyName = "events.key"
	keySize = 32
)

// errNoKey matches errors for a file that is no key: it has another size, type or owner.
var errNoKey = errors.New("it is no file of 32 bytes that belongs to this user or root alone")

// keepKey reads the key, or makes one. While it runs it writes the same key again if the file
// was removed or changed. A file that cannot be read stays, and the next call reads it again.
// The caller holds mu, or is Open.
func (s *Store) keepKey() { s.useKey(s.readKey(s.keyPath())) }

func (s *Store) keyPath() string { return filepath.Join(filepath.Dir(s.path), keyName) }

// useKey takes what readKey returned.
func (s *Store) useKey(key []byte, err error) {
	if err == nil && (!s.keyIsKept || bytes.Equal(key, s.rowKey)) {
		s.rowKey, s.keyIsKept = key, true
		s.note("key", "")
		return
	}
	if err != nil && !errors.Is(err, errNoKey) && !errors.Is(err, fs.ErrNotExist) {
		s.note("key", fmt.Sprintf("the key of the event store cannot be read, so the rows are not checked: %v", err))
		return
	}
	s.makeKey()
	if err := writeKey(s.keyPath(), s.rowKey); err != nil {
		s.note("key", fmt.Sprintf("the key of the event store cannot be kept, so the next recorder cannot check the rows of this one: %v", err))
		return
	}
	s.note("key", "")
	if s.keyIsKept {
		s.report(fmt.Errorf("%s was removed or changed; it was written again", s.keyPath()))
	}
	s.keyIsKept = true
}

// makeKey makes a key if none was read or made.
func (s *Store) makeKey() {
	if s.rowKey == nil {
		s.rowKey = make([]byte, keySize)
		_, _ = rand.Read(s.rowKey) // never fails
	}
}

// readKey reads a key from a file of this user or root. It removes the permissions of others
// from the file, and reports that.
func (s *Store) readKey(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() != keySize || requireOwner(path, info) != nil {
		return nil, fmt.Errorf("%s: %w", path, errNoKey)
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if mode := info.Mode().Perm(); mode&^fileMode != 0 {
		s.report(fmt.Errorf("%s had mode %04o, so others may have read it; now it has mode %04o", path, mode, mode&fileMode))
		_ = file.Chmod(mode & fileMode)
	}
	key := make([]byte, keySize)
	_, err = io.ReadFull(file, key)
	return key, err
}

// writeKey writes the key. If it is interrupted, the file has another size and is no key.
func writeKey(path string, key []byte) error {
	_ = os.Remove(path) // not a folder that has something in it
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = file.Write(key)
	return errors.Join(err, file.Sync(), file.Close(), syncFolder(filepath.Dir(path)))
}
