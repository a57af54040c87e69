package main

import (
	"io"
	"log"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// newReport returns the logger of messages for users, one line each. Text that the host
// chose neither controls the terminal nor forges a line.
func newReport(stderr io.Writer) *log.Logger {
	return log.New(lineWriter{stderr}, "kmodquery: ", 0)
}

// A lineWriter writes each message as one line.
type lineWriter struct{ to io.Writer }

func (w lineWriter) Write(message []byte) (int, error) {
	if _, err := io.WriteString(w.to, harmless(string(message))+"\n"); err != nil {
		return 0, err
	}
	return len(message), nil
}

// harmless returns a text as one line that does not control a terminal.
func harmless(text string) string {
	return kmodquery.Printable(strings.Join(strings.Fields(text), " "))
}
