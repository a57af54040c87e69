package main

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/extension/shell"
	"github.com/kmodquery/kmodquery/extension/virtualtable"
	"github.com/kmodquery/kmodquery/internal/trusted"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

const (
	// watchEvery is how often the store is asked for new events.
	watchEvery = time.Second
	// maxPage bounds the events whose rows are written at once.
	maxPage = 500
	// maxUnprivilegedLines bounds the lines of a page that any user can cause.
	maxUnprivilegedLines = 20
	// maxShown bounds a value in a line, in characters.
	maxShown = 200
	// maxPositionFile bounds the file of --position, in bytes.
	maxPositionFile = 100
)

// watchOptions are the flags of the command watch.
type watchOptions struct {
	where    string // SQL; "" is every row
	since    time.Duration
	position string // path; "" keeps none
	priority bool
	isReader bool
}

// newRows are the loads whose attempt is over, and the findings that belong to none, with an eid
// above one and up to another.
const newRows = `SELECT * FROM (
	SELECT eid, time, utc, 'load' AS kind, severity, outcome, name, path, origin, signature_status, signer, uid, user_name,
		pid, process_name, process_path, cmdline, container_id, findings, NULL AS reason, NULL AS event, load_id, count, unprivileged
	FROM kernel_module_loads WHERE eid > ?1 AND eid <= ?2
	UNION ALL
	SELECT eid, time, utc(time) AS utc, 'finding' AS kind, severity, NULL AS outcome, name, path, origin, signature_status, signer, uid, NULL AS user_name,
		pid, NULL AS process_name, process_path, cmdline, container_id, signature_id AS findings, reason, trigger AS event, load_id, NULL AS count, unprivileged
	FROM kernel_module_findings WHERE eid > ?1 AND eid <= ?2
)`

// watch writes a line for each load and each finding as soon as it is stored, until ctx ends.
// It records if no other process does, unless --no-record is set.
func watch(ctx context.Context, c *config, f files) error {
	w := &watcher{config: c, files: f, sql: newRows + " ORDER BY eid"}
	if c.watch.where != "" {
		w.sql = newRows + " WHERE (" + c.watch.where + "\n) ORDER BY eid"
	}
	if err := w.readPosition(); err != nil {
		return err
	}
	if !c.watch.isReader {
		return inTurn(ctx, c, f.report, w.follow)
	}
	failure := ""
	for ctx.Err() == nil {
		// A reader can be opened only while there is a store.
		a, err := open(ctx, c, f.report)
		if err == nil {
			err = errors.Join(w.follow(ctx, a), a.Close())
		}
		if w.isInvalid {
			return err
		}
		failure = w.reportOnce(failure, err)
		sleep(ctx, watchEvery)
	}
	return nil
}

// sleep returns after some time, or when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// A watcher writes new rows once each, in the order of their storage, whichever process records.
type watcher struct {
	*config
	files
	sql       string
	at        int64 // eid up to which rows were written; valid if isPlaced
	isPlaced  bool
	isInvalid bool // the condition is
}

// reportOnce reports an error unless it is the last one, and returns its text.
func (w *watcher) reportOnce(last string, err error) string {
	if err == nil {
		return ""
	}
	if err.Error() != last {
		w.report.Printf("%v; trying again", err)
	}
	return err.Error()
}

// follow writes the new rows of a store until ctx ends. It returns an error only if it cannot
// go on.
func (w *watcher) follow(ctx context.Context, a *app) error {
	a.awaitStart(w.config, w.report)
	if a.recorder != nil {
		w.report.Print("no other process records, so this one does")
	}
	db, err := virtualtable.OpenShell(ctx, a.plugins...)
	if err != nil {
		return fmt.Errorf("attach the tables: %w", err)
	}
	defer db.Close()
	var none bytes.Buffer
	check := strings.NewReplacer("?1", "0", "?2", "0").Replace(newRows) + strings.TrimPrefix(w.sql, newRows)
	if err := shell.Query(ctx, db, &none, shell.CSV, check); err != nil && ctx.Err() == nil {
		w.isInvalid = true
		return err
	}
	failure := ""
	for ctx.Err() == nil {
		err := w.place(ctx, a, db)
		for more := err == nil; more && err == nil && ctx.Err() == nil; {
			more, err = w.writePage(ctx, a, db)
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errOutput) {
			return err
		}
		failure = w.reportOnce(failure, err)
		sleep(ctx, watchEvery)
	}
	return nil
}

