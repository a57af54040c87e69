package tables

import (
	"context"
	"maps"
	"slices"

	"github.com/kmodquery/kmodquery"
)

// kernelModuleFindings is the table of findings. Each query evaluates the signatures on
// the stored events; findings are not stored.
var kernelModuleFindings = definition[kmodquery.Finding]{
	name:        "kernel_module_findings",
	description: "Detections: one row for each event that a signature accepts",
	examples: []string{
		"SELECT time, signature_id, reason, path, sha256 FROM kernel_module_findings WHERE time > strftime('%s', 'now') - 3600",
		"SELECT external_id, severity, count(*) FROM kernel_module_findings GROUP BY external_id, severity",
		"SELECT reason, event FROM kernel_module_findings WHERE origin = 'memfd'",
	},
	columns:  findingColumns,
	generate: generateFindings,
}

// wholeEvent is the column that shows the whole event.
const wholeEvent = "event"

var findingColumns = []columnOf[kmodquery.Finding]{
	text("signature_id", filtered, "The signature that accepted the event",
		func(f *kmodquery.Finding) string { return f.ID }),
	text("signature_version", local, "Version of the signature",
		func(f *kmodquery.Finding) string { return f.Version }),
	text("signature_name", local, "Name of the signature",
		func(f *kmodquery.Finding) string { return f.Name }),
	text("event_name", local, "Name of the detection; the column trigger has the name of the event",
		func(f *kmodquery.Finding) string { return f.EventName }),
	text("description", local, "What the signature detects, and why that matters",
		func(f *kmodquery.Finding) string { return f.Description }),
	number("severity", filtered, "Threat level of the signature: 0 informational, 1 low, 2 moderate, 3 high, 4 critical; 0 if the finding is expected",
		func(f *kmodquery.Finding) *int64 { return &f.Severity }),
	text("expected_by", local, "The expectation that lowered the severity to 0, as its file and line; NULL if none did",
		func(f *kmodquery.Finding) string { return kmodquery.Printable(f.ExpectedBy) }),
	text("category", local, "ATT&CK tactic, such as persistence",
		func(f *kmodquery.Finding) string { return f.Category }),
	text("technique", local, "Name of the MITRE ATT&CK technique",
		func(f *kmodquery.Finding) string { return f.Technique }),
	text("kubernetes_technique", local, "Name of the technique in the threat matrix for Kubernetes, or N/A",
		func(f *kmodquery.Finding) string { return f.KubernetesTechnique }),
	text("attack_id", local, "STIX id of the ATT&CK technique (attack-pattern--...)",
		func(f *kmodquery.Finding) string { return f.AttackID }),
	text("external_id", filtered, "ATT&CK's number of the technique, such as T1547.006",
		func(f *kmodquery.Finding) string { return f.ExternalID }),
	text("data", local, "The columns of the event on which the finding rests, as a JSON object without those that are unknown; NULL if the signature names none",
		func(f *kmodquery.Finding) string {
			if f.Facts == nil {
				return ""
			}
			return object(f.Event, f.Facts)
		}),
	text("reason", local, "Why this event is a finding, in one sentence",
		// Signatures escape the host's text that they quote.
		func(f *kmodquery.Finding) string { return kmodquery.Printable(f.Reason) }),
	ofTrigger("eid"),
	ofTrigger("time"),
	ofTrigger("event_name"),
	ofTrigger("load_id"),
	ofTrigger("name"),
	ofTrigger("path"),
	ofTrigger("origin"),
	ofTrigger("sha256"),
	ofTrigger("signature_status"),
	ofTrigger("signer"),
	ofTrigger("result"),
	ofTrigger("verdict"),
	ofTrigger("pid"),
	ofTrigger("process_path"),
	ofTrigger("cmdline"),
	ofTrigger("uid"),
	ofTrigger("auid"),
	ofTrigger("container_id"),
	ofTrigger("source"),
	ofTrigger("collection"),
	ofTrigger("boot_load"),
	ofTrigger("authenticated_root"),
	text(wholeEvent, local, "The whole event as a JSON object with the columns of kernel_module_events, without those that are unknown",
		func(f *kmodquery.Finding) string { return object(f.Event, nil) }),
	unprivileged(func(f *kmodquery.Finding) *kmodquery.Event { return f.Event }),
	cursorOf[kmodquery.Finding](),
}

// ofTrigger returns a column of the event, as in kernel_module_events. The column trigger
// is its event_name, since the table's event_name is that of the detection.
func ofTrigger(name string) columnOf[kmodquery.Finding] {
	of := eventColumns[slices.IndexFunc(eventColumns, func(c columnOf[kmodquery.Event]) bool { return c.Name == name })]
	definition := of.ColumnDefinition
	if name == "event_name" {
		definition.Name = "trigger"
	}
	return columnOf[kmodquery.Finding]{definition, func(f *kmodquery.Finding) (string, bool) { return of.cell(f.Event) }, of.event, of.needs}
}

func generateFindings(ctx context.Context, c Config, q query) ([]map[string]string, error) {
	if err := syncBeforeRead(ctx, c, q); err != nil {
		return nil, err
	}
	// One pass reads what all signatures need.
	d := c.detections()
	wanted := d.askedFor(q)
	columns := append([]string{"event_name"}, d.ExpectedColumns...)
	for i, signature := range d.all {
		if wanted[i] {
			columns = append(columns, signature.Columns...)
		}
	}
	names, reports := eventsFor(d.all, wanted)
	if len(names) == 0 {
		return nil, nil
	}
	asked := conditions(q, findingColumns)
	v := view{
		table: "kernel_module_findings",
		asked: append(slices.Clone(asked), q.ownConditions(signatureColumns...)...),
		filter: kmodquery.Filter{
			Conditions: append(slices.Clone(asked),
				kmodquery.Condition{Column: "event_name", Op: kmodquery.Equal, Values: names}),
			Reports: reports,
			Columns: columns,
		},
		count:        func(e *kmodquery.Event) int { return len(d.matches(wanted, e)) },
		countColumns: columns,
	}
	if q.usesNothing() {
		var n int64
		err := c.Store.Events(ctx, v.filter, func(e *kmodquery.Event) error {
			n += int64(v.count(e))
			return nil
		})
		if err != nil {
			return nil, err
		}
		return counted(c, n)
	}
	shown := used(q, findingColumns)
	v.filter.Columns = append(eventNames(shown), columns...)
	if q.uses(wholeEvent) {
		v.filter.Columns = nil
	}
	row := rowFunc(shown)
	v.rows = func(e *kmodquery.Event) []map[string]string {
		var rows []map[string]string
		for _, match := range d.matches(wanted, e) {
			rows = append(rows, row(&match.Finding, e.EID*int64(len(d.all))+match.signature))
		}
		return rows
	}
	return collect(ctx, c, q, v)
}

// signatureColumns are the columns whose constraints decide which signatures are evaluated.
var signatureColumns = []kmodquery.Column{{Name: "signature_id"}, {Name: "external_id"}, {Name: "severity", Number: true}}

// eventsFor returns the names of the events that the wanted signatures can accept, and those
// among them that none accepts unless they report a load.
func eventsFor(signatures []kmodquery.Signature, wanted []bool) (names []any, reports []string) {
	isReport := map[string]bool{}
	for i, s := range signatures {
		if !wanted[i] {
			continue
		}
		for _, name := range s.Events {
			only, isKnown := isReport[name]
			isReport[name] = s.LoadReports && (only || !isKnown)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(isReport)) {
		names = append(names, name)
		if isReport[name] {
			reports = append(reports, name)
		}
	}
	return names, reports
}
