package shell

import (
	"bytes"
	"strings"

	"github.com/mattn/go-runewidth"

	"github.com/kmodquery/kmodquery"
)

type lineWriter struct {
	w     *bytes.Buffer
	names []string // padded to one width
	rows  int
}

func newLineWriter(w *bytes.Buffer, columns []string) *lineWriter {
	l := &lineWriter{w: w}
	width := 0
	for _, column := range columns {
		name := kmodquery.Printable(column)
		l.names = append(l.names, name)
		width = max(width, runewidth.StringWidth(name))
	}
	for i, name := range l.names {
		l.names[i] = strings.Repeat(" ", width-runewidth.StringWidth(name)) + name
	}
	return l
}

func (l *lineWriter) row(cells []cell) {
	if l.rows > 0 {
		l.w.WriteString("\n")
	}
	l.rows++
	for i, c := range cells {
		l.w.WriteString(l.names[i] + " = " + kmodquery.Printable(c.text) + "\n")
	}
}

func (l *lineWriter) end() {}
