package report

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

// Bounds of the page.
const (
	maxLoads     = 200 // of the newest
	maxFindings  = 20  // of each signature, the newest
	maxInventory = 200 // modules that differ
	maxAutostart = 200 // lines
	maxGroups    = 40  // signers, origins and boots
	maxText      = 300 // characters of a cell
	maxTries     = 8   // of a query that would be too large
	maxSensors   = 64
	barCount     = 60 // bars of the time line
)

// Options say what a page is about.
type Options struct {
	Host, Kernel, Version string
	Since, Now            time.Time
}

// A collector reads the tables.
type collector struct {
	ctx     context.Context
	db      *sql.DB
	options Options
	page    *page
}

// A row has the values of a query by column, NULL as "".
type row map[string]string

// int returns a number, and 0 for NULL.
func (r row) int(column string) int64 {
	n, _ := strconv.ParseInt(r[column], 10, 64)
	return n
}

func (c *collector) rows(query string, args ...any) (all []row, err error) {
	rows, err := c.db.QueryContext(c.ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	cells, pointers := make([]sql.NullString, len(columns)), make([]any, len(columns))
	for i := range cells {
		pointers[i] = &cells[i]
	}
	for rows.Next() {
		if err := rows.Scan(pointers...); err != nil {
			return nil, err
		}
		found := row{}
		for i, column := range columns {
			found[column] = cells[i].String
		}
		all = append(all, found)
	}
	return all, rows.Err()
}

// newestFit matches the advice of a table whose reply would be too large.
var newestFit = regexp.MustCompile(`(time|eid) >= (\d+)`)

// window is the condition in a query that selects the window.
const window = "time >= ?1"

// since reads rows of the window. Its query has the beginning of the window as its parameter
// ?1. If a table's reply would be too large, it reads those rows that fit, and says so in the
// note.
func (c *collector) since(query string, args ...any) (all []row, note string, err error) {
	least := c.options.Since.Unix()
	for range maxTries {
		all, err = c.rows(query, append([]any{least}, args...)...)
		if err == nil {
			return all, note, nil
		}
		advice := newestFit.FindStringSubmatch(err.Error())
		if advice == nil {
			return nil, "", err
		}
		query = strings.Replace(query, window, advice[1]+" >= ?1", 1)
		if least, err = strconv.ParseInt(advice[2], 10, 64); err != nil {
			return nil, "", err
		}
		note = "There are more rows than one query returns, so this part shows the newest."
		if advice[1] == "time" {
			note = fmt.Sprintf("There are more rows than one query returns, so this part begins at %s.", utc(least))
		}
	}
	return nil, "", err
}

// collect reads all parts of the page. A part that cannot be read says why.
func (c *collector) collect() {
	for _, part := range []func() section{c.findings, c.timeline, c.groups, c.loads, c.autostart, c.inventory, c.sensors} {
		c.page.Sections = append(c.page.Sections, part())
	}
}

// failed is a section that could not be read.
func failed(s section, err error) section {
	s.Failed = "This part could not be read: " + cut(err.Error())
	return s
}

// severities are the names of the severities of signatures.
var severities = []string{"informational", "low", "moderate", "high", "critical"}

func severityName(severity int64) string {
	if severity < 0 || severity >= int64(len(severities)) {
		return "unknown"
	}
	return severities[severity]
}

const findingsQuery = `SELECT time, signature_id, reason, name, path, origin, sha256, signature_status, signer, process_path, cmdline, pid, uid, container_id, eid
	FROM kernel_module_findings WHERE time >= ?1 AND signature_id = ?2 ORDER BY eid DESC LIMIT ?3`

func (c *collector) findings() section {
	s := section{ID: "findings", Title: "Findings", About: "A finding is an event that a signature accepts. The most severe come first."}
	kinds, note, err := c.since(`SELECT signature_id, max(signature_name) AS signature_name, max(description) AS description, max(severity) AS severity,
		max(external_id) AS external_id, count(*) AS findings FROM kernel_module_findings WHERE time >= ?1 GROUP BY signature_id ORDER BY max(severity) DESC, signature_id`)
	if err != nil {
		return failed(s, err)
	}
	s.Note = note
	counts := map[int64]int64{}
	for _, kind := range kinds {
		severity := kind.int("severity")
		counts[severity] += kind.int("findings")
		found, note, err := c.since(findingsQuery, kind["signature_id"], maxFindings)
		t := table{
			ID:      "finding-" + identifier(kind["signature_id"]),
			Title:   kind["signature_id"] + ": " + kind["signature_name"],
			Badge:   severityName(severity),
			Level:   severityLevel(severity),
			About:   strings.TrimSpace(kind["description"] + " " + kind["external_id"]),
			Note:    note,
			Columns: []string{"Time (UTC)", "Why", "Module", "From", "By", "SHA-256"},
			More:    kind.int("findings") - int64(len(found)),
		}
		if err != nil {
			t.Note = "These findings could not be read: " + cut(err.Error())
		}
		for _, r := range found {
			t.add(utc(r.int("time")), r["reason"], r["name"], origin(r), process(r), r["sha256"])
		}
		s.Tables = append(s.Tables, t)
	}
	var parts []string
	for severity := int64(len(severities) - 1); severity >= 0; severity-- {
		if n := counts[severity]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, severityName(severity)))
		}
		c.page.Figures = append(c.page.Figures, figure{severityName(severity), counts[severity], severityLevel(severity)})
	}
	s.Summary = cmp.Or(strings.Join(parts, ", "), "None in this window.")
	return s
}

