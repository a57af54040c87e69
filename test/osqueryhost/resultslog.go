package osqueryhost

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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

// A Result is one line of the results log: a row that was added or removed.
type Result struct {
	Item
	Columns map[string]string `json:"columns"`
	Action  string            `json:"action"`
}

// A Snapshot is one line of the snapshots log: all rows of one run.
type Snapshot struct {
	Snapshot []map[string]string `json:"snapshot"`
	Action   string              `json:"action"`
	Item
}

type resultsLog struct {
	host      string
	results   *os.File
	snapshots *os.File
}

func openResultsLog(options Options) (*resultsLog, error) {
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
	return &resultsLog{host: options.HostIdentifier, results: results, snapshots: snapshots}, nil
}

func (l *resultsLog) item(name string, now time.Time, epoch uint64) Item {
	now = now.UTC()
	return Item{
		Name:           name,
		HostIdentifier: l.host,
		CalendarTime:   now.Format(time.ANSIC) + " UTC",
		UnixTime:       now.Unix(),
		Epoch:          epoch,
	}
}

// differential writes one line per row, the removed ones first (serializeDiffResults,
// diff_results.cpp).
func (l *resultsLog) differential(item Item, c change) error {
	for _, row := range c.removed {
		if err := writeLine(l.results, Result{item, row, "removed"}); err != nil {
			return err
		}
	}
	for _, row := range c.added {
		if err := writeLine(l.results, Result{item, row, "added"}); err != nil {
			return err
		}
	}
	return nil
}

// snapshot writes one line with all rows, even if there are none.
func (l *resultsLog) snapshot(item Item, rows []map[string]string) error {
	if rows == nil {
		rows = []map[string]string{}
	}
	return writeLine(l.snapshots, Snapshot{rows, "snapshot", item})
}

func writeLine(f *os.File, line any) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(line); err != nil {
		return fmt.Errorf("write results log: %w", err)
	}
	if _, err := f.Write(b.Bytes()); err != nil {
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
