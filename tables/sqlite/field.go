package sqlite

import "fmt"

// A field is where one column of a row goes. It leaves the event's field as it
// is for a NULL.
type field struct {
	pointer any // as kmodquery.Column.Pointer gives it
}

// Scan implements sql.Scanner.
func (f *field) Scan(value any) error {
	switch value := value.(type) {
	case nil:
		return nil
	case int64:
		switch pointer := f.pointer.(type) {
		case *int64:
			*pointer = value
			return nil
		case **int64:
			*pointer = &value
			return nil
		}
	case string:
		switch pointer := f.pointer.(type) {
		case *string:
			*pointer = value
			return nil
		case **string:
			*pointer = &value
			return nil
		}
	}
	return fmt.Errorf("column holds a %T where the event has a %T", value, f.pointer)
}
