package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
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
	c := s.cursors[name]
	if c == nil {
		c = &skippedCursor{events: state.Skipped}
		s.cursors[name] = c
	}
	c.position, c.asked = state.Position, state.Asked
	// Without conditions all events are counted, too many rather than too few.
	c.conditions, _ = state.Query.Conditions()
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

// total returns the number of all cursors together, and false if they were not read.
func (s *skipped) total() (n int64, isRead bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.cursors {
		n += c.events
	}
	return n, s.cursors != nil
}

// add adds numbers of events, times factor, to those of the cursors.
func (s *skipped) add(events map[string]int64, factor int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, n := range events {
		if c := s.cursors[name]; c != nil {
			c.events += n * factor
		}
	}
}

// countSkipped returns, by cursor, the number of events that are about to be deleted and
// that the cursor has not examined. eids selects them. A cursor that nobody has asked for
// in a long time misses nothing. The caller holds the store's lock.
func (s *Store) countSkipped(ctx context.Context, tx *sql.Tx, eids string, args ...any) (map[string]int64, error) {
	if err := s.loadSkipped(ctx, tx); err != nil {
		return nil, err
	}
	since := s.options.Now().Add(-forgetAfter).Unix()
	used := map[string]skippedCursor{}
	s.cursors.skipped.mu.Lock()
	for name, c := range s.cursors.skipped.cursors {
		if c.asked >= since {
			used[name] = *c
		}
	}
	s.cursors.skipped.mu.Unlock()
	counted := map[string]int64{}
	for name, c := range used {
		// eids comes first, because its parameters may have numbers.
		where := append(squirrel.And{squirrel.Expr("eid IN ("+eids+")", args...), squirrel.Expr("eid > ?", c.position)}, conditions(c.conditions)...)
		where = append(where, shown(c.conditions)...)
		var n int64
		if err := squirrel.Select("count(*)").From("events").Where(where).RunWith(tx).QueryRowContext(ctx).Scan(&n); err != nil {
			return nil, err
		}
		if n > 0 {
			counted[name] = n
		}
	}
	return counted, nil
}

// storeSkipped stores the numbers of some cursors at once, because a reader or the next
// recorder may need them before a cursor moves.
func (s *Store) storeSkipped(ctx context.Context, tx *sql.Tx, counted map[string]int64) error {
	for name := range counted {
		var text string
		var sum int64
		row := tx.QueryRowContext(ctx, "SELECT state, sum FROM cursors WHERE name = ?", name)
		if err := row.Scan(&text, &sum); errors.Is(err, sql.ErrNoRows) {
			continue
		} else if err != nil {
			return fmt.Errorf("read cursor %s: %w", name, err)
		}
		state, ok := parseCursor(name, text, sum)
		if !ok {
			continue
		}
		state.Skipped = s.cursors.skipped.of(name)
		updated, _ := json.Marshal(state) // it was parsed
		const query = "UPDATE cursors SET state = ?, sum = ? WHERE name = ?"
		if _, err := tx.ExecContext(ctx, query, string(updated), cursorChecksum(name, string(updated)), name); err != nil {
			return fmt.Errorf("store cursor %s: %w", name, err)
		}
	}
	return nil
}

// totalSkipped returns the number of all cursors together.
func (s *Store) totalSkipped(ctx context.Context, db *database) (n int64, err error) {
	if n, isRead := s.cursors.skipped.total(); isRead {
		return n, nil
	}
	states, err := s.readCursors(ctx, db.readers)
	for _, state := range states {
		n += state.Skipped
	}
	return n, err
}

// loadSkipped reads the cursors' positions if no cursor was asked for in this process.
func (s *Store) loadSkipped(ctx context.Context, tx *sql.Tx) error {
	s.cursors.skipped.mu.Lock()
	isLoaded := s.cursors.skipped.cursors != nil
	s.cursors.skipped.mu.Unlock()
	if isLoaded {
		return nil
	}
	states, err := s.readCursors(ctx, tx)
	for name, state := range states {
		s.cursors.skipped.moved(name, state)
	}
	return err
}
