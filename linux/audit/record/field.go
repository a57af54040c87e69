package record

import (
	"encoding/hex"
	"strconv"
	"strings"
)

// Fields are a record's fields in order.
type Fields []field

// A field is a name and the value after its equals sign.
type field struct {
	Name   string
	Value  string // without its quotes
	Quoted bool
}

// maxFields bounds the fields of a record. An EXECVE record, which has the most,
// has four bytes or more for each of its arguments.
const maxFields = maxRecord / 4

// parseFields parses "name=value name="value"". The kernel writes no quotes and no blanks
// inside a value that a user chooses.
func parseFields(body string) Fields {
	var fields Fields
	for len(fields) < maxFields {
		body = strings.TrimLeft(body, " ")
		if body == "" {
			break
		}
		end := strings.IndexAny(body, "= ")
		if end < 0 {
			break
		}
		if body[end] == ' ' { // a word without a value
			body = body[end:]
			continue
		}
		field := field{Name: body[:end]}
		body = body[end+1:]
		if text, ok := strings.CutPrefix(body, `"`); ok {
			field.Quoted = true
			field.Value, body, _ = strings.Cut(text, `"`)
		} else {
			field.Value, body, _ = strings.Cut(body, " ")
		}
		fields = append(fields, field)
	}
	return fields
}

// get returns the first field of a name, or the zero field. Only the first is trusted: a
// later field of that name comes after a value that a user chose.
func (f Fields) get(name string) field {
	for _, field := range f {
		if field.Name == name {
			return field
		}
	}
	return field{}
}

// Text returns a text that a user chose, decoded. ok is false if there is no such field
// or if the record says that there is no text.
func (f Fields) Text(name string) (text string, ok bool) {
	field := f.get(name)
	if field.Quoted {
		return field.Value, true
	}
	decoded, err := hex.DecodeString(field.Value)
	if err != nil || field.Value == "" {
		return "", false // (null), (none), ?
	}
	return string(decoded), true
}

// Word returns a text that the kernel chose, or "".
func (f Fields) Word(name string) string { return f.get(name).Value }

// Int returns a decimal number.
func (f Fields) Int(name string) (int64, bool) {
	field := f.get(name)
	n, err := strconv.ParseInt(field.Value, 10, 64)
	return n, err == nil && !field.Quoted
}

// Hex returns a hexadecimal number, such as a system call's argument.
func (f Fields) Hex(name string) (uint64, bool) {
	field := f.get(name)
	n, err := strconv.ParseUint(field.Value, 16, 64)
	return n, err == nil && !field.Quoted
}
