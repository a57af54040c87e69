package sqlite

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

// maxValues bounds the values of all conditions together, far below SQLite's
// limits on variables and on the depth of an expression. What is beyond is
// left out, as the Filter's law allows.
const maxValues = 900

// Events hands the events that f selects to visit, newest (highest EID)
// first, as they are read. The event is the same memory each time: visit may
// change it and keep its strings and pointers, not the event itself. An error
// of visit ends the reading and is returned as it is. visit must not call the
// store.
//
// A row that is not what Append wrote is left out and counted in
// [kmodquery.StoreStatus].
func (s *Store) Events(ctx context.Context, f kmodquery.Filter, visit func(*kmodquery.Event) error) error {
	var ended error // what visit returned
	err := s.use(ctx, func(db *database) error {
		damaged, err := db.events(ctx, f.Columns, selected(f), func(e *kmodquery.Event) bool {
			ended = visit(e)
			return ended == nil
		})
		s.notice(damaged)
		return err
	})
	if ended != nil {
		return ended
	}
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return nil
}

// Recall hands to visit what somebody who begins has to know of the events that f
// selects, in the manner of [Store.Events]: those among the newest so many of the
// store, and of the older ones the last of each kind, which are those of a name,
// an event_name and a source that succeeded, or did not. The last is that of the
// latest uptime, and of the latest time where several have the same or none.
func (s *Store) Recall(ctx context.Context, f kmodquery.Filter, newest int64, visit func(*kmodquery.Event)) error {
	err := s.use(ctx, func(db *database) error {
		damaged, err := db.events(ctx, f.Columns, recalled(f, newest), func(e *kmodquery.Event) bool {
			visit(e)
			return true
		})
		s.notice(damaged)
		return err
	})
	if err != nil {
		return fmt.Errorf("recall events: %w", err)
	}
	return nil
}

// selected are the eids of the events that f selects, or nil for all of them.
// Where the order needs sorting, SQLite sorts these and not whole events.
func selected(f kmodquery.Filter) squirrel.Sqlizer {
	if where := conditions(f.Conditions); len(where) > 0 {
		return squirrel.Select("eid").From("events").Where(where)
	}
	return nil
}

// recalled are the eids of what [Store.Recall] hands over.
func recalled(f kmodquery.Filter, newest int64) squirrel.Sqlizer {
	where := conditions(f.Conditions)
	recent := squirrel.Select("eid").From("events NOT INDEXED").Where(where).Where("eid > (SELECT max(eid) FROM events) - ?", newest)
	// The eid is that of the maximum: https://sqlite.org/lang_select.html#bareagg.
	// Below the uptime are the microseconds of some hours, which tell those of one
	// second apart.
	const moment = "CASE WHEN uptime IS NULL THEN time_nanos ELSE uptime * (1 << 34) + time_nanos / 1000 % (1 << 34) END"
	older := squirrel.Select("eid", "max("+moment+")").From("events NOT INDEXED").
		Where(where).Where("eid <= (SELECT max(eid) FROM events) - ?", newest).
		GroupBy("name COLLATE BINARY", "event_name", "source", "uptime IS NULL", "coalesce(result, 0) = 0")
	return squirrel.Expr("? UNION ALL SELECT eid FROM (?)", recent, older)
}

// events hands the events that these eids select, or all, to visit until that
// returns false, and counts the rows that are not what was written.
func (d *database) events(ctx context.Context, wanted []string, eids squirrel.Sqlizer, visit func(*kmodquery.Event) bool) (damaged int64, err error) {
	columns := readColumns(wanted)
	names := make([]string, len(columns), len(columns)+1)
	for i, column := range columns {
		names[i] = column.Name
	}
	query := squirrel.Select(append(names, "sums")...).From("events").OrderBy("eid DESC")
	if eids != nil {
		query = query.Where(squirrel.Expr("eid IN (?)", eids))
	}
	rows, err := query.RunWith(d.readers).QueryContext(ctx)
	if err != nil {
		return 0, err
	}
	defer rows.Close()

	r := newRow(columns, wanted)
	last := int64(math.MaxInt64)
	for rows.Next() {
		if err := rows.Scan(r.pointers...); err != nil {
			return damaged, err
		}
		event, ok := r.event(d.unsummed)
		if !ok {
			damaged++
			continue
		}
		if event.EID >= last {
			return damaged, fmt.Errorf("%w: event %d comes after event %d", errDamaged, event.EID, last)
		}
		last = event.EID
		if !visit(event) {
			return damaged, nil
		}
	}
	return damaged, rows.Err()
}

