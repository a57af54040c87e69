package sqlite

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// keyName is a file with the key of the rows' HMACs. It is no part of the database, so that
// the database alone, or a copy of it, is not enough to change a row unnoticed.
const (
	keyName = "key"
	keySize = 32
)

// keepKey reads the key, or makes one. While it runs it writes the same key again if the file
// was removed or changed. Without a file the key lasts as long as the process: the totals of
// the next one begin anew. The caller holds mu, or is Open.
func (s *Store) keepKey() {
	path := filepath.Join(filepath.Dir(s.path), keyName)
	key, err := s.readKey(path)
	isKnown := s.rowKey != nil
	if err == nil && (!isKnown || bytes.Equal(key, s.rowKey)) {
		s.rowKey = key
		s.note("key", "")
		return
	}
	if !isKnown {
		s.rowKey = make([]byte, keySize)
		_, _ = rand.Read(s.rowKey) // never fails
	}
	if err := writeKey(path, s.rowKey); err != nil {
		s.note("key", fmt.Sprintf("the key of the event store cannot be kept, so the next recorder cannot check the rows of this one: %v", err))
	} else if isKnown {
		s.report(fmt.Errorf("%s was removed or changed; it was written again", path))
	}
}

// readKey reads a key from a file of this user or root. It removes the permissions of others
// from the file, and reports that.
func (s *Store) readKey(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() != keySize {
		return nil, fmt.Errorf("%s is no file of %d bytes", path, keySize)
	}
	if mode := info.Mode().Perm(); mode&^fileMode != 0 {
		s.report(fmt.Errorf("%s had mode %04o, so others may have read it; now it has mode %04o", path, mode, mode&fileMode))
		_ = file.Chmod(mode & fileMode)
	}
	key := make([]byte, keySize)
	_, err = io.ReadFull(file, key)
	return key, errors.Join(err, requireOwner(path, info))
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
