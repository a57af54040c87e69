package tables

import (
	"context"
	"errors"
	"fmt"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/kmodquery/kmodquery"
)

// cursorName is the name of the column that names a cursor. It is neither indexed nor
// optimized, so that osquery makes one call for each name of an IN.
const cursorName = "cursor"

// cursorOf returns the column of a table. Its cells are set by collectCursor.
func cursorOf[T any]() columnOf[T] {
	pushed := pushdown{table.AdditionalColumn(), table.HiddenColumn()}
	return text(cursorName, pushed, "With cursor = 'NAME' in the WHERE clause, a scheduled query gets each row: the rows that it was first given "+
		"in the last 15 minutes, and then the next ones in the order of storage, at most 500. Empty otherwise", func(*T) string { return "" })
}

// cursor returns the name of the cursor that the query asks for: the one value to which
// the column is constrained. It is "" if there is none.
func (q query) cursor() string {
	name := ""
	for _, constraints := range q.Constraints {
		if constraints.Name != cursorName {
			continue
		}
		for _, constraint := range constraints.List {
			if constraint.Operator != table.OperatorEquals {
				continue
			}
			if name != "" && name != constraint.Expression {
				return "" // no row has two names
			}
			name = constraint.Expression
		}
	}
	return name
}

// cursorAttempts bounds the attempts of a call to move a cursor that other calls move too.
const cursorAttempts = 3

// collectCursor returns the rows that a cursor holds, and new ones up to its bounds and
// the bound of the reply, in the order of storage. It moves the cursor. If that fails,
// as in a reader without a recorder or while the disk hangs, it returns the held rows
// only.
func collectCursor(ctx context.Context, c Config, name string, v view) ([]map[string]string, error) {
	query := kmodquery.NewCursorQuery(v.table, v.asked, v.filter.Conditions)
	for range cursorAttempts {
		page, err := readCursor(ctx, c, name, query, v)
		if err != nil {
			return nil, err
		}
		moved, err := advance(ctx, c.Cursors, page)
		if err != nil {
			return page.rows[:page.held], nil //nolint:nilerr // the rows are given again; the sensors say what is wrong with the store
		}
		if moved {
			return page.rows, nil
		}
	}
	return nil, fmt.Errorf("cursor %s is asked by several queries at once; ask again", name)
}

// readCursor reads the rows of one call.
func readCursor(ctx context.Context, c Config, name string, query kmodquery.CursorQuery, v view) (*page, error) {
	at, err := c.Cursors.Cursor(ctx, name, query)
	if err != nil {
		return nil, err
	}
	p := &page{at: at, bound: c.bound(), to: at.Last}
	err = c.Store.EventsBetween(ctx, at.After, at.Last, v.filter, func(e *kmodquery.Event) error {
		rows := v.rows(e)
		for _, row := range rows {
			row[cursorName] = name
		}
		return p.add(e.EID, rows)
	})
	if err != nil && !errors.Is(err, errFull) {
		return nil, err
	}
	return p, nil
}

// advance moves the cursor of a page. It leaves time to answer if the store hangs.
func advance(ctx context.Context, cursors Cursors, p *page) (bool, error) {
	ctx, cancel := SyncContext(ctx)
	defer cancel()
	return cursors.Advance(ctx, p.at, p.to, len(p.rows)-p.held)
}

// A page is the reply to one call with a cursor.
type page struct {
	at    kmodquery.Cursor
	bound replyBound // of all rows
	rows  []map[string]string
	held  int   // rows that were given before
	cost  int64 // of the rows
	fresh int64 // bytes of the new rows
	to    int64 // EID up to which the events are examined
}

// add adds the rows of an event. It returns errFull if new ones do not fit. Held rows fit,
// unless the query selects other columns than before or the bound has changed.
func (p *page) add(eid int64, rows []map[string]string) error {
	size, cost := replyBound{}.cost(rows), p.bound.cost(rows)
	switch isNew := eid > p.at.Position; {
	case len(rows) == 0:
		return nil
	case isNew && p.isFull(len(rows), size, cost):
		p.to = eid - 1
		return errFull
	case isNew:
		p.fresh += size
	case (p.cost+cost)/2 > p.bound.bytes && len(p.rows) > 0: // twice the bound may exceed an int64
		return fmt.Errorf("cursor %s holds more than twice %s with these columns; select fewer, as the query did that it was made for",
			p.at.Name, p.bound)
	default:
		p.held += len(rows)
	}
	p.cost += cost
	p.rows = append(p.rows, rows...)
	return nil
}

// isFull reports whether new rows exceed a bound. So that the cursor does not stand still,
// the first new ones may exceed its bounds, and the first of all rows that of the reply.
func (p *page) isFull(rows int, size, cost int64) bool {
	fresh := len(p.rows) - p.held
	if p.at.NewRows == 0 || p.cost+cost > p.bound.bytes && len(p.rows) > 0 {
		return true
	}
	return fresh > 0 && (fresh+rows > p.at.NewRows || p.fresh+size > p.at.NewBytes)
}