func severityLevel(severity int64) string {
	switch {
	case severity >= kmodquery.SeverityCritical:
		return "critical"
	case severity >= kmodquery.SeverityHigh:
		return "high"
	case severity >= kmodquery.SeverityModerate:
		return "moderate"
	}
	return "low"
}

// origin says where the bytes of a module came from.
func origin(r row) string {
	switch {
	case r["path"] == "":
		return r["origin"]
	case r["origin"] == "" || r["origin"] == kmodquery.OriginFile:
		return r["path"]
	}
	return r["path"] + " (" + r["origin"] + ")"
}

// process says who did it.
func process(r row) string {
	text := cmp.Or(r["cmdline"], r["process_path"], r["process_name"])
	if r["process_path"] != "" && r["cmdline"] != "" {
		text += " — " + r["process_path"]
	}
	var details []string
	if r["pid"] != "" {
		details = append(details, "pid "+r["pid"])
	}
	if user := cmp.Or(r["user_name"], r["uid"]); user != "" {
		details = append(details, "user "+user)
	}
	if r["container_id"] != "" {
		details = append(details, "container "+short(r["container_id"]))
	}
	if len(details) > 0 {
		text = strings.TrimSpace(cut(text) + " [" + strings.Join(details, ", ") + "]")
	}
	return text
}

// short shortens the id of a container as the tools of containers do.
func short(id string) string { return id[:min(len(id), 12)] }

func (c *collector) timeline() section {
	s := section{ID: "timeline", Title: "Boots and time line"}
	span := max(c.options.Now.Unix()-c.options.Since.Unix(), barCount)
	width := (span + barCount - 1) / barCount
	bars, note, err := c.since(`SELECT (time - ?2) / ?3 AS bar, sum(coalesce(count, 1)) AS attempts, max(coalesce(severity, 0)) AS severity
		FROM kernel_module_loads WHERE time >= ?1 AND time >= ?2 GROUP BY bar ORDER BY bar`, c.options.Since.Unix(), width)
	if err != nil {
		return failed(s, err)
	}
	s.Note = note
	s.Chart = newChart(c.options.Since, time.Duration(width)*time.Second, bars)
	boots, note, err := c.since(`SELECT boot_id, min(time - uptime) AS booted, min(time) AS first, max(time) AS last, count(*) AS events,
		sum(coalesce(reports_load, 0)) AS loads, sum(event_name = 'module_hidden') AS hidden, sum(event_name = 'sensor_tampered') AS tampered
		FROM kernel_module_events WHERE time >= ?1 AND boot_id <> '' GROUP BY boot_id ORDER BY first DESC LIMIT ?2`, maxGroups)
	if err != nil {
		return failed(s, err)
	}
	t := table{ID: "boots", Title: "Boots", Note: note, Columns: []string{"Booted (UTC)", "First event", "Last event", "Events", "Loads", "Hidden modules", "Tampering", "Boot id"}}
	for _, r := range boots {
		t.add(utc(r.int("booted")), utc(r.int("first")), utc(r.int("last")), r["events"], r["loads"], r["hidden"], r["tampered"], r["boot_id"])
	}
	s.Tables = append(s.Tables, t)
	s.Summary = fmt.Sprintf("%d attempts to load a module in %d boots.", s.Chart.Total, len(boots))
	return s
}

