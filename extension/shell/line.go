package shell

import (
	"bytes"
	"strings"

	"github.com/mattn/go-runewidth"

	"github.com/kmodquery/kmodquery"
)

func newLineWriter(w *bytes.Buffer, columns []string) rowWriter {
	names := make([]string, len(columns)) // padded to one width
	width := 0
	for i, column := range columns {
		names[i] = kmodquery.Printable(column)
		width = max(width, runewidth.StringWidth(names[i]))
	}
	for i, name := range names {
		names[i] = strings.Repeat(" ", width-runewidth.StringWidth(name)) + name
	}
	separator := ""
	row := func(cells []cell) {
		w.WriteString(separator)
		separator = "\n"
		for i, c := range cells {
			w.WriteString(names[i] + " = " + kmodquery.Printable(c.text) + "\n")
		}
	}
	return rowWriter{row: row, end: func() {}}
}
