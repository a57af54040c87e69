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
	// freeSpaceTime bounds the deletion of events on a full disk.
	freeSpaceTime = 5 * time.Second
	// fullDiskChunk is the most events that one transaction deletes on a full disk: a
	// deletion needs space in the log before it frees any.
	fullDiskChunk = 50
	// ampleBytes suffice for any batch and the log.
	ampleBytes = 4 * walBytes
	// reservedBytes stay free for checkpoints.
	reservedBytes = 256 << 10
	// pageBytes is the size of SQLite's pages, and pagesPerEvent the pages that one
	// event changes: its own, those of the indexes, and their parents.
	pageBytes     = 4096
	pagesPerEvent = 16
)

// isFull reports whether an error says that the disk or a quota is full.
func isFull(err error) bool {
	code, ok := codeOf(err)
	return ok && code&0xff == sqlite3.SQLITE_FULL || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// isFullIn is isFull, and also detects errors of SQLite that do not name the cause if
// the file system of dir is full.
func isFullIn(err error, dir string) bool {
	if isFull(err) {
		return true
	}
	code, ok := codeOf(err)
	return ok && (code&0xff == sqlite3.SQLITE_IOERR || code&0xff == sqlite3.SQLITE_CANTOPEN) && isFull(probe(dir))
}

// requireSpace makes sure that the disk has space for the events and for writing the
// log back into the database afterwards. A disk without space for that write can
// neither store nor delete an event. The error is that of a full disk.
func (s *Store) requireSpace(ctx context.Context, deliveries []kmodquery.Delivery) error {
	free, ok := freeBytes(filepath.Dir(s.path))
	if !ok || free > ampleBytes {
		return nil // if the disk fails, the write reports it
	}
	need := spaceFor(deliveries, sizeOf(s.path)) + reservedBytes
	wal := sizeOf(s.path + "-wal")
	if free < wal+need && wal > 0 {
		if err := s.checkpoint(ctx); err != nil {
			return err
		}
		free, _ = freeBytes(filepath.Dir(s.path))
		wal = sizeOf(s.path + "-wal")
	}
	if free >= wal+need {
		return nil
	}
	return fmt.Errorf("%d KiB are free, and %d events may need %d KiB: %w", free>>10, len(deliveries), (wal+need)>>10, unix.ENOSPC)
}

// spaceFor returns the most bytes that the events add to the log and then to the
// database, given its size.
func spaceFor(deliveries []kmodquery.Delivery, databaseSize int64) int64 {
	var text int64
	for i := range deliveries {
		text += bytesOf(&deliveries[i].Event)
	}
	// A row and its index entries, with each page half empty.
	grows := 4*text + int64(len(deliveries))*1024
	// At worst each of them changes a page of its own.
	changes := min(int64(len(deliveries))*pagesPerEvent*pageBytes, databaseSize)
	return 2*grows + changes + pagesPerEvent*pageBytes
}

// bytesOf returns the bytes of an event's values.
func bytesOf(e *kmodquery.Event) (n int64) {
	for _, column := range kmodquery.EventColumns() {
		switch value := column.Value(e).(type) {
		case string:
			n += int64(len(value))
		case int64:
			n += 8
		}
	}
	return n
}

func sizeOf(path string) int64 {
	info, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// freeBytes returns the bytes that this user may write to the file system of dir;
// false if the file system does not report them.
func freeBytes(dir string) (free int64, ok bool) {
	var stat unix.Statfs_t
	// A ramfs, and a tmpfs without a limit, report no blocks at all.
	if err := unix.Statfs(dir, &stat); err != nil || stat.Blocks == 0 {
		return 0, false
	}
	blocks := stat.Bavail
	if os.Geteuid() == 0 {
		blocks = stat.Bfree
	}
	return int64(blocks) * int64(stat.Bsize), true //nolint:unconvert // of other types on darwin
}

// freeSpace frees disk space by a checkpoint and by deleting events beyond the bounds
// of [Options]. It reports whether another attempt to write is worthwhile.
func (s *Store) freeSpace(ctx context.Context) bool {
	if s.database == nil || s.checkpoint(ctx) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, freeSpaceTime)
	defer cancel()
	s.chunk = fullDiskChunk
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
