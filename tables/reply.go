package tables

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/kmodquery/kmodquery"
)

// What a reply costs. On osquery's socket a cell has two length prefixes besides its key
// and value. osquery's worker holds a cell several times, in maps: about 600 bytes
// whatever it contains, and a row without cells about 350 (measured on osqueryd 5.23.1).
const (
	cellOverhead = 8
	workerCell   = 600
	workerCopies = 4 // of a cell's text
	workerRow    = 350
)

// A replyBound is the most that a reply may cost.
type replyBound struct {
	bytes    int64
	isWorker bool // bytes of osquery's worker, not of the reply
}

func (c Config) bound() replyBound {
	if c.Worker != nil {
		if bytes := c.Worker(); bytes > 0 {
			return replyBound{bytes, true}
		}
	}
	return replyBound{bytes: c.ReplyBytes}
}

// cost returns the bytes that rows cost.
func (b replyBound) cost(rows []map[string]string) (bytes int64) {
	for _, row := range rows {
		for key, value := range row {
			if b.isWorker {
				bytes += workerCell + workerCopies*int64(len(value))
			} else {
				bytes += int64(len(key)) + int64(len(value)) + cellOverhead
			}
		}
		if b.isWorker {
			bytes += workerRow
		}
	}
	return bytes
}

func (b replyBound) String() string {
	size := fmt.Sprintf("%d bytes", b.bytes)
	if b.bytes%(1<<20) == 0 {
		size = fmt.Sprintf("%d MiB", b.bytes>>20)
	}
	if b.isWorker {
		return size + " of osquery's worker, which its watchdog bounds"
	}
	return size
}

// A view selects the events that a table reads and turns them into rows.
type view struct {
	table  string
	asked  []kmodquery.Condition // the conditions of the query
	filter kmodquery.Filter      // of the events
	// rows returns the rows of one event.
	rows func(*kmodquery.Event) []map[string]string
	// count returns the number of rows of one event. It needs countColumns only.
	count        func(*kmodquery.Event) int
	countColumns []string
}

// errFull stops the reading of events at the bound of the reply.
var errFull = errors.New("reply is full")

// A reply is the rows that fit into the bound, and their events, newest first.
type reply struct {
	rows   []map[string]string
	events []collected
}

type collected struct {
	eid, time int64
	rows      int
}

// collect returns the rows of a query: with a cursor those that it gives, otherwise all
// rows. If all exceed the bound of the reply, it returns an error that says, in one line,
// how many rows there would be and what to ask for instead.
func collect(ctx context.Context, c Config, q query, v view) ([]map[string]string, error) {
	if name := q.cursor(); name != "" {
		return collectCursor(ctx, c, name, v)
	}
	return collectAll(ctx, c.Store, c.bound(), v)
}

func collectAll(ctx context.Context, store Store, bound replyBound, v view) ([]map[string]string, error) {
	var r reply
	var bytes, full int64 // full is the EID of the first event that did not fit
	err := store.Events(ctx, v.filter, func(e *kmodquery.Event) error {
		rows := v.rows(e)
		if bytes += bound.cost(rows); bytes > bound.bytes {
			full = e.EID
			return errFull
		}
		r.rows = append(r.rows, rows...)
		if len(rows) > 0 {
			r.events = append(r.events, collected{e.EID, e.Time, len(rows)})
		}
		return nil
	})
	if errors.Is(err, errFull) {
		return nil, r.tooLarge(ctx, store, bound, v, full)
	}
	return r.rows, err
}

// tooLarge returns the error of a reply into which the event full did not fit. Its window
// of time excludes every event that was not collected. Those are not always the oldest,
// because the clock may have been set.
func (r *reply) tooLarge(ctx context.Context, store Store, bound replyBound, v view, full int64) error {
	rest := kmodquery.Condition{Column: "eid", Op: kmodquery.LessOrEqual, Values: []any{full}}
	filter := kmodquery.Filter{Conditions: append(slices.Clone(v.filter.Conditions), rest), Columns: v.countColumns}
	total, latest := len(r.rows), int64(math.MinInt64)
	err := store.Events(ctx, filter, func(e *kmodquery.Event) error {
		if n := v.count(e); n > 0 {
			total, latest = total+n, max(latest, e.Time)
		}
		return nil
	})
	if err != nil {
		return err
	}
	fit := 0
	for _, event := range r.events {
		if event.time > latest {
			fit += event.rows
		}
	}
	would := fmt.Sprintf("reply would be %d rows, more than %s", total, bound)
	switch {
	case fit > 0:
		return fmt.Errorf("%s: the newest %d fit; ask for them with time >= %d, or select fewer columns", would, fit, latest+1)
	case len(r.events) > 0:
		return fmt.Errorf("%s: the newest %d fit, but no whole second; ask for them with eid >= %d, or select fewer columns",
			would, len(r.rows), r.events[len(r.events)-1].eid)
	default:
		return fmt.Errorf("%s: not even the newest fits; select fewer columns", would)
	}
}

// counted returns n rows without cells, for a query that only counts rows.
func counted(c Config, n int64) ([]map[string]string, error) {
	if bound := c.bound(); bound.isWorker && n > bound.bytes/workerRow {
		return nil, fmt.Errorf("reply would be %d rows, more than %s: ask for a window of time", n, bound)
	}
	row := map[string]string{}
	rows := make([]map[string]string, n)
	for i := range rows {
		rows[i] = row
	}
	return rows, nil
}
