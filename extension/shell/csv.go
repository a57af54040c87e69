package shell

import (
	"bytes"
	"encoding/csv"

	"github.com/kmodquery/kmodquery"
)

func newCSVWriter(w *bytes.Buffer, columns []string) rowWriter {
	out := csv.NewWriter(w)
	record := make([]string, len(columns))
	row := func(cells []cell) {
		for i, c := range cells {
			record[i] = kmodquery.Printable(c.text)
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
	row(textCells(columns))
	return rowWriter{row: row, end: func() {}}
}
