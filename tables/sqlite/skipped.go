package sqlite

import (
	"context"
	"maps"
	"sync"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

// skipped counts, by cursor, the events that expired before the cursor gave them. It has
// a lock of its own, because events expire while the store is locked.
type skipped struct {
	mu      sync.Mutex
	cursors map[string]*skippedCursor // nil until they were read
}

type skippedCursor struct {
	position   int64
	conditions []kmodquery.Condition
	events     int64
}

// moved notes the position of a cursor.
func (s *skipped) moved(name string, state *cursorState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursors == nil {
		s.cursors = map[string]*skippedCursor{}
	}
	if s.cursors[name] == nil {
		// Without conditions all events are counted, too many rather than too few.
		conditions, _ := state.Query.Conditions()
		s.cursors[name] = &skippedCursor{conditions: conditions, events: state.Skipped}
	}
	s.cursors[name].position = state.Position
}

func (s *skipped) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cursors, name)
}

// of returns the number of events that a cursor has not given.
func (s *skipped) of(name string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cursors[name]; c != nil {
		return c.events
	}
	return 0
}

// total returns the number of all cursors together.
func (s *skipped) total() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.cursors {
		n += c.events
	}
	return n
}

// countSkipped counts the events that are about to be deleted and that a cursor has not
// examined. eids selects them. The caller holds the store's lock.
func (s *Store) countSkipped(ctx context.Context, eids string, args ...any) error {
	if err := s.loadSkipped(ctx); err != nil {
		return err
	}
	s.cursors.skipped.mu.Lock()
	all := maps.Clone(s.cursors.skipped.cursors)
	s.cursors.skipped.mu.Unlock()
	for _, c := range all {
		where := append(conditions(c.conditions), squirrel.Expr("eid > ?", c.position), squirrel.Expr("eid IN ("+eids+")", args...))
		var n int64
		if err := squirrel.Select("count(*)").From("events").Where(where).RunWith(s.writer).QueryRowContext(ctx).Scan(&n); err != nil {
			return err
		}
		s.cursors.skipped.mu.Lock()
		c.events += n
		s.cursors.skipped.mu.Unlock()
	}
	return nil
}

// loadSkipped reads the cursors' positions if no cursor was asked for in this process.
func (s *Store) loadSkipped(ctx context.Context) error {
	s.cursors.skipped.mu.Lock()
	isLoaded := s.cursors.skipped.cursors != nil
	s.cursors.skipped.mu.Unlock()
	if isLoaded {
		return nil
	}
	states, err := s.readCursors(ctx, s.writer)
	for name, state := range states {
		s.cursors.skipped.moved(name, state)
	}
	return err
}