// place finds where to begin. A position beyond the last row belongs to a store that is gone.
func (w *watcher) place(ctx context.Context, a *app, db *sql.DB) error {
	last, err := a.store.LastEID(ctx)
	switch {
	case err != nil:
		return err
	case w.isPlaced && w.at > last:
		w.report.Printf("the event store is another one; beginning with its first event")
		w.at = 0
	case w.isPlaced:
		return nil
	case w.watch.since > 0:
		const first = `SELECT min(eid) FROM (SELECT min(eid) AS eid FROM kernel_module_loads WHERE time >= ?1
			UNION ALL SELECT min(eid) FROM kernel_module_findings WHERE time >= ?1)`
		var eid sql.NullInt64
		if err := db.QueryRowContext(ctx, first, time.Now().Add(-w.watch.since).Unix()).Scan(&eid); err != nil {
			return err
		}
		if w.at = last; eid.Valid {
			w.at = min(eid.Int64-1, last)
		}
	default:
		w.at = last
	}
	w.isPlaced = true
	return w.writePosition()
}

// A watchPage is a part of the order of storage.
type watchPage struct {
	to   int64          // eid of its last event
	late map[int64]bool // eids of events of attempts that were over before
	full bool           // there may be more events
}

var errPageFull = errors.New("page is full")

// nextPage finds the next events after a position. Every event up to the last of them is stored.
func nextPage(ctx context.Context, store *sqlite.Store, at int64) (*watchPage, error) {
	closings := kmodquery.Condition{Column: "event_name", Op: kmodquery.Equal, Values: []any{kmodquery.EventLoadClosed, kmodquery.EventLoadClosedUnprivileged}}
	p := &watchPage{to: at, late: map[int64]bool{}}
	byLoad := map[string][]int64{} // events of attempts
	var loads []any
	end := int64(math.MaxInt64)
	for _, conditions := range [][]kmodquery.Condition{{closings}, nil} {
		n := 0
		err := store.EventsBetween(ctx, at, end, kmodquery.Filter{Conditions: conditions, Columns: []string{"event_name", "load_id"}}, func(e *kmodquery.Event) error {
			if n++; n > maxPage {
				return errPageFull
			}
			p.to = max(p.to, e.EID)
			if n == maxPage {
				p.full, end = true, e.EID
			}
			if e.LoadID != "" && slices.Contains(kmodquery.LoadEvents(), e.EventName) {
				if byLoad[e.LoadID] == nil {
					loads = append(loads, e.LoadID)
				}
				byLoad[e.LoadID] = append(byLoad[e.LoadID], e.EID)
			}
			return nil
		})
		if err != nil && !errors.Is(err, errPageFull) {
			return nil, err
		}
	}
	p.to = min(p.to, end)
	if len(loads) == 0 {
		return p, nil
	}
	filter := kmodquery.Filter{Conditions: []kmodquery.Condition{closings, {Column: "load_id", Op: kmodquery.Equal, Values: loads}}, Columns: []string{"load_id"}}
	err := store.EventsBetween(ctx, 0, p.to, filter, func(closing *kmodquery.Event) error {
		for _, eid := range byLoad[closing.LoadID] {
			if eid > closing.EID {
				p.late[eid] = true
			}
		}
		return nil
	})
	return p, err
}

// writePage writes the next rows, and reports whether there may be more.
func (w *watcher) writePage(ctx context.Context, a *app, db *sql.DB) (more bool, err error) {
	page, err := nextPage(ctx, a.store, w.at)
	if err != nil || page.to == w.at {
		return false, err
	}
	rows, err := db.QueryContext(ctx, w.sql, w.at, page.to)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return false, err
	}
	var out bytes.Buffer
	unprivileged := 0
	// Rules accept the row of a load itself.
	ofLoads := append(kmodquery.LoadEvents(), kmodquery.EventLoadClosed, kmodquery.EventLoadClosedUnprivileged)
	for rows.Next() {
		values := make([]any, len(names))
		to := make([]any, len(names))
		for i := range values {
			to[i] = &values[i]
		}
		if err := rows.Scan(to...); err != nil {
			return false, err
		}
		row := watchedRow{names, values}
		if eid, _ := row.value("eid").(int64); slices.Contains(ofLoads, row.text("event")) && !page.late[eid] {
			continue // the row of the load has it
		}
		if row.text("unprivileged") == "1" {
			if unprivileged++; unprivileged > maxUnprivilegedLines {
				continue
			}
		}
		if err := w.add(&out, row); err != nil {
			return false, err
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return false, err
	}
	if left := unprivileged - maxUnprivilegedLines; left > 0 {
		if w.format == shell.JSON {
			fmt.Fprintf(&out, "{\"kind\":\"left_out\",\"rows\":%d}\n", left)
		} else {
			fmt.Fprintf(&out, "%s%d more rows that any user can cause are left out; the tables have them\n", w.level(""), left)
		}
	}
	if _, err := w.stdout.Write(out.Bytes()); err != nil {
		return false, fmt.Errorf("%w: %w", errOutput, err)
	}
	w.at = page.to
	return page.full, w.writePosition()
}

