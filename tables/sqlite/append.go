package sqlite

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

var insertSQL = func() string {
	names := append(eventNames(), "cheap", "sums")
	text, _, err := squirrel.Insert("events").Columns(names...).Values(make([]any, len(names))...).ToSql()
	if err != nil {
		panic(err)
	}
	return text
}()

// lastSQL reads the last EID that was given, also where its event has expired.
const lastSQL = `SELECT max(
	coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = 'events'), 0),
	coalesce((SELECT max(eid) FROM events), 0))`

// maxEID is far beyond what any store gives.
const maxEID = 1 << 62

// Append writes events in one transaction and gives each its EID and its
// FirstSeen; a failure writes none of them, leaves all of them as they were, and
// does not make the store think that it saw them. The events are on disk when
// Append returns. Now and then it first does a piece of [Store.Expire]'s work,
// so that the bounds may be passed by a minute's or some thousand events.
//
// Where the disk is full it makes what room it can by the bounds, and where the
// database is damaged it begins a new one. An error has a method Reason, which
// says in one line what keeps the events out and what to do about it. In a
// reader Append is an error.
func (s *Store) Append(ctx context.Context, deliveries []kmodquery.Delivery) error {
	if !s.records {
		return fmt.Errorf("append to %s: another process records", s.path)
	}
	if len(deliveries) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.append(ctx, deliveries)
	if isFullIn(err, filepath.Dir(s.path)) && s.makeRoom(ctx) || isDamage(err) && s.heal(ctx, s.database, err) == nil {
		err = s.append(ctx, deliveries)
	}
	if err != nil {
		s.failed.Add(1)
		return refuse(err, filepath.Dir(s.path))
	}
	return nil
}

func (s *Store) append(ctx context.Context, deliveries []kmodquery.Delivery) error {
	if err := s.reopen(ctx); err != nil {
		return err
	}
	s.shortenLog(ctx)
	if err := s.expireWhenDue(ctx); err != nil {
		return fmt.Errorf("expire events of %s: %w", s.path, err)
	}
	if err := s.keepRoom(ctx, deliveries); err != nil {
		return fmt.Errorf("append to %s: %w", s.path, err)
	}
	if err := s.write(ctx, deliveries); err != nil {
		return fmt.Errorf("append %d events to %s: %w", len(deliveries), s.path, err)
	}
	s.appended += len(deliveries)
	s.mark.Last = deliveries[len(deliveries)-1].Event.EID
	_ = writeMark(s.lock.Load(), s.mark) // that it is there helps only where the log is torn
	return nil
}

func (s *Store) write(ctx context.Context, deliveries []kmodquery.Delivery) error {
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	insert, seen := tx.StmtContext(ctx, s.insert), tx.StmtContext(ctx, s.seen)
	var eid int64
	if err := tx.StmtContext(ctx, s.last).QueryRowContext(ctx).Scan(&eid); err != nil {
		return err
	}
	if eid < 0 || eid > maxEID {
		return fmt.Errorf("%w: its last event is %d", errDamaged, eid)
	}
	columns := kmodquery.EventColumns()
	sums := newSummer(columns)
	written := slices.Clone(deliveries)
	values := make([]any, len(columns)+2)
	for i := range written {
		event := &written[i].Event
		eid++
		event.EID = eid
		if err := decideFirstSeen(ctx, seen, event); err != nil {
			return err
		}
		for j, column := range columns {
			values[j] = column.Value(event)
		}
		values[len(columns)], values[len(columns)+1] = event.IsUnprivileged(), sums.sum(values)
		if _, err := insert.ExecContext(ctx, values...); err != nil {
			return err
		}
	}
	if err := writePositions(ctx, tx, written); err != nil {
		return err
	}
	if err := writeKeys(ctx, tx, written); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	copy(deliveries, written)
	return nil
}
