package shell

import (
	"bytes"
	"encoding/csv"

	"github.com/kmodquery/kmodquery"
)

type csvWriter struct {
	w      *bytes.Buffer
	csv    *csv.Writer
	record []string
}

func newCSVWriter(w *bytes.Buffer, columns []string) *csvWriter {
	c := &csvWriter{w: w, csv: csv.NewWriter(w), record: make([]string, len(columns))}
	for i, column := range columns {
		c.record[i] = kmodquery.Printable(column)
	}
	c.write()
	return c
}

func (c *csvWriter) row(cells []cell) {
	for i, cell := range cells {
		c.record[i] = kmodquery.Printable(cell.text)
	}
	c.write()
}

func (c *csvWriter) end() {}

func (c *csvWriter) write() {
	if len(c.record) == 1 && c.record[0] == "" {
		// encoding/csv would write an empty line, which readers skip.
		c.w.WriteString("\"\"\n")
		return
	}
	// A buffer takes everything, and the comma is a valid separator.
	_ = c.csv.Write(c.record)
	c.csv.Flush()
}
