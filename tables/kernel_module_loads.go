package tables

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

// kernelModuleLoads is the table of attempts to load a module. The store derives a row from the
// events of an attempt when the attempt is over. What is known later is read when the table
// is queried.
var kernelModuleLoads = definition[moduleLoad]{
	name: "kernel_module_loads",
	description: "Attempts to load a kernel module, one row each, also for a refused one. A row appears when the attempt is over, or after ten seconds. " +
		"It never changes, except for final_outcome, unloaded_time, unloaded_utc, findings and severity, which each query computes",
	examples: []string{
		"SELECT utc, name, coalesce(nullif(path, ''), origin) AS path, outcome, signature_status, process_name, user_name, findings FROM kernel_module_loads WHERE time > strftime('%s', 'now') - 86400",
		"SELECT utc, name, path, signer, process_path, findings FROM kernel_module_loads WHERE severity >= 3",
		"SELECT utc, name, error, process_path, cmdline FROM kernel_module_loads WHERE outcome IN ('init_failed', 'rejected') AND time > strftime('%s', 'now') - 86400",
		"SELECT l.utc, e.event_name, e.source, e.result FROM kernel_module_loads l JOIN kernel_module_events e USING (load_id) WHERE l.name = 'dummy'",
	},
	columns:  loadColumns,
	generate: generateLoads,
}

// A moduleLoad is an attempt to load a module.
type moduleLoad struct {
	*kmodquery.Event
	kmodquery.Closing
	later later
}

// later is what became known of an attempt after its row was stored, and its findings.
type later struct {
	outcome  string
	unloaded *int64
	findings string
	severity *int64
}

// laterColumns are the columns of later. Their text is set after the rows were read.
var laterColumns = []string{"final_outcome", "unloaded_time", "unloaded_utc", "findings", "severity"}

var loadColumns = []columnOf[moduleLoad]{
	ofLoad("time", "Beginning of the attempt, as Unix time in seconds"),
	ofLoad("time_nanos", ""),
	text("utc", local, "The same time in UTC, as text", func(l *moduleLoad) string { return utc(l.Time) }).needing("time"),
	ofLoad("uptime", ""),
	ofLoad("boot_id", ""),
	ofLoad("eid", "Number of the row, in one order with the events: later than those of the events that it was derived from"),
	ofLoad("stored_time", "When the recorder stored the row, as Unix time in seconds"),
	number("event_eid", local, "eid of the event in kernel_module_events that stands for the attempt", func(l *moduleLoad) *int64 { return known(&l.Closing.Event) }).needing("raw"),
	ofLoad("load_id", "The load_id of the attempt's events; NULL if they have none, as those of a denied call"),
	ofLoad("parent_load_id", ""),
	ofLoad("name", ""),
	ofLoad("path", ""),
	ofLoad("origin", ""),
	ofLoad("sha256", ""),
	ofLoad("image_sha256", ""),
	ofLoad("signature_status", ""),
	ofLoad("signer", ""),
	text("outcome", filtered, "loaded; init_failed: the module's init returned an error; rejected: the kernel refused the module; denied: the caller may not load modules, or "+
		"macOS's policy refused; running: the call had not returned after ten seconds; unknown: no source saw the end, or none saw whether the init ran that may have failed",
		func(l *moduleLoad) string { return kmodquery.Printable(l.Outcome) }).needing("raw"),
	text("final_outcome", local, "The outcome; where it was running or unknown, by all events that are stored now. A load during which the host crashed stays running", func(l *moduleLoad) string { return kmodquery.Printable(l.later.outcome) }),
	ofLoad("result", ""),
	ofLoad("error", ""),
	ofLoad("verdict", ""),
	ofLoad("version", ""),
	ofLoad("params", ""),
	ofLoad("taints", ""),
	ofLoad("pid", "Process that loaded the module, in the host's pid namespace"),
	ofLoad("parent", ""),
	ofLoad("process_name", ""),
	ofLoad("process_path", ""),
	ofLoad("cmdline", ""),
	ofLoad("uid", ""),
	text("user_name", local, "Name of that user in the host's /etc/passwd when the row was stored; NULL on macOS, where osquery's table users has it",
		func(l *moduleLoad) string { return kmodquery.Printable(l.User) }).needing("raw"),
	ofLoad("euid", ""),
	ofLoad("auid", ""),
	ofLoad("ancestors", ""),
	ofLoad("requested_by", ""),
	ofLoad("container_id", ""),
	ofLoad("team_id", ""),
	ofLoad("cdhash", ""),
	ofLoad("collection", ""),
	ofLoad("boot_load", ""),
	ofLoad("authenticated_root", ""),
	text("sources", local, "Sources that had observed the attempt when the row was stored, separated by commas",
		func(l *moduleLoad) string { return kmodquery.Printable(l.Sources) }).needing("raw"),
	ofLoad("first_seen", ""),
	ofLoad("count", ""),
	number("unloaded_time", local, "When the module was unloaded in the same boot, as Unix time in seconds; NULL if it was not, or if no event tells", func(l *moduleLoad) *int64 { return l.later.unloaded }),
	text("unloaded_utc", local, "The same time in UTC, as text", func(l *moduleLoad) string {
		if l.later.unloaded == nil {
			return ""
		}
		return utc(*l.later.unloaded)
	}),
	text("findings", local, "The signatures that accept an event of the attempt, separated by commas", func(l *moduleLoad) string { return l.later.findings }),
	number("severity", local, "The highest severity of these findings; NULL without findings", func(l *moduleLoad) *int64 { return l.later.severity }),
	ofLoad("missing", ""),
	unprivileged(func(l *moduleLoad) *kmodquery.Event { return l.Event }),
	cursorOf[moduleLoad](),
}