func (c *collector) groups() section {
	s := section{ID: "groups", Title: "Loads by signer and origin", About: "A signer is proven only if the kernel's verdict is valid."}
	for _, by := range []struct{ id, title, expressions, columns string }{
		{"signers", "By signer", "coalesce(nullif(signature_status, ''), 'unknown') AS a, coalesce(nullif(signer, ''), '') AS b", "Verdict|Signer"},
		{"origins", "By origin", "coalesce(nullif(origin, ''), 'unknown') AS a, coalesce(outcome, '') AS b", "Origin|Outcome"},
	} {
		rows, note, err := c.since(`SELECT `+by.expressions+`, sum(coalesce(count, 1)) AS attempts, count(DISTINCT name) AS modules, max(time) AS last
			FROM kernel_module_loads WHERE time >= ?1 GROUP BY a, b ORDER BY attempts DESC, a, b LIMIT ?2`, maxGroups)
		if err != nil {
			return failed(s, err)
		}
		t := table{ID: by.id, Title: by.title, Note: note, Columns: append(strings.Split(by.columns, "|"), "Attempts", "Modules", "Last (UTC)")}
		for _, r := range rows {
			t.add(r["a"], r["b"], r["attempts"], r["modules"], utc(r.int("last")))
		}
		s.Tables = append(s.Tables, t)
	}
	return s
}

func (c *collector) loads() section {
	s := section{ID: "loads", Title: "Latest loads"}
	rows, note, err := c.since(`SELECT time, outcome, error, name, path, origin, signature_status, signer, process_name, process_path, cmdline, pid, uid, user_name,
		container_id, findings, severity, coalesce(count, 1) AS attempts FROM kernel_module_loads WHERE time >= ?1 ORDER BY eid DESC LIMIT ?2`, maxLoads)
	if err != nil {
		return failed(s, err)
	}
	t := table{ID: "load-list", Title: "Attempts to load a module, the newest first", Note: note, Columns: []string{"Time (UTC)", "Outcome", "Module", "From", "Signature", "By", "Findings"}}
	for _, r := range rows {
		outcome := strings.TrimSpace(r["outcome"] + " " + r["error"])
		if n := r.int("attempts"); n > 1 {
			outcome += fmt.Sprintf(" (%d times)", n)
		}
		t.add(utc(r.int("time")), outcome, r["name"], origin(r), strings.TrimSpace(r["signature_status"]+" "+r["signer"]), process(r), strings.ReplaceAll(r["findings"], ",", " "))
	}
	if len(rows) == maxLoads {
		s.Summary = fmt.Sprintf("The newest %d are shown.", maxLoads)
	}
	s.Tables = append(s.Tables, t)
	return s
}

func (c *collector) autostart() section {
	s := section{ID: "autostart", Title: "Autostart", About: "Lines of the configuration that take effect: all those of files that no package owns, and of the others those that load a module or run a command."}
	rows, err := c.rows(`SELECT place, file, line, text, name, argument, coalesce(file_package, '') AS package, reason FROM kernel_module_autostart
		WHERE effective IS NOT 0 AND coalesce(place, '') <> ''
			AND (coalesce(file_package, '') = '' OR action NOT IN ('alias', 'blacklist', 'options', 'remove', 'softdep', 'weakdep'))
		ORDER BY coalesce(file_package, '') <> '', place, file, line`)
	if err != nil {
		return failed(s, err)
	}
	t := table{ID: "autostart-list", Title: "Lines that take effect", Columns: []string{"Place", "File", "Line", "Text", "Module", "Package of the file", "Remark"}, More: int64(max(len(rows)-maxAutostart, 0))}
	unowned := 0
	for _, r := range rows {
		if r["package"] == "" {
			unowned++
		}
	}
	for _, r := range rows[:min(len(rows), maxAutostart)] {
		t.add(r["place"], r["file"], r["line"], r["text"], r["name"], r["package"], r["reason"])
	}
	s.Summary = fmt.Sprintf("%d lines, %d of them in files that no package owns.", len(rows), unowned)
	s.Tables = append(s.Tables, t)
	return s
}

// Bits of the kernel's taints that a module sets (Documentation/admin-guide/tainted-kernels.rst).
const (
	taintForced    = 1 << 1
	taintOutOfTree = 1 << 12
	taintUnsigned  = 1 << 13
)

// differences says in what a loaded module differs from one that a package installed.
func differences(r row) (all []string) {
	missing := strings.Split(r["missing"], ",")
	if r.int("hidden") == 1 {
		all = append(all, "hidden: the kernel's own list omits it")
	}
	taints := r.int("taints")
	for _, taint := range []struct {
		bit  int64
		text string
	}{{taintUnsigned, "unsigned"}, {taintOutOfTree, "from out of the kernel's tree"}, {taintForced, "forced"}} {
		if taints&taint.bit != 0 {
			all = append(all, taint.text)
		}
	}
	switch {
	case r["state"] == "Gone":
		all = append(all, "not loaded now, and remembered by macOS")
	case r["path"] == "" && !slices.Contains(missing, "path"):
		all = append(all, "no file")
	case r["package"] == "" && r["team_id"] == "" && !slices.Contains(missing, "package"):
		all = append(all, "no package owns its file")
	}
	return all
}

