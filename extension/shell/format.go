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
	// Table is a box around all rows. On a terminal it is as wide as the terminal at
	// most: … marks the end of a cell that was cut, and rows of too many columns are
	// written as in Line. Elsewhere it is as wide as its cells. It holds all rows in
	// memory, and writes nothing if there are none or reading them fails.
	Table Format = "table"
	// JSON is an array with one object per row. Keys have the order of the columns. A
	// name that occurs again gets the suffix :1, :2 and so on. Values are strings, and
	// NULL is null. It holds all rows in memory.
	JSON Format = "json"
	// CSV is one line of names and one line per row (RFC 4180 with \n). NULL is empty.
	CSV Format = "csv"
	// Line is one line per value, "name = value", with an empty line between rows. On a
	// terminal a long value continues below itself, never at the beginning of a line.
	Line Format = "line"
)

const formatNames = "table, json, csv, line"

var formats = map[Format]func(w *bytes.Buffer, s *style, columns []string) rowWriter{
	Table: newTableWriter, JSON: newJSONWriter, CSV: newCSVWriter, Line: newLineWriter,
}

// ParseFormat returns the format of that name, or an error that lists the
// names. The name pretty, as osqueryi has it, is Table.
func ParseFormat(name string) (Format, error) {
	f := Format(strings.ToLower(name))
	if f == "pretty" {
		f = Table
	}
	if formats[f] != nil {
		return f, nil
	}
	return "", fmt.Errorf("unknown format %q; choose one of %s", name, formatNames)
}

// A style is a format with its settings.
type style struct {
	format    Format
	null      *string // stands for NULL in all formats but JSON; nil is the format's own
	noHeaders bool    // of tables and CSV
	screen    int     // columns of the terminal that shows the rows; 0 without one
	widths    []int   // of a table's columns; 0 and those that are missing are chosen
}

// nullText returns the text for NULL.
func (s *style) nullText() string {
	switch {
	case s.null != nil:
		return *s.null
	case s.format == CSV:
		return ""
	}
	return "NULL"
}
