package record

import (
	"encoding/hex"
	"strconv"
	"strings"
)

// Fields are a record's fields in their order.
type Fields []field

// A field is a name and what follows its equals sign.
type field struct {
	Name   string
	Value  string // without its quotes
	Quoted bool
}

// maxFields bounds the fields of a record. An EXECVE record, which has the most,
// has four bytes or more for each of its arguments.
const maxFields = maxRecord / 4

// parseFields reads "name=value name="value"". The kernel writes no quote and no
// blank inside a value that a user chooses.
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
		if body[end] == ' ' { // a word, no field
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

// get is the first field of a name: later ones stand behind values that users
// choose.
func (f Fields) get(name string) (field, bool) {
	for _, field := range f {
		if field.Name == name {
			return field, true
		}
	}
	return field{}, false
}

// Text is a text that a user chose, as it was. It is not ok where the record
// says that there is none, and where there is no such field.
func (f Fields) Text(name string) (text string, ok bool) {
	field, ok := f.get(name)
	if !ok {
		return "", false
	}
	return field.text()
}

func (f field) text() (string, bool) {
	if f.Quoted {
		return f.Value, true
	}
	decoded, err := hex.DecodeString(f.Value)
	if err != nil || f.Value == "" {
		return "", false // (null), (none), ?
	}
	return string(decoded), true
}

// Word is a text that the kernel chose.
func (f Fields) Word(name string) string {
	field, _ := f.get(name)
	return field.Value
}

// Int is a decimal number.
func (f Fields) Int(name string) (int64, bool) {
	field, ok := f.get(name)
	if !ok || field.Quoted {
		return 0, false
	}
	n, err := strconv.ParseInt(field.Value, 10, 64)
	return n, err == nil
}

// Hex is a number in hexadecimal digits, as system calls' arguments are.
func (f Fields) Hex(name string) (uint64, bool) {
	field, ok := f.get(name)
	if !ok || field.Quoted {
		return 0, false
	}
	n, err := strconv.ParseUint(field.Value, 16, 64)
	return n, err == nil
}
