package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Unrecorded reports whether nobody records into the store in dir: its lock is
// free. A process that takes the lock meanwhile may find it held for a moment.
func Unrecorded(dir string) (bool, error) {
	lock, err := tryLock(dir)
	if lock == nil || err != nil {
		return false, err
	}
	return true, lock.Close()
}

// Records reports whether this process records into the store, for all that others
// see: the lock that it holds is the one that they would find held.
func (s *Store) Records() bool {
	lock := s.lock.Load()
	if lock == nil {
		return false
	}
	held, err := lock.Stat()
	if err != nil {
		return false
	}
	found, err := os.Lstat(lock.Name())
	return err == nil && os.SameFile(held, found)
}

// tryLock takes the recorder's lock in dir. It returns nil without an error
// while another open file holds it. The lock ends when the file is closed and
// so with its process, however that ends.
func tryLock(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return file, nil
	}
	file.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
}

// keepLock takes the recorder's lock anew where its file is no longer the one in the
// state folder, which it makes again: whoever takes them away lets another process
// have the role. The caller holds mu.
func (s *Store) keepLock() error {
	if !s.records || s.Records() {
		return nil
	}
	dir := filepath.Dir(s.path)
	if _, err := secure(dir); err != nil {
		return err
	}
	lock, err := tryLock(dir)
	if err != nil {
		return err
	}
	if lock == nil {
		return &refusal{
			reason: "store: another process records into " + dir + ", whose lock was taken away; end one of the two",
			err:    fmt.Errorf("lock %s: %w", filepath.Join(dir, lockName), unix.EWOULDBLOCK),
		}
	}
	s.mark.Last = max(s.mark.Last, readMark(lock).Last)
	s.lock.Swap(lock).Close()
	return nil
}
