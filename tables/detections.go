package tables

import (
	"context"
	"math"
	"slices"

	"github.com/kmodquery/kmodquery"
)

// The detections are the signatures, and the rules and expectations that are in force during
// one query.
type detections struct {
	kmodquery.RuleSet
	all []kmodquery.Signature // the signatures, and then the rules
}

func (c Config) detections() detections {
	d := detections{all: c.Signatures}
	if c.Rules != nil {
		d.RuleSet = c.Rules()
		d.all = slices.Concat(c.Signatures, d.Rules)
	}
	return d
}

// askedFor reports of each signature whether a query's constraints admit its findings, so
// that no event is read for the others. An expectation may lower the severity of any.
func (d *detections) askedFor(q query) []bool {
	wanted := make([]bool, len(d.all))
	for i, s := range d.all {
		isSevere := q.admitsNumber("severity", s.Severity) || d.Expected != nil && q.admitsNumber("severity", kmodquery.SeverityInfo)
		wanted[i] = isSevere && q.admits("signature_id", s.ID) && q.admits("external_id", s.ExternalID)
	}
	return wanted
}

// A match is a finding and the index of its signature in the list.
type match struct {
	kmodquery.Finding
	signature int64
}

// matches evaluates the wanted signatures on an event.
func (d *detections) matches(wanted []bool, e *kmodquery.Event) []match {
	var matches []match
	for i, signature := range d.all {
		if !wanted[i] || !slices.Contains(signature.Events, e.EventName) {
			continue
		}
		reason, ok := signature.Match(e)
		if !ok {
			continue
		}
		finding := kmodquery.Finding{Metadata: signature.Metadata, Reason: reason, Facts: signature.Facts, Event: e}
		if d.Expected != nil {
			if finding.ExpectedBy = d.Expected(&finding); finding.ExpectedBy != "" {
				finding.Severity = kmodquery.SeverityInfo
			}
		}
		matches = append(matches, match{finding, int64(i)})
	}
	return matches
}

// rules reports of each signature whether it is a rule.
func (d *detections) rules() []bool {
	wanted := make([]bool, len(d.all))
	for i := len(d.all) - len(d.Rules); i < len(d.all); i++ {
		wanted[i] = true
	}
	return wanted
}

// RuleColumns returns the names of the columns of kernel_module_loads that conditions of rules
// can read: those that are fixed when the row is stored.
func RuleColumns() []string {
	var names []string
	for _, column := range loadColumns {
		if !slices.Contains(laterColumns, column.Name) && column.Name != cursorName {
			names = append(names, column.Name)
		}
	}
	return names
}

// EachFinding calls visit with each finding of the stored events, in the order of storage, and
// with the event's columns that the signatures and these names need. It reads no new events.
func EachFinding(ctx context.Context, c Config, columns []string, visit func(*kmodquery.Finding) error) error {
	d := c.detections()
	wanted := make([]bool, len(d.all))
	columns = slices.Concat([]string{"event_name"}, columns, d.ExpectedColumns)
	for i, s := range d.all {
		wanted[i] = true
		columns = append(columns, s.Columns...)
	}
	names, reports := eventsFor(d.all, wanted)
	filter := kmodquery.Filter{
		Conditions: []kmodquery.Condition{{Column: "event_name", Op: kmodquery.Equal, Values: names}}, Reports: reports, Columns: columns,
	}
	return c.Store.EventsBetween(ctx, 0, math.MaxInt64, filter, func(e *kmodquery.Event) error {
		for _, match := range d.matches(wanted, e) {
			if err := visit(&match.Finding); err != nil {
				return err
			}
		}
		return nil
	})
}
