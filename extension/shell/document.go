package shell

import (
	"bytes"
	"io"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// A document collects the results of statements in JSON, so that the output is one valid
// document whatever was asked: the only result itself, or an array of all results. A
// result is the array of the rows of a statement, {"error": "..."} for one that failed,
// or a string with the text that a command printed.
type document struct {
	results   []string
	isWritten bool // one is in the output of the shell
}

func (d *document) add(result string) {
	if result = strings.TrimSpace(result); result != "" {
		d.results = append(d.results, result)
	}
}

func (d *document) addText(text string) {
	if text != "" {
		d.add(jsonString(text))
	}
}

func (d *document) addError(err error) {
	d.add(`{"error":` + jsonString(kmodquery.Printable(err.Error())) + "}")
}

// writeTo writes the document, an empty array if there are no results, and begins a new one.
func (d *document) writeTo(w io.Writer) error {
	var b bytes.Buffer
	switch len(d.results) {
	case 0:
		b.WriteString("[\n]\n")
	case 1:
		b.WriteString(d.results[0] + "\n")
	default:
		b.WriteString("[\n" + strings.Join(d.results, ",\n") + "\n]\n")
	}
	d.results = nil
	_, err := b.WriteTo(w)
	return err
}
