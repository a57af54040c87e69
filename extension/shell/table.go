package shell

import (
	"bytes"
	"strings"

	"github.com/mattn/go-runewidth"

	"github.com/kmodquery/kmodquery"
)

// newTableWriter draws the box that osqueryi draws.
func newTableWriter(w *bytes.Buffer, columns []string) rowWriter {
	widths := make([]int, len(columns))
	var lines [][]string // the first holds the names
	row := func(cells []cell) {
		line := make([]string, len(cells))
		for i, c := range cells {
			line[i] = kmodquery.Printable(c.text)
			widths[i] = max(widths[i], runewidth.StringWidth(line[i]))
		}
		lines = append(lines, line)
	}
	row(textCells(columns))
	return rowWriter{row: row, end: func() {
		if len(lines) == 1 {
			return
		}
		rule := ""
		for _, width := range widths {
			rule += "+" + strings.Repeat("-", width+2)
		}
		rule += "+\n"
		w.WriteString(rule)
		for i, line := range lines {
			for n, text := range line {
				w.WriteString("| " + text + strings.Repeat(" ", widths[n]-runewidth.StringWidth(text)+1))
			}
			w.WriteString("|\n")
			if i == 0 {
				w.WriteString(rule)
			}
		}
		w.WriteString(rule)
	}}
}
