package kmodquery

import (
	"reflect"
	"strings"
)

// A Column is one field of an [Event] in the event store and in the tables.
type Column struct {
	Name   string
	Number bool // a 64-bit integer; otherwise text
	field  int
}

var eventColumns = func() []Column {
	event := reflect.TypeFor[Event]()
	columns := make([]Column, event.NumField())
	for i := range columns {
		field := event.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		kind := field.Type
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		columns[i] = Column{Name: name, Number: kind.Kind() == reflect.Int64, field: i}
	}
	return columns
}()

// EventColumns returns the columns of an [Event] in the order of its fields.
// The slice is shared and must not be changed.
func EventColumns() []Column { return eventColumns }

// EventColumn returns the column of a name.
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
	pointer := reflect.ValueOf(e).Elem().Field(c.field).Addr()
	if pointer.Type() == reflect.TypeFor[*Columns]() {
		pointer = pointer.Convert(reflect.TypeFor[*string]())
	}
	return pointer.Interface()
}

// Value returns the column's value in e: an int64, a string, or nil if the fact is
// unknown.
func (c Column) Value(e *Event) any {
	field, isKnown := c.known(e)
	switch {
	case !isKnown:
		return nil
	case c.Number:
		return field.Int()
	}
	return field.String()
}

// Int returns the value of a column of numbers, and false if it is unknown.
func (c Column) Int(e *Event) (n int64, isKnown bool) {
	field, isKnown := c.known(e)
	if isKnown {
		n = field.Int()
	}
	return n, isKnown
}

// Text returns the value of a column of text, and false if it is unknown.
func (c Column) Text(e *Event) (text string, isKnown bool) {
	field, isKnown := c.known(e)
	if isKnown {
		text = field.String() // also a Columns
	}
	return text, isKnown
}

// copy copies the column's value, which is then shared.
func (c Column) copy(to, from *Event) {
	reflect.ValueOf(to).Elem().Field(c.field).Set(reflect.ValueOf(from).Elem().Field(c.field))
}

func (c Column) known(e *Event) (field reflect.Value, isKnown bool) {
	field = reflect.ValueOf(e).Elem().Field(c.field)
	switch field.Kind() {
	case reflect.Pointer:
		return field.Elem(), !field.IsNil()
	case reflect.String:
		return field, field.Len() > 0
	}
	return field, true
}

// Lacks reports whether a column of e has no value. An event lacks no column that
// does not exist.
func (e *Event) Lacks(column string) bool {
	c, ok := EventColumn(column)
	return ok && c.Value(e) == nil
}

// UnprivilegedColumn is the name of the column that a [Condition] compares with 1 for
// events that an unprivileged user can cause, and with 0 for all others (see
// [Event.IsUnprivileged]). It is no field of an event.
const UnprivilegedColumn = "unprivileged"

// unprivilegedNeeds are the columns that IsUnprivileged depends on.
var unprivilegedNeeds = []string{"event_name", "error", "sha256", "missing"}

// UnprivilegedNeeds returns the columns that an event must have for
// [Event.IsUnprivileged]. The slice is shared and must not be changed.
func UnprivilegedNeeds() []string { return unprivilegedNeeds }