// ofLoad returns a column of kernel_module_events. An empty description is that of the event.
func ofLoad(name, description string) columnOf[moduleLoad] {
	of := eventColumns[slices.IndexFunc(eventColumns, func(c columnOf[kmodquery.Event]) bool { return c.Name == name })]
	definition := of.ColumnDefinition
	if description != "" {
		definition.Description = description
	}
	return columnOf[moduleLoad]{definition, func(l *moduleLoad) (string, bool) { return of.cell(l.Event) }, of.event, of.needs}
}

func utc(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.DateTime) }

func generateLoads(ctx context.Context, c Config, q query) ([]map[string]string, error) {
	if err := syncBeforeRead(ctx, c, q); err != nil {
		return nil, err
	}
	asked := conditions(q, loadColumns)
	// This condition comes first: the store may leave out later ones.
	filter := kmodquery.Filter{Conditions: append([]kmodquery.Condition{{
		Column: "event_name", Op: kmodquery.Equal, Values: []any{kmodquery.EventLoadClosed, kmodquery.EventLoadClosedUnprivileged},
	}}, asked...)}
	if q.usesNothing() {
		n, err := c.Store.Count(ctx, filter)
		if err != nil {
			return nil, err
		}
		return counted(c, n)
	}
	columns := used(q, loadColumns)
	filter.Columns = eventNames(columns)
	d, isJudged := c.detections(), q.uses("findings") || q.uses("severity")
	ofRules := d.rules()
	reserved := map[string]string{} // the longest texts of the columns that are set later, so that the reply keeps its bound
	for _, name := range laterColumns {
		if q.uses(name) {
			reserved[name] = strings.Repeat(" ", 32)
		}
	}
	if len(reserved) > 0 {
		filter.Columns = append(filter.Columns, "raw", "load_id", "name", "boot_id")
		if q.uses("findings") {
			for _, s := range d.all {
				reserved["findings"] += " " + s.ID
			}
		}
	}
	if isJudged && len(d.Rules) > 0 {
		filter.Columns = append(filter.Columns, d.ExpectedColumns...)
		for _, r := range d.Rules {
			filter.Columns = append(filter.Columns, r.Columns...)
		}
	}
	loads := map[string]*moduleLoad{} // by rowid
	row := rowFunc(columns)
	isWanted := func(l *moduleLoad) bool { return q.admits("outcome", l.Outcome) }
	rows, err := collect(ctx, c, q, view{
		table:  "kernel_module_loads",
		asked:  asked,
		filter: filter,
		rows: func(e *kmodquery.Event) []map[string]string {
			l := &moduleLoad{Event: e, Closing: e.Closing()}
			if !isWanted(l) {
				return nil
			}
			cells := row(l, e.EID)
			if len(reserved) > 0 {
				kept := &moduleLoad{
					Event: &kmodquery.Event{EID: e.EID, LoadID: e.LoadID, Name: e.Name, BootID: e.BootID}, Closing: l.Closing, later: later{outcome: l.Outcome},
				}
				if isJudged {
					for _, match := range d.matches(ofRules, e) {
						kept.later.add(&match.Metadata)
					}
				}
				loads[cells[rowidKey]] = kept
				for name, text := range reserved {
					cells[name] = text
				}
			}
			return []map[string]string{cells}
		},
		count: func(e *kmodquery.Event) int {
			if isWanted(&moduleLoad{Closing: e.Closing()}) {
				return 1
			}
			return 0
		},
		countColumns: []string{"raw"},
	})
	if err != nil || len(reserved) == 0 {
		return rows, err
	}
	var found []*moduleLoad
	for _, cells := range rows {
		found = append(found, loads[cells[rowidKey]])
	}
	if err := addLater(ctx, c, d, q, found); err != nil {
		return nil, err
	}
	for i, cells := range rows {
		for _, column := range columns {
			if slices.Contains(laterColumns, column.Name) {
				delete(cells, column.Name)
				if text, ok := column.cell(found[i]); ok {
					cells[column.Name] = text
				}
			}
		}
	}
	return rows, nil
}

