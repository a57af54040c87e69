package shell

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/kmodquery/kmodquery"
)

// jsonWriter writes one object per line, as osqueryi does.
type jsonWriter struct {
	w    *bytes.Buffer
	keys []string // as JSON strings
	rows int
}

func newJSONWriter(w *bytes.Buffer, columns []string) *jsonWriter {
	j := &jsonWriter{w: w}
	taken := map[string]bool{}
	for _, column := range columns {
		key := column
		for n := 1; taken[key]; n++ {
			key = fmt.Sprintf("%s:%d", column, n)
		}
		taken[key] = true
		j.keys = append(j.keys, jsonString(key))
	}
	w.WriteString("[\n")
	return j
}

func (j *jsonWriter) row(cells []cell) {
	if j.rows > 0 {
		j.w.WriteString(",\n")
	}
	j.rows++
	j.w.WriteString("  {")
	for i, c := range cells {
		if i > 0 {
			j.w.WriteString(",")
		}
		j.w.WriteString(j.keys[i] + ":")
		if c.null {
			j.w.WriteString("null")
		} else {
			j.w.WriteString(jsonString(c.text))
		}
	}
	j.w.WriteString("}")
}

func (j *jsonWriter) end() {
	if j.rows > 0 {
		j.w.WriteString("\n")
	}
	j.w.WriteString("]\n")
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
