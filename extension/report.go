package main

import (
	"io"
	"log"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// newReport returns a logger that writes messages for users to stderr, one line each.
// Text from the host is escaped, so that it cannot control a terminal or imitate a line.
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

// harmless returns a text as one line that cannot control a terminal.
func harmless(text string) string {
	return kmodquery.Printable(strings.Join(strings.Fields(text), " "))
}
