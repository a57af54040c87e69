package tables

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/kmodquery/kmodquery"
)

// rowidKey is the undeclared key that gives a row its identity. Without it
// osquery numbers the rows of each reply, takes rows of two replies with one
// number for the same row, and an OR over two columns loses rows.
const rowidKey = "rowid"

// put sets a cell to what a column holds in e. An unknown fact has no cell,
// which osquery shows as NULL.
func put(row map[string]string, key string, column kmodquery.Column, e *kmodquery.Event) {
	switch value := column.Value(e).(type) {
	case int64:
		row[key] = strconv.FormatInt(value, 10)
	case string:
		row[key] = cell(column.Name, value)
	}
}

// cell is a text of an event as a column of that name shows it.
func cell(column, text string) string {
	// What a source put into JSON it has escaped: a second escape would garble
	// it. Anything else is no JSON that it made.
	if isJSON(column) && kmodquery.Printable(text) == text {
		return text
	}
	return kmodquery.Escape(text)
}

// isJSON reports whether a column of an event holds JSON.
func isJSON(column string) bool { return column == "ancestors" || column == "requested_by" }

// object writes what is known of an event as one JSON object, with the names
// and the order of the columns and text as in cells.
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
