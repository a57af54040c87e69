package tables

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/kmodquery/kmodquery"
)

// rowidKey is the undeclared key of a row's identity. Without it osquery numbers the rows
// of each reply and takes rows of two replies with the same number for one row, so that
// an OR over two columns loses rows.
const rowidKey = "rowid"

// put sets a cell to the column's value in e. It sets no cell for an unknown value, which
// osquery shows as NULL.
func put(row map[string]string, key string, column kmodquery.Column, e *kmodquery.Event) {
	switch value := column.Value(e).(type) {
	case int64:
		row[key] = strconv.FormatInt(value, 10)
	case string:
		row[key] = cell(column.Name, value)
	}
}

// cell returns a text of an event as a column of that name shows it.
func cell(column, text string) string {
	// Sources escape the strings in their JSON. Text that is not printable is not their
	// JSON.
	if isJSON(column) && kmodquery.Printable(text) == text {
		return text
	}
	return kmodquery.Escape(text)
}

// isJSON reports whether a column of an event holds JSON.
func isJSON(column string) bool { return column == "ancestors" || column == "requested_by" }

// object returns the known columns of an event as a JSON object, in their order and with
// text as in cells.
func object(e *kmodquery.Event) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	separator := byte('{')
	for _, column := range kmodquery.EventColumns() {
		value := column.Value(e)
		if value == nil {
			continue
		}
		if text, ok := value.(string); ok {
			value = cell(column.Name, text)
		}
		b.WriteByte(separator)
		separator = ','
		b.WriteString(strconv.Quote(column.Name))
		b.WriteByte(':')
		if err := encoder.Encode(value); err != nil {
			panic(err) // a string or an int64 always has a JSON form
		}
		b.Truncate(b.Len() - 1) // the encoder ends each value with a newline
	}
	b.WriteByte('}')
	return b.String()
}