var errOutput = errors.New("write rows")

// A watchedRow is a row of newRows.
type watchedRow struct {
	names  []string
	values []any
}

func (r watchedRow) value(name string) any { return r.values[slices.Index(r.names, name)] }

// text returns a value as text; "" is NULL.
func (r watchedRow) text(name string) string {
	switch v := r.value(name).(type) {
	case nil:
		return ""
	case []byte:
		return string(v)
	default:
		return fmt.Sprint(v)
	}
}

// add adds the line of a row.
func (w *watcher) add(out *bytes.Buffer, row watchedRow) error {
	if w.format != shell.JSON {
		fmt.Fprintf(out, "%s%s\n", w.level(row.text("severity")), row)
		return nil
	}
	for i, name := range row.names {
		value, err := json.Marshal(row.values[i])
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%c%q:%s", "{,"[min(i, 1)], name, value)
	}
	out.WriteString("}\n")
	return nil
}

// level returns the level of a severity, as the journal and logger(1) read it at the beginning of
// a line, if that is wanted.
func (w *watcher) level(severity string) string {
	if !w.watch.priority {
		return ""
	}
	if n, err := strconv.Atoi(severity); err == nil && n >= 0 && n < len(levels) {
		return levels[n]
	}
	return levels[0]
}

// levels are those of syslog: info, notice, warning, err and err.
var levels = []string{"<6>", "<5>", "<4>", "<3>", "<3>"}

var severities = []string{"info", "low", "moderate", "high", "critical"}

// plainValue matches a value that needs no quotes: it cannot be taken for two values.
var plainValue = regexp.MustCompile(`^[^\s"=\\]+$`)

// shown returns a value as one word of a line.
func shown(text string) string {
	if runes := []rune(text); len(runes) > maxShown {
		text = string(runes[:maxShown-1]) + "…"
	}
	if text = kmodquery.Printable(text); plainValue.MatchString(text) {
		return text
	}
	return strconv.Quote(text)
}

// String returns a row as one line: its time, severity and outcome, the module, and what else is
// known as name=value.
func (r watchedRow) String() string {
	severity := "-"
	if n, err := strconv.Atoi(r.text("severity")); err == nil && n >= 0 && n < len(severities) {
		severity = severities[n]
	}
	what := r.text("outcome")
	if r.text("kind") == "finding" {
		what = r.text("event")
	}
	count := r.text("count")
	if count == "1" {
		count = ""
	}
	line := fmt.Sprintf("%sZ %-8s %-11s %s", strings.Replace(r.text("utc"), " ", "T", 1), severity, shown(what), shown(cmp.Or(r.text("name"), "-")))
	for _, pair := range [][2]string{
		{"from", cmp.Or(r.text("path"), r.text("origin"))}, {"signature", r.text("signature_status")}, {"signer", r.text("signer")},
		{"user", cmp.Or(r.text("user_name"), r.text("uid"))}, {"by", cmp.Or(r.text("process_path"), r.text("process_name"))}, {"pid", r.text("pid")},
		{"container", r.text("container_id")}, {"count", count}, {"findings", r.text("findings")}, {"reason", r.text("reason")},
	} {
		if pair[1] != "" {
			line += " " + pair[0] + "=" + shown(pair[1])
		}
	}
	return line
}

// A position is what the file of --position holds.
type position struct {
	EID int64 `json:"eid"`
}

// readPosition reads where an earlier run ended.
func (w *watcher) readPosition() error {
	if w.watch.position == "" {
		return nil
	}
	file, err := trusted.Open(w.watch.position)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read position: %w", err)
	}
	defer file.Close()
	var p position
	content := make([]byte, maxPositionFile)
	n, _ := file.Read(content)
	if err := json.Unmarshal(content[:n], &p); err != nil || p.EID < 0 {
		return fmt.Errorf("%s holds no position; remove it to begin with new events", w.watch.position)
	}
	w.at, w.isPlaced = p.EID, true
	return nil
}

// writePosition replaces the file of --position, which is whole whenever the process or the host
// ends.
func (w *watcher) writePosition() error {
	path := w.watch.position
	if path == "" {
		return nil
	}
	err := func() error {
		file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
		if err != nil {
			return err
		}
		defer os.Remove(file.Name()) // it has another name by then
		_, err = fmt.Fprintf(file, "{\"eid\":%d}\n", w.at)
		if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
			return err
		}
		return os.Rename(file.Name(), path)
	}()
	if err != nil {
		return fmt.Errorf("write position: %w", err)
	}
	return nil
}
