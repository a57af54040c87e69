package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// damagedInfix stands between the name of a database that was set aside and the
	// time at which it was.
	damagedInfix = ".damaged-"
	// recreateInterval is the least time between two recreations. On a disk that
	// damages everything, it bounds the copies to one a minute.
	recreateInterval = time.Minute
	// suspicionTime is how long the store remembers that SQLite reported damage in a
	// database that a check then found good.
	suspicionTime = time.Hour
	// readThroughTime bounds the test whether the disk returns the database.
	readThroughTime = 5 * time.Second
)

// setAside renames a damaged database and its companion files, because what can
// still be read of it is evidence. It deletes nothing. It fails if the damaged
// copies take more space than is free.
func setAside(path string, now time.Time) (copied string, err error) {
	dir := filepath.Dir(path)
	count, bytes := damagedCopies(dir)
	if free, ok := freeBytes(dir); ok && count > 0 && bytes > free {
		return "", fmt.Errorf("%d damaged event stores in %s take more space than is free; move them away", count, dir)
	}
	copied = path + damagedInfix + now.UTC().Format("20060102T150405Z")
	for base, n := copied, 2; exists(copied); n++ {
		copied = fmt.Sprintf("%s.%d", base, n)
	}
	// The database comes first: SQLite writes no log back into a database whose name
	// is gone.
	for _, companion := range companions {
		if err := os.Rename(path+companion, copied+companion); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("set the damaged event store aside: %w", err)
		}
	}
	return copied, syncFolder(dir)
}

// exists reports whether any file of a database of this name exists.
func exists(path string) bool {
	for _, companion := range companions {
		if _, err := os.Lstat(path + companion); err == nil {
			return true
		}
	}
	return false
}

// damagedCopies returns the number and the size of the databases that were set aside
// in dir.
func damagedCopies(dir string) (count int, bytes int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), databaseName+damagedInfix) {
			continue
		}
		if info, err := entry.Info(); err == nil {
			bytes += info.Size()
		}
		if !strings.Contains(strings.TrimPrefix(entry.Name(), databaseName+damagedInfix), "-") {
			count++
		}
	}
	return count, bytes
}

// readFailed handles an error of reading db and returns it. If db is damaged, the
// recorder recreates it and a reader closes it, so that its next read opens the
// database that the recorder has made.
func (s *Store) readFailed(ctx context.Context, db *database, err error) error {
	if err == nil || !isDamage(err) {
		return err
	}
	if !s.records {
		s.gate.Lock()
		defer s.gate.Unlock()
		if s.database == db {
			s.database = nil
			_ = db.close()
		}
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if failure := s.replaceDamaged(ctx, db, err); failure != nil && !errors.Is(failure, err) {
		return fmt.Errorf("%w; %w", err, failure)
	}
	return err
}

// replaceDamaged replaces the damaged database db with a new one, unless that has happened
// already. A report of SQLite alone does not suffice, because SQLite reports the same
// if the disk does not return a page: the database is then opened again, which checks
// it, and recreated only after a second report. replaceDamaged returns an error if the store
// is no better than before. The caller holds mu.
func (s *Store) replaceDamaged(ctx context.Context, db *database, cause error) error {
	if db == nil {
		return cause
	}
	if s.database != db {
		return nil
	}
	elapsed := s.elapsed()
	if s.recreatedAt != 0 && elapsed-s.recreatedAt < recreateInterval {
		return cause
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	s.database = nil
	_ = db.close() // it is damaged
	if err := readThrough(s.path); err != nil {
		return err
	}
	if !errors.Is(cause, errDamaged) && (s.suspectedAt == 0 || elapsed-s.suspectedAt > suspicionTime) {
		s.suspectedAt = max(elapsed, 1)
		return s.openRecorder(ctx)
	}
	if err := s.clearPath(cause); err != nil {
		return err
	}
	return s.openRecorder(ctx)
}

// readThrough returns the error of a disk that does not return all of the database.
// The database must not be open: closing any descriptor of a file ends the locks that
// the process holds on it.
func readThrough(path string) error {
	started := time.Now()
	for _, companion := range companions[:2] {
		file, err := os.Open(path + companion)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		buffer := make([]byte, 1<<20)
		for err == nil && time.Since(started) < readThroughTime {
			_, err = file.Read(buffer)
		}
		file.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// clearPath sets the database at the store's path aside and reports it. The next
// openRecorder creates a new one.
func (s *Store) clearPath(cause error) error {
	copied, err := setAside(s.path, s.options.Now())
	if err != nil {
		return err
	}
	s.recreated, s.recreatedAt = true, max(s.elapsed(), 1)
	s.state.Inode = 0 // continueEIDs need not say that it is gone
	s.lost = "earlier events are lost, because the event store was damaged and recreated"
	s.report(fmt.Errorf("%s was damaged and is now %s; a new event store was created: %w", s.path, copied, cause))
	return nil
}
