package shell

import (
	"fmt"
	"slices"
	"strings"
)

// A Format is a way to write rows.
//
// Every value is written as text, as osqueryi does. No format lets a value act
// on a terminal: control and invisible formatting characters and bytes that
// are not UTF-8 are written as \xNN, byte by byte. JSON writes such characters
// as \uNNNN, so that it keeps them exactly, and only bytes that are not UTF-8
// as the text \xNN.
type Format string

// The formats.
const (
	// Table is a box drawn around all rows, as wide as they need: it holds
	// them in memory until the last one came, and writes nothing when there
	// are none or reading them fails. NULL is empty.
	Table Format = "table"
	// JSON is an array of one object a row, keys in the order of the columns;
	// a name that comes again gets :1, :2 and so on. Values are strings, NULL
	// is null.
	JSON Format = "json"
	// CSV is a line of names and one line a row (RFC 4180 with \n). NULL is
	// empty.
	CSV Format = "csv"
	// Line is one line a value, "name = value", and an empty line between
	// rows. NULL is empty.
	Line Format = "line"
)

var formats = []Format{Table, JSON, CSV, Line}

// ParseFormat returns the format of that name, or an error that lists the
// names.
func ParseFormat(name string) (Format, error) {
	if f := Format(strings.ToLower(name)); slices.Contains(formats, f) {
		return f, nil
	}
	return "", fmt.Errorf("unknown format %q; choose one of %s", name, formatNames())
}

func formatNames() string {
	names := make([]string, len(formats))
	for i, f := range formats {
		names[i] = string(f)
	}
	return strings.Join(names, ", ")
}
