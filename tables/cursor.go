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
		"in the last 15 minutes, and then the next ones in the order of storage, at most 500. Empty otherwise", func(*T) any { return nil })
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
// as in a reader without a recorder, it returns the held rows only.
func collectCursor(ctx context.Context, c Config, name string, v view) ([]map[string]string, error) {
	query := kmodquery.NewCursorQuery(v.table, v.asked, v.filter.Conditions)
	for range cursorAttempts {
		at, err := c.Cursors.Cursor(ctx, name, query)
		if err != nil {
			return nil, err
		}
		page := page{at: at, bound: c.bound(), to: at.Last}
		err = c.Store.EventsBetween(ctx, at.After, at.Last, v.filter, func(e *kmodquery.Event) error {
			rows := v.rows(e)
			for _, row := range rows {
				row[cursorName] = name
			}
			return page.add(e.EID, rows)
		})
		if err != nil && !errors.Is(err, errFull) {
			return nil, err
		}
		if page.to == at.Position {
			return page.rows, nil
		}
		moved, err := c.Cursors.Advance(ctx, at, page.to, len(page.rows)-page.held)
		if err != nil {
			return page.rows[:page.held], nil //nolint:nilerr // the rows are given again; the sensors say what is wrong with the store
		}
		if moved {
			return page.rows, nil
		}
	}
	return nil, fmt.Errorf("cursor %s is asked by several queries at once; ask again", name)
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

// add adds the rows of an event. It returns errFull if they do not fit.
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
	default:
		p.held += len(rows)
	}
	p.cost += cost
	p.rows = append(p.rows, rows...)
	return nil
}

// isFull reports whether new rows exceed a bound. The first ones never exceed those of
// the cursor, so that it does not stand still.
func (p *page) isFull(rows int, size, cost int64) bool {
	fresh := len(p.rows) - p.held
	if p.at.NewRows == 0 || p.cost+cost > p.bound.bytes && len(p.rows) > 0 {
		return true
	}
	return fresh > 0 && (fresh+rows > p.at.NewRows || p.fresh+size > p.at.NewBytes)
}
