package shell

import (
	"bytes"
	"strings"

	"github.com/mattn/go-runewidth"
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
		name := printable(column)
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
		l.w.WriteString(l.names[i] + " = " + printable(c.text) + "\n")
	}
}

func (l *lineWriter) end() {}
