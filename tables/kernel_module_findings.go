package tables

import (
	"context"
	"slices"
	"strconv"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/kmodquery/kmodquery"
)

// kernelModuleFindings returns the table of findings. Each query evaluates the
// signatures on the stored events; findings are not stored.
func kernelModuleFindings(c Config) definition {
	f := findings{config: c}
	definitions := make([]table.ColumnDefinition, len(findingColumns))
	for i, column := range findingColumns {
		definitions[i] = column.ColumnDefinition
	}
	return definition{
		name:        "kernel_module_findings",
		description: "Detections: one row for each event that a signature accepts",
		examples: []string{
			"SELECT time, signature_id, reason, path, sha256 FROM kernel_module_findings WHERE time > strftime('%s', 'now') - 3600",
			"SELECT external_id, severity, count(*) FROM kernel_module_findings GROUP BY external_id, severity",
			"SELECT reason, event FROM kernel_module_findings WHERE origin = 'memfd'",
		},
		columns:  definitions,
		generate: f.generate,
	}
}

// wholeEvent is the column that shows the whole event.
const wholeEvent = "event"

// A findingColumn is one column of the table: a value of the finding or, if value is
// nil, a column of its event.
type findingColumn struct {
	table.ColumnDefinition
	value func(*kmodquery.Finding) string // "" is NULL
	event kmodquery.Column
}

var findingColumns = []findingColumn{
	ofFinding(text("signature_id", local, "The signature that accepted the event"),
		func(f *kmodquery.Finding) string { return f.ID }),
	ofFinding(text("signature_version", local, "Version of the signature"),
		func(f *kmodquery.Finding) string { return f.Version }),
	ofFinding(text("signature_name", local, "Name of the signature"),
		func(f *kmodquery.Finding) string { return f.Name }),
	ofFinding(text("event_name", local, "Name of the detection; the column trigger has the name of the event"),
		func(f *kmodquery.Finding) string { return f.EventName }),
	ofFinding(text("description", local, "What the signature detects, and why that matters"),
		func(f *kmodquery.Finding) string { return f.Description }),
	ofFinding(number("severity", local, "Threat level of the signature; higher is worse, 2 is moderate"),
		func(f *kmodquery.Finding) string { return strconv.FormatInt(f.Severity, 10) }),
	ofFinding(text("category", local, "ATT&CK tactic, such as persistence"),
		func(f *kmodquery.Finding) string { return f.Category }),
	ofFinding(text("technique", local, "Name of the MITRE ATT&CK technique"),
		func(f *kmodquery.Finding) string { return f.Technique }),
	ofFinding(text("kubernetes_technique", local, "Name of the technique in the threat matrix for Kubernetes, or N/A"),
		func(f *kmodquery.Finding) string { return f.KubernetesTechnique }),
	ofFinding(text("attack_id", local, "STIX id of the ATT&CK technique (attack-pattern--...)"),
		func(f *kmodquery.Finding) string { return f.AttackID }),
	ofFinding(text("external_id", local, "ATT&CK's number of the technique, such as T1547.006"),
		func(f *kmodquery.Finding) string { return f.ExternalID }),
	ofFinding(text("data", local, "Data that the signature adds to the event, as JSON; NULL if there is none"),
		func(f *kmodquery.Finding) string { return kmodquery.Printable(f.Data) }),
	ofFinding(text("reason", local, "Why this event is a finding, in one sentence"),
		// Signatures escape the host's text that they quote.
		func(f *kmodquery.Finding) string { return kmodquery.Printable(f.Reason) }),
	ofTrigger("eid"),
	ofTrigger("time"),
	trigger(),
	ofTrigger("load_id"),
	ofTrigger("name"),
	ofTrigger("path"),
	ofTrigger("origin"),
	ofTrigger("sha256"),
	ofTrigger("signature_status"),
	ofTrigger("signer"),
	ofTrigger("result"),
	ofTrigger("pid"),
	ofTrigger("process_path"),
	ofTrigger("cmdline"),
	ofTrigger("uid"),
	ofTrigger("auid"),
	ofTrigger("container_id"),
	ofTrigger("source"),
	ofFinding(text(wholeEvent, local, "The whole event as a JSON object with the columns of kernel_module_events, without those that are unknown"),
		func(f *kmodquery.Finding) string { return object(f.Event) }),
}

