package sqlite

import (
	"context"
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
	asked      int64 // as in cursorState
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
	s.cursors[name].position, s.cursors[name].asked = state.Position, state.Asked
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

// add adds numbers of events to those of the cursors.
func (s *skipped) add(events map[*skippedCursor]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, n := range events {
		c.events += n
	}
}

// countSkipped returns, by cursor, the number of events that are about to be deleted and
// that the cursor has not examined. eids selects them. A cursor that nobody has asked for
// in a long time misses nothing. The caller holds the store's lock.
func (s *Store) countSkipped(ctx context.Context, eids string, args ...any) (map[*skippedCursor]int64, error) {
	if err := s.loadSkipped(ctx); err != nil {
		return nil, err
	}
	since := s.options.Now().Add(-forgetAfter).Unix()
	var used []skippedCursor
	var keys []*skippedCursor
	s.cursors.skipped.mu.Lock()
	for _, c := range s.cursors.skipped.cursors {
		if c.asked >= since {
			used, keys = append(used, *c), append(keys, c)
		}
	}
	s.cursors.skipped.mu.Unlock()
	counted := map[*skippedCursor]int64{}
	for i, c := range used {
		// eids comes first, because its parameters may have numbers.
		where := append(squirrel.And{squirrel.Expr("eid IN ("+eids+")", args...), squirrel.Expr("eid > ?", c.position)}, conditions(c.conditions)...)
		var n int64
		if err := squirrel.Select("count(*)").From("events").Where(where).RunWith(s.writer).QueryRowContext(ctx).Scan(&n); err != nil {
			return nil, err
		}
		counted[keys[i]] = n
	}
	return counted, nil
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
