package tables

import (
	"cmp"
	"context"
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
	live     int64 // EID of an event that was stored when the module was live; an unload comes after it
	unload   unload
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
	ofLoad("changed", ""),
	ofLoad("count", ""),
	number("unloaded_time", local, "When the module was unloaded in the same boot, as Unix time in seconds; NULL if it was not, or if no event tells", func(l *moduleLoad) *int64 { return known(&l.later.unload.time) }),
	text("unloaded_utc", local, "The same time in UTC, as text", func(l *moduleLoad) string {
		if l.later.unload.time == 0 {
			return ""
		}
		return utc(l.later.unload.time)
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
		asked:  append(slices.Clone(asked), q.ownConditions(kmodquery.Column{Name: "outcome"})...),
		filter: filter,
		rows: func(e *kmodquery.Event) []map[string]string {
			l := &moduleLoad{Event: e, Closing: e.Closing()}
			if !isWanted(l) {
				return nil
			}
			cells := row(l, e.EID)
			if len(reserved) > 0 {
				kept := &moduleLoad{
					Event: &kmodquery.Event{EID: e.EID, LoadID: e.LoadID, Name: e.Name, BootID: e.BootID}, Closing: l.Closing, later: later{outcome: l.Outcome, live: e.EID},
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
	if q.uses("findings") || q.uses("severity") {
		if err := addRenamed(ctx, c, d, loads); err != nil {
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

// addEvents sets what follows from the events of a batch of loads: the final outcomes, when the
// modules were live, and the findings.
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
	// A further condition on event_name would make SQLite read the index of that.
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
		slices.Reverse(events) // the oldest first
		l.later.take(l.Outcome, events)
	}
	return nil
}

// addRenamed adds the findings of modules that renamed themselves. The event has a load_id of its
// own, and no row.
func addRenamed(ctx context.Context, c Config, d detections, loads []*moduleLoad) error {
	byID, after := map[string]*moduleLoad{}, int64(math.MaxInt64)
	for _, l := range loads {
		byID[l.LoadID], after = l, min(after, l.Closing.Event)
	}
	columns, wanted := append([]string{"parent_load_id"}, d.ExpectedColumns...), make([]bool, len(d.all))
	for i, s := range c.Signatures {
		if wanted[i] = slices.Contains(s.Events, kmodquery.EventModuleUnwitnessed); wanted[i] {
			columns = append(columns, s.Columns...)
		}
	}
	filter := kmodquery.Filter{Columns: columns, Conditions: []kmodquery.Condition{
		{Column: "event_name", Op: kmodquery.Equal, Values: []any{kmodquery.EventModuleUnwitnessed}},
		{Column: "eid", Op: kmodquery.Greater, Values: []any{after}},
	}}
	return c.Store.Events(ctx, filter, func(e *kmodquery.Event) error {
		l := byID[e.ParentLoadID]
		if l == nil || e.ParentLoadID == "" {
			return nil
		}
		for _, match := range d.matches(wanted, e) {
			l.later.add(&match.Metadata)
		}
		return nil
	})
}

// take takes what the events of an attempt tell, of which outcome was known.
func (l *later) take(outcome string, events []kmodquery.Event) {
	final, by := kmodquery.OutcomeOf(events)
	if outcome == kmodquery.OutcomeRunning || outcome == kmodquery.OutcomeUnknown {
		l.outcome = final
	}
	// An unload between the beginning of the attempt and its end is that of another module.
	if by != nil {
		l.live = by.EID
	}
	for _, e := range events {
		if e.EventName == kmodquery.EventModuleLoad && e.Source == kmodquery.SourceEBPF {
			l.live = e.EID
			break
		}
	}
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

// An unload is the time of an event and its EID; 0 if there is none.
type unload struct{ eid, time int64 }

// end sets the unload of a load, unless an earlier one is set.
func (l *later) end(by unload) {
	if by.eid != 0 && (l.unload.eid == 0 || by.eid < l.unload.eid) {
		l.unload = by
	}
}

// sameName are the loads of one name in one boot, in the order in which they were live.
type sameName struct {
	loads []*moduleLoad
	next  unload // the one that was read last
}

// read takes an unload. They are read from the newest to the oldest.
func (s *sameName) read(u unload) {
	for n := len(s.loads); n > 0 && s.loads[n-1].later.live >= u.eid; n-- {
		s.loads[n-1].later.end(s.next)
		s.loads = s.loads[:n-1]
	}
	s.next = u
}

// addUnloads sets when the modules were unloaded: at the first unload of that name, in the
// same boot, that is stored after the module was live.
func addUnloads(ctx context.Context, c Config, loads []*moduleLoad) error {
	type key struct{ name, boot string }
	groups, byID, after := map[key]*sameName{}, map[string]*moduleLoad{}, int64(math.MaxInt64)
	for _, l := range slices.SortedFunc(slices.Values(loads), func(a, b *moduleLoad) int { return cmp.Compare(a.later.live, b.later.live) }) {
		if l.Name == "" || !slices.Contains([]string{kmodquery.OutcomeLoaded, kmodquery.OutcomeRunning, kmodquery.OutcomeUnknown}, l.later.outcome) {
			continue
		}
		of := key{l.Name, l.BootID}
		if groups[of] == nil {
			groups[of] = &sameName{}
		}
		groups[of].loads, byID[l.LoadID], after = append(groups[of].loads, l), l, min(after, l.later.live)
	}
	if len(groups) == 0 {
		return nil
	}
	// Without a condition on the name SQLite finds the unloads in an index, and not among all
	// events of these names.
	filter := kmodquery.Filter{
		Conditions: []kmodquery.Condition{
			{Column: "event_name", Op: kmodquery.Equal, Values: []any{kmodquery.EventModuleFree, kmodquery.EventDeleteModule, kmodquery.EventKextunload}},
			{Column: "eid", Op: kmodquery.Greater, Values: []any{after}},
		},
		Columns: []string{"event_name", "name", "boot_id", "result", "parent_load_id", "source"},
	}
	err := c.Store.Events(ctx, filter, func(e *kmodquery.Event) error {
		of := groups[key{e.Name, e.BootID}]
		if of == nil || e.EventName != kmodquery.EventModuleFree && (e.Result == nil || *e.Result != 0) {
			return nil
		}
		by := unload{e.EID, e.Time}
		if e.Source != kmodquery.SourceProcfs || e.ParentLoadID == "" {
			of.read(by)
		} else if l := byID[e.ParentLoadID]; l != nil && l.later.live < e.EID {
			l.later.end(by)
		}
		return nil
	})
	for _, of := range groups {
		of.read(unload{})
	}
	return err
}
