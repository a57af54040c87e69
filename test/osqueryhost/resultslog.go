package osqueryhost

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Names of the logs, as in filesystem_logger.cpp.
const (
	resultsFile   = "osqueryd.results.log"
	snapshotsFile = "osqueryd.snapshots.log"
)

// An Item has the fields that every line of the logs has about its query's run. The
// order of the fields is osquery's (addLegacyFieldsAndDecorations, query.cpp).
type Item struct {
	Name           string `json:"name"`
	HostIdentifier string `json:"hostIdentifier"`
	CalendarTime   string `json:"calendarTime"`
	UnixTime       int64  `json:"unixTime"`
	Epoch          uint64 `json:"epoch"`
	Counter        uint64 `json:"counter"`
	Numerics       bool   `json:"numerics"`
}

// A Result is one line of the results log: a row that was added or removed. Numbers are
// read as they are written, as text.
type Result struct {
	Item
	Columns Columns `json:"columns"`
	Action  string  `json:"action"`
}

// A Whole is one line of the results log without --logger_event_type: all changes of one
// run.
type Whole struct {
	DiffResults struct {
		Removed []Columns `json:"removed"`
		Added   []Columns `json:"added"`
	} `json:"diffResults"`
	Item
}

// A Snapshot is one line of the snapshots log: all rows of one run.
type Snapshot struct {
	Snapshot []Columns `json:"snapshot"`
	Action   string    `json:"action"`
	Item
}

// Columns are the columns of a row.
type Columns map[string]string

// UnmarshalJSON also accepts the numbers of --logger_numerics.
func (c *Columns) UnmarshalJSON(content []byte) error {
	var values map[string]any
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	if err := decoder.Decode(&values); err != nil {
		return err
	}
	*c = Columns{}
	for column, value := range values {
		(*c)[column] = fmt.Sprint(value)
	}
	return nil
}

type resultsLog struct {
	host      string
	numerics  bool
	whole     bool  // without --logger_event_type
	maxLine   int64 // of the TLS logger; 0 is the filesystem logger, which has no limit
	warnings  io.Writer
	results   *os.File
	snapshots *os.File
}

func openResultsLog(options Options, set flagSet) (*resultsLog, error) {
	open := func(name string) (*os.File, error) {
		f, err := os.OpenFile(filepath.Join(options.Dir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
		if err != nil {
			return nil, fmt.Errorf("open results log: %w", err)
		}
		return f, nil
	}
	results, err := open(resultsFile)
	if err != nil {
		return nil, err
	}
	snapshots, err := open(snapshotsFile)
	if err != nil {
		return nil, errors.Join(err, results.Close())
	}
	l := &resultsLog{
		host:      options.HostIdentifier,
		numerics:  set.bool("logger_numerics"),
		whole:     !set.bool("logger_event_type"),
		warnings:  options.Output,
		results:   results,
		snapshots: snapshots,
	}
	if set["logger_plugin"] == "tls" {
		l.maxLine = set.int("logger_tls_max_linesize")
	}
	return l, nil
}

func (l *resultsLog) item(name string, now time.Time, epoch uint64) Item {
	now = now.UTC()
	return Item{
		Name:           name,
		HostIdentifier: l.host,
		CalendarTime:   now.Format(time.ANSIC) + " UTC",
		UnixTime:       now.Unix(),
		Epoch:          epoch,
		Numerics:       l.numerics,
	}
}

// differential writes one line per row, the removed ones first (serializeDiffResults,
// diff_results.cpp), or one line with all.
func (l *resultsLog) differential(item Item, c change) error {
	if l.whole {
		var w jsonWriter
		w.raw(`{"diffResults":{"removed":`)
		w.rows(c.removed, l.numerics)
		w.raw(`,"added":`)
		w.rows(c.added, l.numerics)
		w.raw("},")
		item.write(&w)
		w.raw("}")
		return l.write(l.results, w)
	}
	for _, changed := range []struct {
		action string
		rows   []row
	}{{"removed", c.removed}, {"added", c.added}} {
		for _, r := range changed.rows {
			var w jsonWriter
			w.raw("{")
			item.write(&w)
			w.raw(`,"columns":`)
			w.row(r, l.numerics)
			w.raw(`,"action":"` + changed.action + `"}`)
			if err := l.write(l.results, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// snapshot writes one line with all rows, even if there are none.
func (l *resultsLog) snapshot(item Item, rows []row) error {
	var w jsonWriter
	w.raw(`{"snapshot":`)
	w.rows(rows, l.numerics)
	w.raw(`,"action":"snapshot",`)
	item.write(&w)
	w.raw("}")
	return l.write(l.snapshots, w)
}

// write writes the fields of the item without braces.
func (i Item) write(w *jsonWriter) {
	w.raw(`"name":`)
	w.str(i.Name)
	w.raw(`,"hostIdentifier":`)
	w.str(i.HostIdentifier)
	w.raw(`,"calendarTime":`)
	w.str(i.CalendarTime)
	w.raw(fmt.Sprintf(`,"unixTime":%d,"epoch":%d,"counter":%d,"numerics":%t`, i.UnixTime, i.Epoch, i.Counter, i.Numerics))
}

// write appends a line (FilesystemLoggerPlugin::logStringToFile, filesystem_logger.cpp), of
// any length. The TLS logger drops long lines, and those that are no JSON
// (TLSLogForwarder::send, tls_logger.cpp).
func (l *resultsLog) write(f *os.File, w jsonWriter) error {
	if l.maxLine > 0 && int64(len(w.b)) > l.maxLine {
		fmt.Fprintf(l.warnings, "Linesize exceeds TLS logger maximum: %d\n", len(w.b))
		return nil
	}
	if l.maxLine > 0 && w.stopped {
		return nil
	}
	if _, err := f.Write(append(w.b, '\n')); err != nil {
		return fmt.Errorf("write results log: %w", err)
	}
	return nil
}

func (l *resultsLog) Close() error {
	return errors.Join(l.results.Close(), l.snapshots.Close())
}

// ResultsLog reads the results log from its beginning, including the lines of earlier
// hosts on the same Options.Dir.
func (h *Host) ResultsLog() ([]Result, error) {
	return readLog[Result](filepath.Join(h.options.Dir, resultsFile))
}

// WholeResultsLog reads the results log of a host without --logger_event_type.
func (h *Host) WholeResultsLog() ([]Whole, error) {
	return readLog[Whole](filepath.Join(h.options.Dir, resultsFile))
}

// SnapshotsLog reads the snapshots log in the same way.
func (h *Host) SnapshotsLog() ([]Snapshot, error) {
	return readLog[Snapshot](filepath.Join(h.options.Dir, snapshotsFile))
}

func readLog[T any](path string) ([]T, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read results log: %w", err)
	}
	defer f.Close()
	var lines []T
	for decoder := json.NewDecoder(f); decoder.More(); {
		var line T
		if err := decoder.Decode(&line); err != nil {
			return nil, fmt.Errorf("read results log: %w", err)
		}
		lines = append(lines, line)
	}
	return lines, nil
}
