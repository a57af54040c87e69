package shell

import (
	"bytes"
	"fmt"
	"strings"
)

// A Format is a way to write rows.
//
// Every value is written as text, as in osqueryi. No format lets a value control a
// terminal: each byte of a control character, of an invisible formatting character and of
// invalid UTF-8 is written as \xNN. JSON writes such characters as \uNNNN, which keeps
// them exactly, and only invalid UTF-8 as the text \xNN.
type Format string

// The formats.
const (
	// Table is a box around all rows, as wide as they need. It holds all rows in
	// memory, and writes nothing if there are none or reading them fails. NULL is
	// empty.
	Table Format = "table"
	// JSON is an array with one object per row. Keys have the order of the columns. A
	// name that occurs again gets the suffix :1, :2 and so on. Values are strings, and
	// NULL is null.
	JSON Format = "json"
	// CSV is one line of names and one line per row (RFC 4180 with \n). NULL is empty.
	CSV Format = "csv"
	// Line is one line per value, "name = value", with an empty line between rows.
	// NULL is empty.
	Line Format = "line"
)

const formatNames = "table, json, csv, line"

var formats = map[Format]func(w *bytes.Buffer, columns []string) rowWriter{
	Table: newTableWriter, JSON: newJSONWriter, CSV: newCSVWriter, Line: newLineWriter,
}

// ParseFormat returns the format of that name, or an error that lists the
// names.
func ParseFormat(name string) (Format, error) {
	if f := Format(strings.ToLower(name)); formats[f] != nil {
		return f, nil
	}
	return "", fmt.Errorf("unknown format %q; choose one of %s", name, formatNames)
}
