package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// statusSQL is one statement, so that it reads the rows and the totals of one moment.
const statusSQL = `SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM events WHERE cheap = 1),
	coalesce((SELECT min(time) FROM events), 0), coalesce((SELECT min(eid) FROM events), 0),
	coalesce((SELECT state FROM totals WHERE id = 1), '')`

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
	var unprivileged int64
	var text, counted string
	err := s.use(ctx, func(db *database) (err error) {
		row := db.readers.QueryRowContext(ctx, statusSQL)
		if err = row.Scan(&status.Rows, &unprivileged, &status.OldestTime, &status.FirstEID, &text); err == nil {
			status.Skipped, err = s.totalSkipped(ctx, db)
		}
		return err
	})
	var t totals
	if err == nil && json.Unmarshal([]byte(text), &t) == nil {
		status.Totals = kmodquery.StoreTotals{
			Rows: &t.Rows[0], UnprivilegedRows: &t.Rows[1], SumsAfter: &t.After, LastEID: &t.Last,
			Sum: t.Sums[0].String(), UnprivilegedSum: t.Sums[1].String(),
		}
		counted = t.compare([2]int64{status.Rows - unprivileged, unprivileged})
	}
	status.Trouble = s.trouble(counted)
	if err != nil {
		return statusRead{status, fmt.Errorf("count events: %w", err)}
	}
	status.Bytes = sizeOf(s.path) + sizeOf(s.path+"-wal")
	return statusRead{status, nil}
}

// compare says in one line how the rows that are there differ from the totals, and what the
// totals say is lost, or returns "".
func (t *totals) compare(rows [2]int64) string {
	var all []string
	if rows != t.Rows {
		all = append(all, fmt.Sprintf("the store has %d rows and %d unprivileged ones instead of %d and %d: "+
			"rows were deleted or added by hand, or the disk failed", rows[0], rows[1], t.Rows[0], t.Rows[1]))
	}
	if t.Lost != "" {
		all = append(all, t.Lost)
	}
	return strings.Join(all, "; ")
}

// trouble returns the defects of the store that any process sees, in one line.
func (s *Store) trouble(counted string) string {
	var all []string
	if counted != "" {
		all = append(all, counted)
	}
	if n := s.damaged.Load(); n > 0 {
		all = append(all, fmt.Sprintf("%d rows do not match their checksums and are not shown: the disk or the memory failed, or they were changed by hand", n))
	}
	if count, bytes := damagedCopies(filepath.Dir(s.path)); count > 0 {
		all = append(all, fmt.Sprintf("the event store was damaged and recreated; the damaged one is in %s%s* (%d of them, %d KiB): "+
			"examine it and move it away", s.path, damagedInfix, count, bytes>>10))
	}
	return strings.Join(all, "; ")
}

// Loss says in one line what is wrong with the stored events that only the recorder knows, or
// returns "".
func (s *Store) Loss() string {
	var all []string
	s.notes.Range(func(_, text any) bool {
		if text != "" {
			all = append(all, text.(string))
		}
		return true
	})
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// countDamaged counts a row that does not match its checksums, and reports the first one.
func (s *Store) countDamaged() {
	if s.damaged.Add(1) == 1 {
		s.report(fmt.Errorf("rows of %s do not match their checksums and are not shown: the disk or the memory failed, or they were changed by hand", s.path))
	}
}
