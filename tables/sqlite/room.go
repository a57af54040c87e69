package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/kmodquery/kmodquery"
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
	// maxLog bounds the log: where readers overlap all the time, SQLite never finds
	// the moment to begin it anew. Beyond it they are let finish before another one
	// begins, once in shortenEvery.
	maxLog       = 2 * walBytes
	shortenEvery = time.Minute
	// plentyBytes free are enough for any batch and the log.
	plentyBytes = 4 * walBytes
	// reserveBytes are left free for that.
	reserveBytes = 256 << 10
	// pageBytes is SQLite's page, and pagesAnEvent how many one event changes:
	// its own, those of the indexes, and those that tell where they are.
	pageBytes    = 4096
	pagesAnEvent = 16
)

// isFull reports whether an error says that there is no room for what is to be
// written; isFullIn also where only the system says so of dir.
func isFull(err error) bool {
	code, ok := codeOf(err)
	return ok && code&0xff == sqlite3.SQLITE_FULL || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func isFullIn(err error, dir string) bool {
	if isFull(err) {
		return true
	}
	code, ok := codeOf(err)
	return ok && (code&0xff == sqlite3.SQLITE_IOERR || code&0xff == sqlite3.SQLITE_CANTOPEN) && isFull(probe(dir))
}

// keepRoom makes sure that what the events will take and the log can be written
// back into the database afterwards: a disk on which that does not fit any more
// can neither take nor forget an event, whatever the bounds are. Where there is no
// room for that it is an error as of a full disk.
func (s *Store) keepRoom(ctx context.Context, deliveries []kmodquery.Delivery) error {
	free, ok := freeBytes(filepath.Dir(s.path))
	if !ok || free > plentyBytes {
		return nil // what is wrong with it, the disk itself will tell
	}
	need := needOf(deliveries, sizeOf(s.path)) + reserveBytes
	log := sizeOf(s.path + "-wal")
	if free >= log+need {
		return nil
	}
	if log > 0 {
		if err := s.checkpoint(ctx); err != nil {
			return err
		}
		free, _ = freeBytes(filepath.Dir(s.path))
		log = sizeOf(s.path + "-wal")
	}
	if free >= log+need {
		return nil
	}
	return fmt.Errorf("%d KiB are free, and %d events may need %d KiB: %w", free>>10, len(deliveries), (log+need)>>10, unix.ENOSPC)
}

// needOf is the most that the events add to the log and then to the database, which
// has so many bytes.
func needOf(deliveries []kmodquery.Delivery, database int64) int64 {
	var text int64
	for i := range deliveries {
		for _, column := range kmodquery.EventColumns() {
			switch value := column.Value(&deliveries[i].Event).(type) {
			case string:
				text += int64(len(value))
			case int64:
				text += 8
			}
		}
	}
	// A row and its entries in the indexes, half of each page empty.
	grows := 4*text + int64(len(deliveries))*1024
	// Each of them changes a page of its own, if there are so many.
	changes := min(int64(len(deliveries))*pagesAnEvent*pageBytes, database)
	return 2*grows + changes + pagesAnEvent*pageBytes
}

func sizeOf(path string) int64 {
	info, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// freeBytes is what this user may still write to the file system of dir; false
// where it does not say.
func freeBytes(dir string) (free int64, ok bool) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, false
	}
	blocks := stat.Bavail
	if os.Geteuid() == 0 {
		blocks = stat.Bfree
	}
	return int64(blocks) * int64(stat.Bsize), true //nolint:unconvert // of other types on darwin
}

// checkpoint writes the log back into the database and gives its room back.
func (s *Store) checkpoint(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkpointFor)
	defer cancel()
	_, err := s.writer.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	return err
}

// shortenLog has the log begin anew where it is too long, when those who read now
// have finished. Those of other processes it cannot hold back, and tries again later.
// The caller holds mu.
func (s *Store) shortenLog(ctx context.Context) {
	elapsed := s.elapsed()
	if sizeOf(s.path+"-wal") <= s.logLimit || s.shortened != 0 && elapsed-s.shortened < shortenEvery {
		return
	}
	s.shortened = max(elapsed, 1)
	s.gate.Lock()
	defer s.gate.Unlock()
	_ = s.checkpoint(ctx) // what is wrong with the disk, the next batch will tell
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
	for more := true; more && ctx.Err() == nil && s.chunk > 0; {
		var err error
		more, err = s.expire(ctx)
		if isFull(err) {
			s.chunk /= 2
			more, err = true, nil
		}
		if err != nil || s.checkpoint(ctx) != nil {
			break
		}
	}
	return true
}
