package main

import (
	"io"
	"log"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// newReport returns the logger of what users are to know, one line each. What
// the host chose of it acts on no terminal and forges no line.
func newReport(stderr io.Writer) *log.Logger {
	return log.New(lineWriter{stderr}, "kmodquery: ", 0)
}

// A lineWriter makes each call of Write one line.
type lineWriter struct{ to io.Writer }

func (w lineWriter) Write(message []byte) (int, error) {
	if _, err := io.WriteString(w.to, harmless(string(message))+"\n"); err != nil {
		return 0, err
	}
	return len(message), nil
}

// harmless is a text as one line that acts on no terminal.
func harmless(text string) string {
	return kmodquery.Printable(strings.Join(strings.Fields(text), " "))
}
