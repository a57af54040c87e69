package sqlite

import (
	"slices"

	"github.com/kmodquery/kmodquery"
)

// A row is one row of events as it is read, column by column, and the event that
// it becomes.
type row struct {
	columns  []kmodquery.Column
	wanted   []bool // of the columns; the others are only summed up
	values   []any
	sums     any
	pointers []any // to scan into: those of the values and of the sums
	summer   *summer
	current  kmodquery.Event
	fields   []any // the current event's, as kmodquery.Column.Pointer gives them
}

// newRow returns a row of columns of which names are wanted; all where it is nil.
func newRow(columns []kmodquery.Column, names []string) *row {
	r := &row{columns: columns, values: make([]any, len(columns)), summer: newSummer(columns)}
	for i, column := range columns {
		r.wanted = append(r.wanted, names == nil || groupOf(column.Name) == headGroup || slices.Contains(names, column.Name))
		r.pointers = append(r.pointers, &r.values[i])
		r.fields = append(r.fields, column.Pointer(&r.current))
	}
	r.pointers = append(r.pointers, &r.sums)
	return r
}

// event returns the event that was scanned, the same memory each time; ok is
// false where it is not what was written. The events up to unsummed have no sums.
func (r *row) event(unsummed int64) (event *kmodquery.Event, ok bool) {
	eid, ok := r.values[r.summer.eid].(int64)
	if !ok {
		return nil, false
	}
	if sums, is := r.sums.([]byte); is {
		if !r.summer.holds(r.values, sums) {
			return nil, false
		}
	} else if r.sums != nil || eid > unsummed {
		return nil, false
	}
	r.current = kmodquery.Event{}
	for i := range r.columns {
		if r.wanted[i] && !assign(r.fields[i], r.values[i]) {
			return nil, false
		}
	}
	return &r.current, true
}

// assign puts a value into an event's field, which it leaves as it is for a NULL.
func assign(field, value any) bool {
	switch value := value.(type) {
	case nil:
		return true
	case int64:
		switch field := field.(type) {
		case *int64:
			*field = value
			return true
		case **int64:
			*field = &value
			return true
		}
	case string:
		switch field := field.(type) {
		case *string:
			*field = value
			return true
		case **string:
			*field = &value
			return true
		}
	}
	return false
}
