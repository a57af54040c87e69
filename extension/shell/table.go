package shell

import (
	"bytes"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// newTableWriter draws the box that osqueryi draws.
func newTableWriter(w *bytes.Buffer, s *style, columns []string) rowWriter {
	var rows [][]cell
	return rowWriter{
		row: func(cells []cell) { rows = append(rows, append([]cell(nil), cells...)) },
		end: func() {
			if len(rows) == 0 {
				return
			}
			widths, ok := tableWidths(s, columns, rows)
			if !ok {
				lines := newLineWriter(w, s, columns)
				for _, row := range rows {
					lines.row(row)
				}
				return
			}
			rule := ""
			for _, width := range widths {
				rule += "+" + strings.Repeat("-", width+2)
			}
			rule += "+\n"
			line := func(cells []cell) {
				for i, c := range cells {
					w.WriteString("| " + fit(c.show(s), widths[i]) + " ")
				}
				w.WriteString("|\n")
			}
			w.WriteString(rule)
			if !s.noHeaders {
				line(textCells(columns))
				w.WriteString(rule)
			}
			for _, row := range rows {
				line(row)
			}
			w.WriteString(rule)
		},
	}
}

// tableWidths returns the widths of the columns. ok is false if they do not fit on the screen.
func tableWidths(s *style, columns []string, rows [][]cell) (widths []int, ok bool) {
	widths = make([]int, len(columns))
	if !s.noHeaders {
		for i, column := range columns {
			widths[i] = widthOf(kmodquery.Printable(column))
		}
	}
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], widthOf(c.show(s)))
		}
	}
	limit := s.screen - 3*len(columns) - 1
	var chosen []int // the columns whose widths the user did not set
	var wanted []int
	for i := range widths {
		if i < len(s.widths) && s.widths[i] > 0 {
			widths[i] = s.widths[i]
			limit -= widths[i]
			continue
		}
		chosen, wanted = append(chosen, i), append(wanted, widths[i])
	}
	if s.screen == 0 {
		return widths, true
	}
	shared, ok := share(wanted, limit)
	if !ok {
		return nil, false
	}
	for n, i := range chosen {
		widths[i] = shared[n]
	}
	return widths, true
}