func ofFinding(definition table.ColumnDefinition, value func(*kmodquery.Finding) string) findingColumn {
	return findingColumn{ColumnDefinition: definition, value: value}
}

// ofTrigger returns a column of the event, as in kernel_module_events.
func ofTrigger(name string) findingColumn {
	event, _ := kmodquery.EventColumn(name)
	return findingColumn{ColumnDefinition: eventColumn(name), event: event}
}

// trigger returns the column of the event's event_name. The table's event_name is that
// of the detection.
func trigger() findingColumn {
	column := ofTrigger("event_name")
	column.Name = "trigger"
	return column
}

// findingEventColumn returns the event's column that a column of the table shows; false
// if it shows none.
func findingEventColumn(name string) (kmodquery.Column, bool) {
	for _, column := range findingColumns {
		if column.Name == name {
			return column.event, column.value == nil
		}
	}
	return kmodquery.Column{}, false
}

type findings struct{ config Config }

func (f findings) generate(ctx context.Context, q query) ([]map[string]string, error) {
	if err := syncBeforeRead(ctx, f.config.Recorder); err != nil {
		return nil, err
	}
	// One pass reads what all signatures need.
	columns := []string{"event_name"}
	var names []any
	for _, signature := range f.config.Signatures {
		columns = append(columns, signature.Columns...)
		for _, name := range signature.Events {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	v := view{
		filter: kmodquery.Filter{
			Conditions: append(q.conditions(findingEventColumn),
				kmodquery.Condition{Column: "event_name", Op: kmodquery.Equal, Values: names}),
			Columns: columns,
		},
		count:        func(e *kmodquery.Event) int { return len(f.match(e)) },
		countColumns: columns,
	}
	if q.usesNothing() {
		var n int64
		err := f.config.Store.Events(ctx, v.filter, func(e *kmodquery.Event) error {
			n += int64(v.count(e))
			return nil
		})
		return empty(n), err
	}
	var used []findingColumn
	for _, column := range findingColumns {
		if q.uses(column.Name) {
			used = append(used, column)
		}
	}
	v.filter.Columns = eventColumnsFor(used, columns)
	v.rows = func(e *kmodquery.Event) []map[string]string {
		matches := f.match(e)
		rows := make([]map[string]string, len(matches))
		for i, match := range matches {
			rows[i] = findingRow(&match.Finding, used)
			rows[i][rowidKey] = strconv.FormatInt(e.EID*int64(len(f.config.Signatures))+match.signature, 10)
		}
		return rows
	}
	return collect(ctx, f.config.Store, f.config.ReplyBytes, v)
}

// A match is a finding and the index of its signature in the list.
type match struct {
	kmodquery.Finding
	signature int64
}

// match evaluates the signatures on an event.
func (f findings) match(e *kmodquery.Event) []match {
	var matches []match
	for i, signature := range f.config.Signatures {
		if !slices.Contains(signature.Events, e.EventName) {
			continue
		}
		if reason, ok := signature.Match(e); ok {
			matches = append(matches, match{
				Finding:   kmodquery.Finding{Metadata: signature.Metadata, Reason: reason, Event: e},
				signature: int64(i),
			})
		}
	}
	return matches
}

// eventColumnsFor returns the event's columns that rows of these columns and matching
// need; nil, which is all, for the whole event.
func eventColumnsFor(used []findingColumn, matching []string) []string {
	columns := slices.Clone(matching)
	for _, column := range used {
		if column.Name == wholeEvent {
			return nil
		}
		if column.value == nil {
			columns = append(columns, column.event.Name)
		}
	}
	return columns
}

func findingRow(f *kmodquery.Finding, used []findingColumn) map[string]string {
	row := make(map[string]string, len(used)+1)
	for _, column := range used {
		if column.value == nil {
			put(row, column.Name, column.event, f.Event)
		} else if value := column.value(f); value != "" {
			row[column.Name] = value
		}
	}
	return row
}
