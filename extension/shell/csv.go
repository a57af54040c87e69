package shell

import (
	"bytes"
	"encoding/csv"
)

func newCSVWriter(w *bytes.Buffer, s *style, columns []string) rowWriter {
	out := csv.NewWriter(w)
	record := make([]string, len(columns))
	row := func(cells []cell) {
		for i, c := range cells {
			record[i] = c.show(s)
		}
		if len(record) == 1 && record[0] == "" {
			// encoding/csv would write an empty line, which readers skip.
			w.WriteString("\"\"\n")
			return
		}
		// A buffer takes everything, and the comma is a valid separator.
		_ = out.Write(record)
		out.Flush()
	}
	if !s.noHeaders {
		row(textCells(columns))
	}
	return rowWriter{row: row, end: func() {}}
}
