package osqueryhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// A state keeps each query's last rows in a file, as osquery keeps them in its
// database, so that a differential continues after a restart.
type state struct {
	path    string
	queries map[string]queryState
}

type queryState struct {
	Epoch   uint64              `json:"epoch"`
	Counter uint64              `json:"counter"`
	Rows    []map[string]string `json:"rows"`
}

func openState(path string) (*state, error) {
	s := &state{path: path, queries: map[string]queryState{}}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read differential state: %w", err)
	}
	if err := json.Unmarshal(content, &s.queries); err != nil {
		return nil, fmt.Errorf("read differential state %s: %w", path, err)
	}
	return s, nil
}

// replace replaces the query's former rows, and returns the difference and the counter
// to log it with (Query::addNewResults, query.cpp). The counter is 0 for the first
// result in an epoch, so that a reader of the log can distinguish a whole result from a
// change. A query whose text has changed keeps its former rows.
func (s *state) replace(query string, rows []map[string]string, epoch uint64) (change, uint64, error) {
	former, known := s.queries[query]
	if !known || former.Epoch != epoch {
		s.queries[query] = queryState{Epoch: epoch, Rows: rows}
		return change{added: rows}, 0, s.save()
	}
	c, err := diff(former.Rows, rows)
	if err != nil {
		return change{}, 0, err
	}
	if c.added == nil && c.removed == nil {
		return c, former.Counter, nil
	}
	former = queryState{Epoch: epoch, Counter: former.Counter + 1, Rows: rows}
	s.queries[query] = former
	return c, former.Counter, s.save()
}

func (s *state) save() error {
	content, err := json.Marshal(s.queries)
	if err != nil {
		return fmt.Errorf("write differential state: %w", err)
	}
	next := s.path + ".next"
	if err := os.WriteFile(next, content, 0o600); err != nil {
		return fmt.Errorf("write differential state: %w", err)
	}
	if err := os.Rename(next, s.path); err != nil {
		return fmt.Errorf("write differential state: %w", err)
	}
	return nil
}