func (c *collector) inventory() section {
	s := section{ID: "inventory", Title: "Modules that differ", About: "Loaded modules that are hidden, unsigned, forced, from out of the kernel's tree, without a file, or of no package."}
	rows, err := c.rows(`SELECT name, state, taints, taint_flags, path, sha256, signer, package, team_id, load_id, views, hidden, missing FROM kernel_module_inventory ORDER BY hidden DESC, name`)
	if err != nil {
		return failed(s, err)
	}
	t := table{ID: "inventory-list", Title: "Modules that differ", Columns: []string{"Module", "Differs", "File", "Signer", "Shown by", "SHA-256", "Load"}}
	hidden, differing := int64(0), 0
	for _, r := range rows {
		hidden += r.int("hidden")
		differs := differences(r)
		if len(differs) == 0 {
			continue
		}
		if differing++; differing > maxInventory {
			t.More++
			continue
		}
		t.add(cmp.Or(r["name"], "without a name"), strings.Join(differs, "; "), r["path"], r["signer"], strings.Trim(strings.ReplaceAll(r["views"], `"`, ""), "[]"), r["sha256"], r["load_id"])
	}
	s.Summary = fmt.Sprintf("%d of %d loaded modules differ, %d hidden.", differing, len(rows), hidden)
	c.page.Figures = append(c.page.Figures, figure{"hidden modules", hidden, map[bool]string{true: "critical", false: "low"}[hidden > 0]})
	s.Tables = append(s.Tables, t)
	return s
}

func (c *collector) sensors() section {
	s := section{ID: "sensors", Title: "Sensors", About: "What watched, what it lost, and when nothing watched."}
	rows, err := c.rows(`SELECT * FROM kernel_module_sensors LIMIT ?1`, maxSensors)
	if err != nil {
		return failed(s, err)
	}
	health := table{ID: "sensor-list", Title: "Health of the sensors", Columns: []string{"Source", "State", "Since (UTC)", "Reason", "Received", "Lost", "Filtered", "Not decoded", "Shed", "Last event (UTC)"}}
	gaps := table{ID: "gaps", Title: "Gaps in this boot", Columns: []string{"Source", "From (UTC)", "To (UTC)", "Length"}}
	failing := int64(0)
	for _, r := range rows {
		if r["state"] == kmodquery.StateFailed {
			failing++
		}
		health.add(r["source"], r["state"], utc(r.int("since")), r["reason"], r["received"], r["lost"], r["filtered"], r["decode_errors"], r["shed"], utc(r.int("last_event_time")))
		if start, end := r.int("gap_start"), r.int("gap_end"); start != 0 {
			gaps.add(r["source"], utc(start), utc(end), (time.Duration(end-start) * time.Second).String())
		}
	}
	s.Tables = append(s.Tables, health)
	if len(gaps.Rows) > 0 {
		s.Tables = append(s.Tables, gaps)
	}
	if len(rows) > 0 {
		r := rows[0]
		store := table{ID: "store", Title: "Event store", Columns: []string{"Path", "Rows", "Bytes", "Oldest event (UTC)", "Role of this process", "Defects"}}
		store.add(r["store_path"], r["store_rows"], r["store_bytes"], utc(r.int("oldest_time")), r["role"], cmp.Or(r["store_reason"], "none"))
		s.Tables = append(s.Tables, store)
	}
	s.Summary = fmt.Sprintf("%d sensors, %d of them failed; gaps: %d.", len(rows), failing, len(gaps.Rows))
	c.page.Figures = append(c.page.Figures, figure{"failed sensors", failing, map[bool]string{true: "high", false: "low"}[failing > 0]})
	return s
}

// utc returns a time of day in UTC, and "" for 0.
func utc(seconds int64) string {
	if seconds == 0 {
		return ""
	}
	return time.Unix(seconds, 0).UTC().Format(time.DateTime)
}

// cut shortens a text to maxText characters.
func cut(text string) string {
	count := 0
	for i := range text {
		if count++; count > maxText {
			return text[:i] + "…"
		}
	}
	return text
}

// identifier returns a text as a part of an id of HTML.
func identifier(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, text)
}