// addLater sets what the loads lack.
func addLater(ctx context.Context, c Config, d detections, q query, loads []*moduleLoad) error {
	for batch := range slices.Chunk(loads, laterBatch) {
		if err := addEvents(ctx, c, d, batch); err != nil {
			return err
		}
	}
	if !q.uses("unloaded_time") && !q.uses("unloaded_utc") {
		return nil
	}
	return addUnloads(ctx, c, loads)
}

const (
	// laterBatch is the number of loads whose events are read at once. A condition may have
	// not many more values.
	laterBatch = 200
	// laterEvents bounds the events of a load from which its outcome follows.
	laterEvents = 1000
)

// addEvents sets the final outcomes and the findings of a batch of loads.
func addEvents(ctx context.Context, c Config, d detections, loads []*moduleLoad) error {
	var ids, eids []any
	byID, byEID := map[string]*moduleLoad{}, map[int64]*moduleLoad{}
	for _, l := range loads {
		if l.LoadID != "" {
			ids, byID[l.LoadID] = append(ids, l.LoadID), l
		} else {
			eids, byEID[l.Closing.Event] = append(eids, l.Closing.Event), l
		}
	}
	columns, wanted := append([]string{"load_id", "type"}, kmodquery.OutcomeColumns...), make([]bool, len(d.all))
	columns = append(columns, d.ExpectedColumns...)
	for i, s := range c.Signatures {
		columns, wanted[i] = append(columns, s.Columns...), true
	}
	events := map[*moduleLoad][]kmodquery.Event{}
	ofLoads := kmodquery.LoadEvents()
	visit := func(e *kmodquery.Event) error {
		l := byID[e.LoadID]
		if l == nil {
			l = byEID[e.EID]
		}
		if l == nil {
			return nil // the store ignores the case of load_ids
		}
		for _, match := range d.matches(wanted, e) {
			l.later.add(&match.Metadata)
		}
		isOther := e.EventName == kmodquery.EventSecurityKernelReadFile && e.Type != kmodquery.TypeKernelModule
		if slices.Contains(ofLoads, e.EventName) && !isOther && len(events[l]) < laterEvents {
			events[l] = append(events[l], *e)
		}
		return nil
	}
	for column, values := range map[string][]any{"load_id": ids, "eid": eids} {
		if len(values) == 0 {
			continue
		}
		filter := kmodquery.Filter{Conditions: []kmodquery.Condition{{Column: column, Op: kmodquery.Equal, Values: values}}, Columns: columns}
		if err := c.Store.Events(ctx, filter, visit); err != nil {
			return err
		}
	}
	for l, events := range events {
		if l.Outcome == kmodquery.OutcomeRunning || l.Outcome == kmodquery.OutcomeUnknown {
			slices.Reverse(events) // the oldest first
			l.later.outcome, _ = kmodquery.OutcomeOf(events)
		}
	}
	return nil
}

