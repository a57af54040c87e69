package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// Write writes one line for each result, and one with their numbers. Text of the host is
// escaped.
func Write(w io.Writer, results []Result) error {
	width := 0
	for _, r := range results {
		width = max(width, len(r.Name))
	}
	counts := map[Status]int{}
	for _, r := range results {
		counts[r.Status]++
		line := fmt.Sprintf("%-8s  %-*s  %s", r.Status, width, r.Name, r.Reason)
		if r.Remedy != "" {
			line += "; " + r.Remedy
		}
		if _, err := fmt.Fprintln(w, oneLine(line)); err != nil {
			return err
		}
	}
	var parts []string
	for i := len(statuses) - 1; i >= 0; i-- {
		parts = append(parts, fmt.Sprintf("%d %s", counts[statuses[i]], statuses[i]))
	}
	_, err := fmt.Fprintf(w, "%s\n", strings.Join(parts, ", "))
	return err
}

// WriteJSON writes one document: the worst status and the results.
func WriteJSON(w io.Writer, results []Result) error {
	document := struct {
		Status  Status   `json:"status"`
		Results []Result `json:"results"`
	}{Worst(results), make([]Result, len(results))}
	for i, r := range results {
		r.Name, r.Reason, r.Remedy = oneLine(r.Name), oneLine(r.Reason), oneLine(r.Remedy)
		document.Results[i] = r
	}
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(document)
}

// oneLine returns a text that cannot control a terminal or begin another line.
func oneLine(text string) string {
	return kmodquery.Printable(strings.NewReplacer("\n", " ", "\r", " ", "\t", " ").Replace(text))
}