// notice counts rows that are not what was written, and says so once.
func (s *Store) notice(damaged int64) {
	if damaged > 0 && s.damaged.Add(damaged) == damaged {
		s.report(fmt.Errorf("rows of %s are not what was written and are not shown; the disk or the memory of this host may be failing", s.path))
	}
}

// Count returns how many events f selects. It does not look at them.
func (s *Store) Count(ctx context.Context, f kmodquery.Filter) (int64, error) {
	var n int64
	query := squirrel.Select("count(*)").From("events").Where(conditions(f.Conditions))
	if err := s.use(ctx, func(db *database) error {
		return query.RunWith(db.readers).QueryRowContext(ctx).Scan(&n)
	}); err != nil {
		return 0, fmt.Errorf("count events: %w", err)
	}
	return n, nil
}

// readColumns are the columns to read for a filter that names some: those, the
// two that are always read, and the others of their groups. Names that no event
// has are left out.
func readColumns(names []string) []kmodquery.Column {
	if names == nil {
		return kmodquery.EventColumns()
	}
	wanted := map[int]bool{headGroup: true}
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

// conditions leaves out what the store cannot answer.
func conditions(conditions []kmodquery.Condition) squirrel.And {
	var all squirrel.And
	values := 0
	for _, condition := range conditions {
		where, ok := predicate(condition)
		if n := 3 * len(condition.Values); ok && values+n <= maxValues {
			values += n
			all = append(all, where)
		}
	}
	return all
}

func predicate(c kmodquery.Condition) (squirrel.Sqlizer, bool) {
	column, ok := kmodquery.EventColumn(c.Column)
	if !ok || len(c.Values) == 0 {
		return nil, false
	}
	for _, value := range c.Values {
		if !comparable(column, value) {
			return nil, false
		}
	}
	if c.Op == kmodquery.Equal {
		var either squirrel.Or
		for _, value := range c.Values {
			either = append(either, equal(c.Column, value))
		}
		return either, true
	}
	if len(c.Values) > 1 {
		return nil, false
	}
	switch value := c.Values[0]; c.Op {
	case kmodquery.Less:
		return squirrel.Lt{c.Column: value}, true
	case kmodquery.LessOrEqual:
		return squirrel.LtOrEq{c.Column: value}, true
	case kmodquery.Greater:
		return squirrel.Gt{c.Column: value}, true
	case kmodquery.GreaterOrEqual:
		return squirrel.GtOrEq{c.Column: value}, true
	}
	return nil, false
}

// equal compares text without regard to ASCII case, by the columns' collation,
// and to blanks at its end: whoever asks may do so with COLLATE NOCASE or
// COLLATE RTRIM, of which osquery's constraints say nothing.
func equal(column string, value any) squirrel.Sqlizer {
	text, ok := value.(string)
	if !ok {
		return squirrel.Eq{column: value}
	}
	text = strings.TrimRight(text, " ")
	return squirrel.Or{
		squirrel.Eq{column: text},
		squirrel.And{squirrel.GtOrEq{column: text + " "}, squirrel.Lt{column: text + "!"}},
	}
}

func comparable(column kmodquery.Column, value any) bool {
	switch value := value.(type) {
	case int64:
		return column.Number
	case float64:
		return column.Number && !math.IsNaN(value) // SQLite would take it for NULL
	case string:
		return !column.Number
	}
	return false
}
