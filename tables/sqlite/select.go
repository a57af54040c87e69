package sqlite

import (
	"context"
	"fmt"
	"slices"

	"github.com/Masterminds/squirrel"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/kmodquery/kmodquery"
)

// Events calls visit with each event that f selects while it reads them, newest
// (highest EID) first. The event is overwritten for each call: visit may change it, and
// may keep its strings and pointers, but must not keep a pointer to the event. If visit
// returns an error, Events stops and returns that error unchanged. visit must not call the store.
//
// A row that does not match its checksums is left out and counted in
// [kmodquery.StoreStatus].
func (s *Store) Events(ctx context.Context, f kmodquery.Filter, visit func(*kmodquery.Event) error) error {
	return s.read(ctx, f.Columns, selected(f), newestFirst, visit)
}

// EventsBetween is [Store.Events] for events with an EID above after and up to last,
// oldest first.
func (s *Store) EventsBetween(ctx context.Context, after, last int64, f kmodquery.Filter, visit func(*kmodquery.Event) error) error {
	return s.read(ctx, f.Columns, between(after, last, f), oldestFirst, visit)
}

// LastEID returns the last EID that was assigned, even if its event has expired; 0 if there was
// none.
func (s *Store) LastEID(ctx context.Context) (eid int64, err error) {
	err = s.use(ctx, func(db *database) error { return db.readers.QueryRowContext(ctx, lastSQL).Scan(&eid) })
	return eid, err
}

// between selects events in a range of EIDs. It selects them directly: SQLite finds no more
// of them than visit takes, of which a cursor takes one page, and has no order to sort.
func between(after, last int64, f kmodquery.Filter) squirrel.Sqlizer {
	where := squirrel.And{squirrel.Expr("eid > ?", after), squirrel.Expr("eid <= ?", last)}
	return append(append(where, filterSQL(f)...), shown(f.Conditions)...)
}

// shown leaves out the events that close loads, which are no observations of a source, unless
// a condition says which events are wanted.
func shown(conditions []kmodquery.Condition) squirrel.And {
	if namesEvents(conditions) {
		return nil
	}
	return squirrel.And{squirrel.Expr("coalesce(event_name, '') NOT IN (?, ?)", closings[0], closings[1])}
}

func namesEvents(conditions []kmodquery.Condition) bool {
	return slices.ContainsFunc(conditions, func(c kmodquery.Condition) bool { return c.Column == "event_name" && c.Op == kmodquery.Equal })
}

// Orders of events, by EID.
const (
	newestFirst = "eid DESC"
	oldestFirst = "eid"
)

func (s *Store) read(ctx context.Context, columns []string, where squirrel.Sqlizer, order string, visit func(*kmodquery.Event) error) error {
	var visitErr error
	err := s.use(ctx, func(db *database) error {
		return s.events(ctx, db, columns, where, order, func(e *kmodquery.Event) bool {
			visitErr = visit(e)
			return visitErr == nil
		})
	})
	if visitErr != nil {
		return visitErr
	}
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return nil
}

// Count returns the number of events that f selects. It does not verify checksums.
func (s *Store) Count(ctx context.Context, f kmodquery.Filter) (int64, error) {
	var n, closed int64
	where := filterSQL(f)
	if err := s.use(ctx, func(db *database) error {
		if err := countWhere(ctx, db.readers, where, &n); err != nil || namesEvents(f.Conditions) {
			return err
		}
		// One count with shown would read every row.
		return countWhere(ctx, db.readers, append(where, squirrel.Eq{"event_name": closings}), &closed)
	}); err != nil {
		return 0, fmt.Errorf("count events: %w", err)
	}
	return n - closed, nil
}

func countWhere(ctx context.Context, db squirrel.BaseRunner, where squirrel.And, n *int64) error {
	return squirrel.Select("count(*)").From("events").Where(where).RunWith(db).QueryRowContext(ctx).Scan(n)
}

// selected selects the events that f selects, by their EIDs. If
// the order needs sorting, SQLite sorts EIDs and not whole events.
func selected(f kmodquery.Filter) squirrel.Sqlizer {
	all := shown(f.Conditions)
	if where := filterSQL(f); len(where) > 0 {
		all = append(all, squirrel.Expr("eid IN (?)", squirrel.Select("eid").From("events").Where(where)))
	}
	return all
}

// events calls visit with the events that where selects, nil selecting all, in an order,
// until visit returns false. It counts the rows that do not match their checksums. It leaves
// out the rows that are longer than any event, but only if it finds one: the condition takes
// longer than the rest of the query.
func (s *Store) events(ctx context.Context, db *database, wanted []string, where squirrel.Sqlizer, order string, visit func(*kmodquery.Event) bool) error {
	last := int64(0) // EIDs begin at 1
	err := s.visitEvents(ctx, db, wanted, where, order, &last, visit)
	if code, _ := codeOf(err); code != sqlite3.SQLITE_TOOBIG {
		return err
	}
	s.countDamaged()
	rest := squirrel.And{squirrel.Expr(fitsSQL)}
	switch {
	case last != 0 && order == newestFirst:
		rest = append(rest, squirrel.Expr("eid < ?", last))
	case last != 0:
		rest = append(rest, squirrel.Expr("eid > ?", last))
	}
	if where != nil {
		rest = append(rest, where)
	}
	return s.visitEvents(ctx, db, wanted, rest, order, &last, visit)
}

// visitEvents is events, and fails if it finds a row that is too long. last is the EID of the
// last event, or 0.
func (s *Store) visitEvents(ctx context.Context, db *database, wanted []string, where squirrel.Sqlizer, order string, last *int64, visit func(*kmodquery.Event) bool) error {
	columns := readColumns(wanted)
	rows, err := reading(columns, where, order).RunWith(db.readers).QueryContext(ctx)
	if err != nil {
		return err
	}
	defer rows.Close()

	r := newRow(columns, wanted)
	for rows.Next() {
		if err := rows.Scan(r.pointers...); err != nil {
			return err
		}
		event, ok := r.event(db.unsummed)
		if !ok {
			s.countDamaged()
			continue
		}
		if *last != 0 && (event.EID < *last) != (order == newestFirst) || event.EID == *last {
			return fmt.Errorf("%w: event %d follows event %d", errDamaged, event.EID, *last)
		}
		*last = event.EID
		if !visit(event) {
			return nil
		}
	}
	return rows.Err()
}

func reading(columns []kmodquery.Column, where squirrel.Sqlizer, order string) squirrel.SelectBuilder {
	query := squirrel.Select(append(columnNames(columns), "sums")...).From("events").OrderBy(order)
	if where != nil {
		query = query.Where(where)
	}
	return query
}

// readColumns returns the columns to read if names are wanted: those, the two that are
// always read, and the other columns of their checksum groups. Names that no event has
// are left out.
func readColumns(names []string) []kmodquery.Column {
	if names == nil {
		return kmodquery.EventColumns()
	}
	wanted := map[int]bool{keyGroup: true}
	for _, name := range names {
		if _, ok := kmodquery.EventColumn(name); ok {
			wanted[groupOf(name)] = true
		}
	}
	var columns []kmodquery.Column
	for _, column := range kmodquery.EventColumns() {
		if wanted[groupOf(column.Name)] {
			columns = append(columns, column)
		}
	}
	return columns
}
