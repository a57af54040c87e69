package kmodquery

import (
	"reflect"
	"strings"
)

// A Column is one field of an [Event] as the event store and the tables see
// it.
type Column struct {
	Name   string
	Number bool // a 64-bit integer; otherwise text
	field  int
}

var eventColumns = func() []Column {
	event := reflect.TypeFor[Event]()
	var columns []Column
	for i := range event.NumField() {
		name, _, _ := strings.Cut(event.Field(i).Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		kind := event.Field(i).Type
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		columns = append(columns, Column{Name: name, Number: kind.Kind() == reflect.Int64, field: i})
	}
	return columns
}()

// EventColumns returns the columns of an [Event] in the order of its fields.
// The slice is shared and must not be changed.
func EventColumns() []Column { return eventColumns }

// EventColumn finds a column by its name.
func EventColumn(name string) (Column, bool) {
	for _, c := range eventColumns {
		if c.Name == name {
			return c, true
		}
	}
	return Column{}, false
}

// Pointer returns the address of the column's field in e: a *int64, **int64,
// *string or **string.
func (c Column) Pointer(e *Event) any {
	return reflect.ValueOf(e).Elem().Field(c.field).Addr().Interface()
}

// Value returns what the column holds in e: an int64, a string, or nil where
// the fact is unknown.
func (c Column) Value(e *Event) any {
	field := reflect.ValueOf(e).Elem().Field(c.field)
	if field.Kind() == reflect.Pointer {
		if field.IsNil() {
			return nil
		}
		field = field.Elem()
	} else if field.Kind() == reflect.String && field.Len() == 0 {
		return nil
	}
	return field.Interface()
}

// Lacks reports whether column names a column that has no value in e.
func (e *Event) Lacks(column string) bool {
	c, ok := EventColumn(column)
	return ok && c.Value(e) == nil
}
