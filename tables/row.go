package tables

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"

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
		row[key] = cell(value)
	}
}

// cell makes bytes that the host controls fit for JSON and for a terminal.
// Each byte that is a control character or no UTF-8 becomes \xNN, with NN in
// lower case; a backslash becomes \x5c where it would otherwise read as the
// start of such an escape. So every cell stands for one sequence of bytes
// only, and what the host wrote can be had back.
func cell(text string) string {
	start := firstUnsafe(text)
	if start == len(text) {
		return text
	}
	var b strings.Builder
	b.WriteString(text[:start])
	for i := start; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if unsafe(r, size) || r == '\\' && readsAsEscape(text[i:]) {
			for _, c := range []byte(text[i : i+size]) {
				b.WriteString(`\x`)
				b.WriteByte(hexDigits[c>>4])
				b.WriteByte(hexDigits[c&0xf])
			}
		} else {
			b.WriteString(text[i : i+size])
		}
		i += size
	}
	return b.String()
}

const hexDigits = "0123456789abcdef"

func firstUnsafe(text string) int {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if unsafe(r, size) || r == '\\' {
			return i
		}
		i += size
	}
	return len(text)
}

// unsafe reports whether a rune is a control character, ASCII's or the others'
// of Latin-1, or a byte that is no UTF-8.
func unsafe(r rune, size int) bool {
	return r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError && size == 1
}

// readsAsEscape reports whether text starts with what cell could have written
// for a byte.
func readsAsEscape(text string) bool {
	if len(text) < 4 || text[1] != 'x' {
		return false
	}
	high, low := strings.IndexByte(hexDigits, text[2]), strings.IndexByte(hexDigits, text[3])
	if high < 0 || low < 0 {
		return false
	}
	c := byte(high<<4 | low)
	return c < ' ' || c >= 0x7f || c == '\\'
}

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
			value = cell(text)
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
