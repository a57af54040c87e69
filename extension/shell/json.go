package shell

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/kmodquery/kmodquery"
)

// newJSONWriter writes one object per line, as osqueryi does.
func newJSONWriter(w *bytes.Buffer, _ *style, columns []string) rowWriter {
	keys := make([]string, len(columns)) // as JSON strings
	taken := map[string]bool{}
	for i, column := range columns {
		key := column
		for n := 1; taken[key]; n++ {
			key = fmt.Sprintf("%s:%d", column, n)
		}
		taken[key] = true
		keys[i] = jsonString(key)
	}
	w.WriteString("[\n")
	rows := 0
	row := func(cells []cell) {
		if rows > 0 {
			w.WriteString(",\n")
		}
		rows++
		separator := "  {"
		for i, c := range cells {
			value := "null"
			if !c.null {
				value = jsonString(c.text)
			}
			w.WriteString(separator + keys[i] + ":" + value)
			separator = ","
		}
		w.WriteString("}")
	}
	return rowWriter{row: row, end: func() {
		if rows > 0 {
			w.WriteString("\n")
		}
		w.WriteString("]\n")
	}}
}

// jsonString returns a text as a JSON string. Unlike encoding/json, it escapes all
// characters that can control a terminal, and it writes a byte of invalid UTF-8 as the
// text \xNN instead of replacing it.
func jsonString(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\\x%02x`, text[0])
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r > 0xffff && kmodquery.IsUnsafe(r):
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		case kmodquery.IsUnsafe(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(text[:size])
		}
		text = text[size:]
	}
	b.WriteByte('"')
	return b.String()
}
