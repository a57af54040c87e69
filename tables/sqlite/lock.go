package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// IsFree reports whether no process records into the store in dir, by taking its lock
// for a moment. A process that tries to take the lock in that moment fails.
func IsFree(dir string) (bool, error) {
	lock, err := tryLock(dir)
	if lock == nil || err != nil {
		return false, err
	}
	return true, lock.Close()
}

// IsRecorder reports whether this process holds the lock file that other processes
// find in the state folder.
func (s *Store) IsRecorder() bool {
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

// IsSuperseded reports whether this process was the recorder and another process holds the
// lock now, which it took after the lock file was removed.
func (s *Store) IsSuperseded() bool {
	s.locking.Lock()
	defer s.locking.Unlock()
	if !s.records || s.IsRecorder() {
		return false
	}
	free, err := IsFree(filepath.Dir(s.path))
	return err == nil && !free
}

// tryLock takes the recorder's lock in dir. It returns nil without an error if another
// open file holds the lock. The lock ends when the file is closed, and therefore with
// its process.
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

// keepLock locks the lock file again if the locked one was removed from the state
// folder, which lets another process become the recorder. It creates the folder and
// the file if they are missing. The caller holds mu.
func (s *Store) keepLock() error {
	if !s.records || s.IsRecorder() {
		return nil
	}
	s.locking.Lock()
	defer s.locking.Unlock()
	dir := filepath.Dir(s.path)
	_, err := secure(dir)
	var lock *os.File
	if err == nil {
		lock, err = tryLock(dir)
	}
	switch {
	case errors.Is(err, unix.EROFS), errors.Is(err, fs.ErrPermission):
		return &writeError{reason: "store: the lock in " + dir + " was removed and cannot be created again from here; restart this process", err: err}
	case err != nil:
		return err
	case lock == nil:
		return &writeError{
			reason: "store: the lock in " + dir + " was removed and another process records there now; end one of the two",
			err:    fmt.Errorf("lock %s: %w", filepath.Join(dir, lockName), unix.EWOULDBLOCK),
		}
	}
	s.state.LastEID = max(s.state.LastEID, readLockState(lock).LastEID)
	s.lock.Swap(lock).Close()
	return nil
}
