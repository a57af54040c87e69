package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

var insertSQL = func() string {
	names := append(columnNames(kmodquery.EventColumns()), "cheap", "sums", "mac")
	text, _, err := squirrel.Insert("events").Columns(names...).Values(make([]any, len(names))...).ToSql()
	if err != nil {
		panic(err)
	}
	return text
}()

// lastSQL reads the last EID that was assigned, even if its event has expired.
const lastSQL = `SELECT max(
	coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = 'events'), 0),
	coalesce((SELECT max(eid) FROM events), 0))`

// maxEID bounds a plausible EID. No store reaches it.
const maxEID = 1 << 62

// Append writes events in one transaction and sets the EID, StoredTime, FirstSeen and
// Changed of each.
// The events are on disk when Append returns. If it fails, it writes none of them
// and leaves all of them unchanged. Occasionally it first does a part of
// [Store.Expire]'s work, so the bounds can be exceeded for a minute or by some
// thousand events.
//
// If the disk is full, Append deletes events beyond the bounds and tries again. If
// the database is damaged, it recreates the database. Its errors have a method
// Reason, which says in one line why the store accepts no events and what to do
// about it. In a reader Append returns an error.
func (s *Store) Append(ctx context.Context, deliveries []kmodquery.Delivery) error {
	if !s.records {
		return fmt.Errorf("append to %s: another process records", s.path)
	}
	if len(deliveries) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.appendAgain(ctx, deliveries, 0)
	if err != nil {
		s.failed.Add(1)
	}
	return err
}

// appendAgain appends, and does so again if it can make that possible. Each attempt to load a
// module up to the EID closed is closed then; 0 leaves that as it is.
func (s *Store) appendAgain(ctx context.Context, deliveries []kmodquery.Delivery, closed int64) error {
	err := s.append(ctx, deliveries, closed)
	if isFullIn(err, filepath.Dir(s.path)) && s.freeSpace(ctx) || isDamage(err) && s.replaceDamaged(ctx, s.database, err) == nil {
		err = s.append(ctx, deliveries, closed)
	}
	return explain(err, filepath.Dir(s.path))
}

func (s *Store) append(ctx context.Context, deliveries []kmodquery.Delivery, closed int64) error {
	if err := s.reopen(ctx); err != nil {
		return err
	}
	s.truncateLongWAL(ctx)
	if err := s.expireWhenDue(ctx); err != nil {
		return fmt.Errorf("expire events of %s: %w", s.path, err)
	}
	if err := s.requireSpace(ctx, deliveries); err != nil {
		return fmt.Errorf("append to %s: %w", s.path, err)
	}
	if err := s.write(ctx, deliveries, closed); err != nil {
		return fmt.Errorf("append %d events to %s: %w", len(deliveries), s.path, err)
	}
	s.appended += len(deliveries)
	s.state.LastEID = deliveries[len(deliveries)-1].Event.EID
	_ = writeLockState(s.lock.Load(), s.state) // needed only after the write-ahead log was truncated
	return nil
}

func (s *Store) write(ctx context.Context, deliveries []kmodquery.Delivery, closed int64) error {
	written := slices.Clone(deliveries)
	err := s.changeTotals(ctx, s.database, func(tx *sql.Tx, t *totals) error {
		t.Closed = max(t.Closed, closed)
		return s.insertEvents(ctx, tx, written, t)
	})
	if err == nil {
		copy(deliveries, written)
	}
	return err
}

func (s *Store) insertEvents(ctx context.Context, tx *sql.Tx, deliveries []kmodquery.Delivery, t *totals) error {
	insert, seen, key := tx.StmtContext(ctx, s.insert), tx.StmtContext(ctx, s.seen), tx.StmtContext(ctx, s.key)
	known := knowledge{tx.StmtContext(ctx, s.known), tx.StmtContext(ctx, s.former)}
	var eid int64
	if err := tx.StmtContext(ctx, s.last).QueryRowContext(ctx).Scan(&eid); err != nil {
		return err
	}
	if eid < 0 || eid > maxEID {
		return fmt.Errorf("%w: its last event is %d", errDamaged, eid)
	}
	// Somebody may have deleted the events and what SQLite remembers of their EIDs.
	eid = max(eid, t.Last, s.state.LastEID)
	now := s.options.Now().Unix()
	columns := kmodquery.EventColumns()
	sums := newChecksummer(columns, s.rowKey)
	values := make([]any, len(columns)+3)
	for i := range deliveries {
		event := &deliveries[i].Event
		eid++
		event.EID, event.StoredTime = eid, &now
		if err := setFirstSeen(ctx, seen, event); err != nil {
			return err
		}
		if err := s.setChanged(ctx, known, event); err != nil {
			return err
		}
		for j, column := range columns {
			values[j] = column.Value(event)
		}
		kind := int64(0)
		if event.IsUnprivileged() {
			kind = 1
		}
		sum, mac := sums.of(values, kind)
		values[len(columns)], values[len(columns)+1], values[len(columns)+2] = kind, sum, mac
		if _, err := insert.ExecContext(ctx, values...); err != nil {
			return err
		}
		t.count(1, eid, kind, mac)
		if deliveries[i].Key != "" {
			if _, err := key.ExecContext(ctx, event.Source, deliveries[i].Key); err != nil {
				return fmt.Errorf("store a deduplication key: %w", err)
			}
		}
	}
	t.Last = eid
	return writePositions(ctx, tx, deliveries)
}
