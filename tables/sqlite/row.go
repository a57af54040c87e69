package sqlite

import (
	"slices"

	"github.com/kmodquery/kmodquery"
)

// A row is one row of the table events as it is read, and the event that it becomes.
type row struct {
	values   []any
	sums     any
	pointers []any // scan destinations: the values and the checksums
	checksum *checksummer
	current  kmodquery.Event
	fields   []any // of current; nil for the columns that are read for their checksums only
}

// newRow returns a row of columns of which names are wanted; nil wants all.
func newRow(columns []kmodquery.Column, names []string) *row {
	r := &row{values: make([]any, len(columns)), fields: make([]any, len(columns)), checksum: newChecksummer(columns, nil)}
	for i, column := range columns {
		if names == nil || groupOf(column.Name) == keyGroup || slices.Contains(names, column.Name) {
			r.fields[i] = column.Pointer(&r.current)
		}
		r.pointers = append(r.pointers, &r.values[i])
	}
	r.pointers = append(r.pointers, &r.sums)
	return r
}

// event returns the scanned event. The next call overwrites it. ok is false if the row
// does not match its checksums. Only events with an EID up to unsummed may lack checksums.
func (r *row) event(unsummed int64) (event *kmodquery.Event, ok bool) {
	eid, ok := r.values[r.checksum.eid].(int64)
	if !ok {
		return nil, false
	}
	if sums, is := r.sums.([]byte); is {
		if !r.checksum.matches(r.values, sums) {
			return nil, false
		}
	} else if r.sums != nil || eid > unsummed {
		return nil, false
	}
	r.current = kmodquery.Event{}
	for i, field := range r.fields {
		if field != nil && !assign(field, r.values[i]) {
			return nil, false
		}
	}
	return &r.current, true
}

// assign stores a value in an event's field. NULL leaves the field unchanged.
func assign(field, value any) bool {
	switch value := value.(type) {
	case int64:
		return set(field, value)
	case string:
		return set(field, value)
	}
	return value == nil
}

func set[V any](field any, value V) bool {
	switch field := field.(type) {
	case *V:
		*field = value
	case **V:
		*field = &value
	default:
		return false
	}
	return true
}