// add adds a finding of a signature.
func (l *later) add(m *kmodquery.Metadata) {
	ids := strings.FieldsFunc(l.findings, func(r rune) bool { return r == ',' })
	if !slices.Contains(ids, m.ID) {
		ids = append(ids, m.ID)
		slices.Sort(ids)
		l.findings = strings.Join(ids, ",")
	}
	if l.severity == nil || *l.severity < m.Severity {
		l.severity = new(m.Severity)
	}
}

// errAllUnloaded ends the search for unloads.
var errAllUnloaded = errors.New("every module is known to be unloaded")

// addUnloads sets when the modules were unloaded: at the first unload of that name, in the
// same boot, that is stored after the load.
func addUnloads(ctx context.Context, c Config, loads []*moduleLoad) error {
	pending, after := map[string][]*moduleLoad{}, int64(math.MaxInt64)
	var names []any
	n := 0
	for _, l := range loads {
		if l.Name == "" || !slices.Contains([]string{kmodquery.OutcomeLoaded, kmodquery.OutcomeRunning, kmodquery.OutcomeUnknown}, l.later.outcome) {
			continue
		}
		if pending[l.Name] == nil {
			names = append(names, l.Name)
		}
		pending[l.Name] = append(pending[l.Name], l)
		after = min(after, l.Closing.Event)
		n++
	}
	if n == 0 {
		return nil
	}
	filter := kmodquery.Filter{
		Conditions: []kmodquery.Condition{{Column: "event_name", Op: kmodquery.Equal, Values: []any{
			kmodquery.EventModuleFree, kmodquery.EventDeleteModule, kmodquery.EventKextunload,
		}}},
		Columns: []string{"event_name", "name", "boot_id", "result", "parent_load_id", "source"},
	}
	if len(names) <= laterBatch {
		filter.Conditions = append(filter.Conditions, kmodquery.Condition{Column: "name", Op: kmodquery.Equal, Values: names})
	}
	err := c.Store.EventsBetween(ctx, after, math.MaxInt64, filter, func(e *kmodquery.Event) error {
		if e.EventName != kmodquery.EventModuleFree && (e.Result == nil || *e.Result != 0) {
			return nil
		}
		isOf := func(l *moduleLoad) bool {
			if e.Source == kmodquery.SourceProcfs && e.ParentLoadID != "" && l.LoadID != e.ParentLoadID {
				return false
			}
			return l.Closing.Event < e.EID && l.BootID == e.BootID
		}
		left := pending[e.Name]
		pending[e.Name] = slices.DeleteFunc(left, func(l *moduleLoad) bool {
			if !isOf(l) {
				return false
			}
			l.later.unloaded = new(e.Time)
			n--
			return true
		})
		if n == 0 {
			return errAllUnloaded
		}
		return nil
	})
	if errors.Is(err, errAllUnloaded) {
		return nil
	}
	return err
}
