package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

// Status tells the role of this process and how much the store holds. Errors
// counts since Open.
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
