package osqueryhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A state is what osquery keeps in its database: the last rows of each query, so that a
// differential continues after a restart, and the queries that may not run. It is a folder
// with a file for each query; a host without the folder has a new database.
type state struct {
	dir string

	mu      sync.Mutex
	queries map[string]queryState
	failed  failures
	killed  bool // nothing is written any more
}

type queryState struct {
	epoch   uint64
	counter uint64
	rows    []row
	broken  bool // the rows were written as JSON that cannot be read
}

// failures are the queries that ran when a worker ended. Times are in seconds.
type failures struct {
	Executing string           `json:"executing"` // the scheduled query that runs
	At        int64            `json:"at"`        // when osqueryd was killed
	Denylist  map[string]int64 `json:"denylist"`  // when a scheduled query may run again
	Live      map[string]int64 `json:"live"`      // when a live query that has not ended began
}

// failuresFile cannot be a query's file, which ends in .json.
const failuresFile = "failures"

func openState(dir string) (*state, error) {
	s := &state{dir: dir, queries: map[string]queryState{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("open database: %w", err)
		}
		name, err := url.PathUnescape(strings.TrimSuffix(filepath.Base(file), ".json"))
		if err != nil {
			return nil, fmt.Errorf("open database: %w", err)
		}
		query, err := decodeQuery(content)
		if err != nil {
			return nil, fmt.Errorf("read %s of the database: %w", file, err)
		}
		s.queries[name] = query
	}
	content, err := os.ReadFile(filepath.Join(dir, failuresFile))
	if err == nil {
		err = json.Unmarshal(content, &s.failed)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the database's denylist: %w", err)
	}
	if s.failed.Denylist == nil {
		s.failed.Denylist = map[string]int64{}
	}
	if s.failed.Live == nil {
		s.failed.Live = map[string]int64{}
	}
	return s, nil
}

// replace replaces the query's former rows, and returns the difference and the counter
// to log it with (Query::addNewResults, query.cpp). The counter is 0 for the first
// result in an epoch, so that a reader of the log can distinguish a whole result from a
// change. A query whose text has changed keeps its former rows.
func (s *state) replace(query string, rows []row, epoch uint64) (change, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	former, known := s.queries[query]
	if !known || former.epoch != epoch {
		return change{added: rows}, 0, s.save(query, queryState{epoch: epoch, rows: rows})
	}
	if former.broken {
		return change{}, 0, fmt.Errorf("Error adding new results to database for query %s: Error serializing JSON", query)
	}
	c := diff(former.rows, rows)
	if c.added == nil && c.removed == nil {
		return c, 1, nil
	}
	counter := former.counter + 1
	return c, counter, s.save(query, queryState{epoch: epoch, counter: counter, rows: rows})
}

// cells returns the number of cells of the query's former result.
func (s *state) cells(query string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return countCells(s.queries[query].rows)
}

func (s *state) save(name string, query queryState) error {
	content, whole := query.encode()
	query.broken = !whole
	s.queries[name] = query
	return s.write(url.PathEscape(name)+".json", content)
}

func (s *state) write(name string, content []byte) error {
	if s.killed {
		return errKilled
	}
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".next", content, 0o600); err != nil {
		return fmt.Errorf("write database: %w", err)
	}
	if err := os.Rename(path+".next", path); err != nil {
		return fmt.Errorf("write database: %w", err)
	}
	return nil
}

// encode returns the file of a query. It reports whether the rows could be written whole.
func (q queryState) encode() ([]byte, bool) {
	var rows jsonWriter
	rows.rows(q.rows, true)
	if rows.stopped {
		return fmt.Appendf(nil, `{"epoch":%d,"counter":%d,"broken":true}`, q.epoch, q.counter), false
	}
	return fmt.Appendf(nil, `{"epoch":%d,"counter":%d,"rows":%s}`, q.epoch, q.counter, rows.b), true
}

func decodeQuery(content []byte) (queryState, error) {
	var file struct {
		Epoch   uint64
		Counter uint64
		Broken  bool
		Rows    []row
	}
	decoder := json.NewDecoder(strings.NewReader(string(content)))
	decoder.UseNumber()
	if err := decoder.Decode(&file); err != nil {
		return queryState{}, err
	}
	for _, r := range file.Rows {
		for column, value := range r {
			number, ok := value.(json.Number)
			if !ok {
				continue
			}
			var err error
			if strings.ContainsAny(number.String(), ".e") {
				r[column], err = number.Float64()
			} else {
				r[column], err = number.Int64()
			}
			if err != nil {
				return queryState{}, err
			}
		}
	}
	return queryState{epoch: file.Epoch, counter: file.Counter, broken: file.Broken, rows: file.Rows}, nil
}

// begin notes the scheduled query that runs, as recordQueryStart does (config.cpp).
func (s *state) begin(query string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed.Executing = query
}

// finish notes that the scheduled query has ended.
func (s *state) finish() { s.begin("") }

// denySeconds is how long a scheduled query that killed its worker does not run
// (Schedule::Schedule, config.cpp).
const denySeconds = 86400

// fail notes that the worker was killed: the scheduled query that ran is put on the
// denylist, and live queries stay noted as running. It returns them.
func (s *state) fail(now time.Time) (queries []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed.Executing != "" {
		queries = append(queries, s.failed.Executing)
		s.failed.Denylist[s.failed.Executing] = now.Unix() + denySeconds
		s.failed.Executing = ""
	}
	for query, began := range s.failed.Live {
		if now.Unix()-began < denySeconds {
			queries = append(queries, query)
		}
	}
	_ = s.writeFailures() // it is written again with the next change
	return queries
}

// interrupt saves which query runs, for the next host, and ends all writing.
func (s *state) interrupt(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.killed {
		return nil
	}
	s.failed.At = now.Unix()
	err := s.writeFailures()
	s.killed = true
	return err
}

// recover puts the scheduled query that ran when the former host vanished on the denylist,
// if this host has a watchdog.
func (s *state) recover(watchdog bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	failed := s.failed.Executing
	if failed == "" {
		return nil
	}
	s.failed.Executing = ""
	if watchdog {
		s.failed.Denylist[failed] = s.failed.At + denySeconds
	}
	return s.writeFailures()
}

func (s *state) writeFailures() error {
	content, err := json.Marshal(s.failed)
	if err != nil {
		return fmt.Errorf("write database: %w", err)
	}
	return s.write(failuresFile, content)
}

// denied reports whether a scheduled query may not run now (Config::scheduledQueries). It
// removes what has expired or may not be denied.
func (s *state) denied(query scheduledQuery, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	until, ok := s.failed.Denylist[query.name]
	if !ok {
		return false
	}
	if now.Unix() <= until && query.denylist {
		return true
	}
	delete(s.failed.Denylist, query.name)
	_ = s.writeFailures() // it is written again with the next change
	return false
}

// beginLive notes a live query as running, unless it is already noted since less than the
// duration (Distributed::checkAndSetAsRunning, distributed.cpp).
func (s *state) beginLive(query string, now time.Time, duration int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if began, ok := s.failed.Live[query]; ok {
		return now.Unix() > began+duration
	}
	s.failed.Live[query] = now.Unix()
	return true
}

func (s *state) endLive(query string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.failed.Live, query)
}
