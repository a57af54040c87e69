package sqlite

import (
	"context"
	"fmt"
	"slices"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

// insertColumns are all columns of an event but eid, which the database gives.
var insertColumns = func() []kmodquery.Column {
	var columns []kmodquery.Column
	for _, column := range kmodquery.EventColumns() {
		if column.Name != "eid" {
			columns = append(columns, column)
		}
	}
	return columns
}()

var insertSQL = func() string {
	names := make([]string, len(insertColumns), len(insertColumns)+1)
	for i, column := range insertColumns {
		names[i] = column.Name
	}
	names = append(names, "cheap")
	text, _, err := squirrel.Insert("events").Columns(names...).Values(make([]any, len(names))...).ToSql()
	if err != nil {
		panic(err)
	}
	return text
}()

// Append writes events in one transaction and gives each its EID and its
// FirstSeen; a failure writes none of them, leaves all of them as they were, and
// does not make the store think that it saw them. The events are on disk when
// Append returns. Now and then it first does a piece of [Store.Expire]'s work,
// so that the bounds may be passed by a minute's or some thousand events. In a
// reader it is an error.
func (s *Store) Append(ctx context.Context, events []kmodquery.Event) error {
	if s.writer == nil {
		return fmt.Errorf("append to %s: another process records", s.path)
	}
	if len(events) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.expireWhenDue(ctx); err != nil {
		s.failed.Add(1)
		return fmt.Errorf("expire events of %s: %w", s.path, err)
	}
	if err := s.write(ctx, events); err != nil {
		s.failed.Add(1)
		return fmt.Errorf("append %d events to %s: %w", len(events), s.path, err)
	}
	s.appended += len(events)
	return nil
}

func (s *Store) write(ctx context.Context, events []kmodquery.Event) error {
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	insert, seen := tx.StmtContext(ctx, s.insert), tx.StmtContext(ctx, s.seen)
	written := slices.Clone(events)
	values := make([]any, len(insertColumns)+1)
	for i := range written {
		event := &written[i]
		if err := decideFirstSeen(ctx, seen, event); err != nil {
			return err
		}
		for j, column := range insertColumns {
			values[j] = column.Value(event)
		}
		values[len(insertColumns)] = event.IsCheap()
		result, err := insert.ExecContext(ctx, values...)
		if err != nil {
			return err
		}
		if event.EID, err = result.LastInsertId(); err != nil {
			return err
		}
	}
	if err := writePositions(ctx, tx, written); err != nil {
		return err
	}
	if err := writeReceipts(ctx, tx, written); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	copy(events, written)
	return nil
}
