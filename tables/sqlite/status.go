package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

// Status returns the role of this process and the state of the store. The counters
// start at Open. With an error the status has no sizes.
func (s *Store) Status(ctx context.Context) (kmodquery.StoreStatus, error) {
	status := kmodquery.StoreStatus{
		Path: s.path, Role: kmodquery.RoleReader, Errors: s.failed.Load(), Damaged: s.damaged.Load(), Trouble: s.trouble(),
	}
	if s.records {
		status.Role = kmodquery.RoleRecorder
	}
	var err error
	if status.Rows, err = s.Count(ctx, kmodquery.Filter{}); err != nil {
		return status, err
	}
	var oldest sql.NullInt64
	query := squirrel.Select("min(time)").From("events")
	if err := s.use(ctx, func(db *database) error {
		return query.RunWith(db.readers).QueryRowContext(ctx).Scan(&oldest)
	}); err != nil {
		return status, fmt.Errorf("read oldest event: %w", err)
	}
	status.OldestTime = oldest.Int64
	for _, path := range []string{s.path, s.path + "-wal"} {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return status, fmt.Errorf("read size of event store: %w", err)
		}
		status.Bytes += info.Size()
	}
	return status, nil
}

// trouble returns the defects of the store in one line.
func (s *Store) trouble() string {
	var all []string
	if n := s.damaged.Load(); n > 0 {
		all = append(all, fmt.Sprintf("%d rows do not match their checksums and are not shown", n))
	}
	if n := s.lost.Load(); n > 0 {
		all = append(all, fmt.Sprintf("%d events are lost: the write-ahead log was truncated", n))
	}
	if count, bytes := damagedCopies(filepath.Dir(s.path)); count > 0 {
		all = append(all, fmt.Sprintf("the event store was damaged and recreated; the damaged one is in %s%s* (%d of them, %d KiB): "+
			"examine it and move it away", s.path, damagedInfix, count, bytes>>10))
	}
	return strings.Join(all, "; ")
}

// countDamaged counts rows that do not match their checksums, and reports the first.
func (s *Store) countDamaged(rows int64) {
	if rows > 0 && s.damaged.Add(rows) == rows {
		s.report(fmt.Errorf("rows of %s do not match their checksums and are not shown; the disk or the memory of this host may be failing", s.path))
	}
}
