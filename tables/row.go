package tables

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// rowidKey is the undeclared key of a row's identity. Without it osquery numbers the rows
// of each reply and takes rows of two replies with the same number for one row, so that
// an OR over two columns loses rows.
const rowidKey = "rowid"

// row returns the cells of an item's row; no cell is NULL. Without columns it has no
// rowid either.
func row[T any](columns []columnOf[T], item *T, rowid int64) map[string]string {
	cells := make(map[string]string, len(columns)+1)
	for _, column := range columns {
		switch value := column.value(item).(type) {
		case int64:
			cells[column.Name] = strconv.FormatInt(value, 10)
		case *int64:
			if value != nil {
				cells[column.Name] = strconv.FormatInt(*value, 10)
			}
		case string:
			cells[column.Name] = value
		}
	}
	if len(columns) > 0 {
		cells[rowidKey] = strconv.FormatInt(rowid, 10)
	}
	return cells
}

// known returns a value, and nil for the zero value, which means unknown.
func known[V comparable](value V) any {
	if value == *new(V) {
		return nil
	}
	return value
}

// escaped returns a text of the host as its cell shows it.
func escaped(text string) any { return known(kmodquery.Escape(text)) }

// printable returns a text of this program, in which the host's text is escaped already.
func printable(text string) any { return known(kmodquery.Printable(text)) }

// shown returns the column's value in e as its cell shows it.
func shown(column kmodquery.Column, e *kmodquery.Event) any {
	value := column.Value(e)
	if text, ok := value.(string); ok {
		return cell(column.Name, text)
	}
	return value
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
	var b strings.Builder
	separator := byte('{')
	for _, column := range kmodquery.EventColumns() {
		if value := shown(column, e); value != nil {
			b.WriteByte(separator)
			separator = ','
			b.WriteString(strconv.Quote(column.Name) + ":" + jsonText(value))
		}
	}
	b.WriteByte('}')
	return b.String()
}

// jsonText returns the JSON of a value that has one. It escapes no HTML.
func jsonText(value any) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
