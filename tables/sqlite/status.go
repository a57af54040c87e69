package sqlite

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/kmodquery/kmodquery"
)

const sizeSQL = "SELECT (SELECT count(*) FROM events), coalesce((SELECT min(time) FROM events), 0)"

// Status returns the role of this process and the state of the store. The counters
// start at Open. With an error the status has no sizes. Status returns when ctx ends, also
// if the disk does not answer.
func (s *Store) Status(ctx context.Context) (kmodquery.StoreStatus, error) {
	status := kmodquery.StoreStatus{Path: s.path, Role: kmodquery.RoleReader, Errors: s.failed.Load(), Damaged: s.damaged.Load()}
	if s.records {
		status.Role = kmodquery.RoleRecorder
	}
	read, ok := s.statuses.Run(ctx, "", func(ctx context.Context) statusRead { return s.readStatus(ctx, status) })
	if !ok {
		return status, fmt.Errorf("%s does not answer; its disk may hang", s.path)
	}
	return read.StoreStatus, read.err
}

// A statusRead is a status with what was read from the disk.
type statusRead struct {
	kmodquery.StoreStatus
	err error
}

func (s *Store) readStatus(ctx context.Context, status kmodquery.StoreStatus) statusRead {
	status.Trouble = s.trouble()
	err := s.use(ctx, func(db *database) (err error) {
		if err = db.readers.QueryRowContext(ctx, sizeSQL).Scan(&status.Rows, &status.OldestTime); err == nil {
			status.Skipped, err = s.totalSkipped(ctx, db)
		}
		return err
	})
	if err != nil {
		return statusRead{status, fmt.Errorf("count events: %w", err)}
	}
	status.Bytes = sizeOf(s.path) + sizeOf(s.path+"-wal")
	return statusRead{status, nil}
}

// trouble returns the defects of the store that any process sees, in one line.
func (s *Store) trouble() string {
	var all []string
	if n := s.damaged.Load(); n > 0 {
		all = append(all, fmt.Sprintf("%d rows do not match their checksums and are not shown", n))
	}
	if count, bytes := damagedCopies(filepath.Dir(s.path)); count > 0 {
		all = append(all, fmt.Sprintf("the event store was damaged and recreated; the damaged one is in %s%s* (%d of them, %d KiB): "+
			"examine it and move it away", s.path, damagedInfix, count, bytes>>10))
	}
	return strings.Join(all, "; ")
}

// Loss says in one line how many stored events are lost, or returns "". Only the recorder
// knows that.
func (s *Store) Loss() string {
	if n := s.lost.Load(); n > 0 {
		return fmt.Sprintf("%d events are lost: the write-ahead log was truncated", n)
	}
	return ""
}

// countDamaged counts a row that does not match its checksums, and reports the first one.
func (s *Store) countDamaged() {
	if s.damaged.Add(1) == 1 {
		s.report(fmt.Errorf("rows of %s do not match their checksums and are not shown; the disk or the memory of this host may be failing", s.path))
	}
}
