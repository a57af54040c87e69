package shell

import (
	"bytes"
	"strings"

	"github.com/mattn/go-runewidth"

	"github.com/kmodquery/kmodquery"
)

// tableWriter draws the box that osqueryi draws.
type tableWriter struct {
	w      *bytes.Buffer
	widths []int
	lines  [][]string // the first holds the names
}

func newTableWriter(w *bytes.Buffer, columns []string) *tableWriter {
	t := &tableWriter{w: w, widths: make([]int, len(columns))}
	names := make([]cell, len(columns))
	for i, column := range columns {
		names[i] = cell{text: column}
	}
	t.row(names)
	return t
}

func (t *tableWriter) row(cells []cell) {
	line := make([]string, len(cells))
	for i, c := range cells {
		line[i] = kmodquery.Printable(c.text)
		t.widths[i] = max(t.widths[i], runewidth.StringWidth(line[i]))
	}
	t.lines = append(t.lines, line)
}

func (t *tableWriter) end() {
	if len(t.lines) == 1 {
		return
	}
	t.rule()
	for i, line := range t.lines {
		for n, text := range line {
			t.w.WriteString("| " + text + strings.Repeat(" ", t.widths[n]-runewidth.StringWidth(text)+1))
		}
		t.w.WriteString("|\n")
		if i == 0 {
			t.rule()
		}
	}
	t.rule()
}

func (t *tableWriter) rule() {
	for _, width := range t.widths {
		t.w.WriteString("+" + strings.Repeat("-", width+2))
	}
	t.w.WriteString("+\n")
}
