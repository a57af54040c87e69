package sqlite

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	// checkpointFor bounds the wait for readers when the log is to be written
	// back in a hurry.
	checkpointFor = time.Second
	// roomFor bounds the time that making room takes.
	roomFor = 5 * time.Second
	// scarceChunk is how many events one transaction deletes where the disk is
	// full: deleting takes room in the log before it gives any.
	scarceChunk = 50
)

// isFull reports whether an error says that there is no room for what is to be
// written.
func isFull(err error) bool {
	code, ok := codeOf(err)
	return ok && code&0xff == sqlite3.SQLITE_FULL || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// keepRoom writes the log back when there is less free than that could take: a
// full disk would else keep the log from becoming shorter, and without that
// nothing can be written or deleted any more.
func (s *Store) keepRoom(ctx context.Context) {
	log, err := os.Stat(s.path + "-wal")
	if err == nil && log.Size() > freeBytes(filepath.Dir(s.path)) {
		_ = s.checkpoint(ctx) // with the next batch again
	}
}

// checkpoint writes the log back into the database and gives its room back.
func (s *Store) checkpoint(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkpointFor)
	defer cancel()
	_, err := s.writer.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	return err
}

// makeRoom does what can be done about a full disk within the bounds of
// [Options], and reports whether it is worth trying again.
func (s *Store) makeRoom(ctx context.Context) bool {
	if s.database == nil || s.checkpoint(ctx) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, roomFor)
	defer cancel()
	s.chunk = scarceChunk
	defer func() { s.chunk = expiryChunk }()
	for more := true; more && ctx.Err() == nil; {
		var err error
		if more, err = s.expire(ctx); err != nil || s.checkpoint(ctx) != nil {
			break
		}
	}
	return true
}
