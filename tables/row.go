package tables

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// rowidKey is the undeclared key of a row's identity. Without it osquery numbers the rows
// of each reply and takes rows of two replies with the same number for one row, so that
// an OR over two columns loses rows.
const rowidKey = "rowid"

// rowFunc returns a function that returns the cells of an item's row; no cell is NULL.
// Without columns it has no rowid either. The function is for one goroutine.
func rowFunc[T any](columns []columnOf[T]) func(item *T, rowid int64) map[string]string {
	// Most columns of an event are NULL: a map with room for all takes four times the memory.
	type cell struct{ column, text string }
	cells := make([]cell, 0, len(columns)+1)
	return func(item *T, rowid int64) map[string]string {
		cells = cells[:0]
		for i := range columns {
			if text, ok := columns[i].cell(item); ok {
				cells = append(cells, cell{columns[i].Name, text})
			}
		}
		if len(columns) > 0 {
			cells = append(cells, cell{rowidKey, strconv.FormatInt(rowid, 10)})
		}
		row := make(map[string]string, len(cells))
		for _, c := range cells {
			row[c.column] = c.text
		}
		return row
	}
}

// known returns a number, and nil for 0, which means unknown.
func known(n *int64) *int64 {
	if *n == 0 {
		return nil
	}
	return n
}

var zero, one int64 = 0, 1

// bit returns 1 or 0.
func bit(is bool) *int64 {
	if is {
		return &one
	}
	return &zero
}

// eventCell returns the cell of a column of an event.
func eventCell(column kmodquery.Column, e *kmodquery.Event) (string, bool) {
	if column.Number {
		n, isKnown := column.Int(e)
		return strconv.FormatInt(n, 10), isKnown
	}
	text, isKnown := column.Text(e)
	return kmodquery.ShownText(column.Name, text), isKnown
}

// object returns the known columns of an event as a JSON object, in their order and with
// text as in cells: those with these names, or all if names is nil.
func object(e *kmodquery.Event, names []string) string {
	var b strings.Builder
	separator := byte('{')
	for _, column := range kmodquery.EventColumns() {
		value, ok := eventCell(column, e)
		if !ok || names != nil && !slices.Contains(names, column.Name) {
			continue
		}
		if !column.Number {
			value = jsonText(value)
		}
		b.WriteByte(separator)
		separator = ','
		b.WriteString(strconv.Quote(column.Name) + ":" + value)
	}
	if separator == '{' {
		b.WriteByte(separator)
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
