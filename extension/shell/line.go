package shell

import (
	"bytes"
	"strings"

	"github.com/kmodquery/kmodquery"
)

func newLineWriter(w *bytes.Buffer, s *style, columns []string) rowWriter {
	names := make([]string, len(columns)) // padded to one width
	width := 0
	for i, column := range columns {
		names[i] = kmodquery.Printable(column)
		width = max(width, widthOf(names[i]))
	}
	for i, name := range names {
		names[i] = strings.Repeat(" ", width-widthOf(name)) + name
	}
	limit := noLimit
	if s.screen > 0 {
		limit = max(minCell, s.screen-width-len(" = "))
	}
	next := "\n" + strings.Repeat(" ", width+len(" = "))
	separator := ""
	row := func(cells []cell) {
		w.WriteString(separator)
		separator = "\n"
		for i, c := range cells {
			w.WriteString(names[i] + " = ")
			text := c.show(s)
			for {
				length, _ := measure(text, limit)
				w.WriteString(text[:length])
				if text = text[length:]; text == "" {
					break
				}
				w.WriteString(next)
			}
			w.WriteString("\n")
		}
	}
	return rowWriter{row: row, end: func() {}}
}
