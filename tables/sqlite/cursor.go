package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

const (
	// holdingTime is how long a row is given again after it was first given. Only time
	// in which the cursor is asked counts.
	holdingTime = 15 * time.Minute
	// askedWithin is the most that the time between two requests counts, so that rows are
	// held while osquery is down.
	askedWithin = 5 * time.Minute
	// takeOverTime is how long another osquery asks for a cursor, and its own does not, until
	// the cursor belongs to the other one.
	takeOverTime = time.Hour
	// maxNewRows and maxNewBytes bound the new rows of one call, maxHeldRows all rows.
	maxNewRows  = 500
	maxNewBytes = 512 << 10
	maxHeldRows = 2000
	// maxDeaths is how often in a row a reply may end its asker until the cursor gives half.
	maxDeaths = 3
	// maxHalvings leaves at least one row.
	maxHalvings = 8
	// maxCursors and maxCursorName bound the cursors and the bytes of a name.
	maxCursors    = 64
	maxCursorName = 64
	// firstPeriod is how far back a new cursor begins.
	firstPeriod = 24 * time.Hour
	// forgetAfter is how long a cursor is kept that is not asked for.
	forgetAfter = 30 * 24 * time.Hour
)

// A cursorState is what the store keeps of a cursor.
type cursorState struct {
	Query    kmodquery.CursorQuery
	Position int64         // EID of the last event that was examined
	Held     []cursorBatch // in the order of their EIDs
	Clock    time.Duration // time in which the cursor was asked
	Asked    int64         // Unix time in seconds of a request, at most a day before the last one
	Deaths   int           // how often in a row the asker ended after a reply
	Halvings int
	Skipped  int64 // events that expired before they were given

	// These fields are not stored.
	askedAt  time.Duration // elapsed time of the last request; 0 if there was none in this process
	answered bool          // that request was answered: the time until the next one counts
	// isLast is set if its asker has neither asked for a cursor nor registered since.
	isLast bool
	other  otherAsker
}

// An otherAsker is the last one that asked for a cursor of another asker.
type otherAsker struct {
	name    string
	askedAt time.Duration // elapsed time of its last request
	asked   time.Duration // time in which it asked
}

// A cursorBatch is the rows that one call gave for the first time: those of the events
// after one EID, up to the next batch or the cursor's position.
type cursorBatch struct {
	After int64
	Rows  int
	Given time.Duration // by the cursor's clock
}

// cursors are the cursors of a recorder.
type cursors struct {
	// turn is a lock for which a call waits no longer than its context permits: whoever
	// holds it may be waiting for a disk that hangs. It guards states.
	turn   chan struct{}
	states map[string]*cursorState // nil until they were read

	// mu guards registered, and is never held for long.
	mu         sync.Mutex
	registered []string // askers that osquery has registered since the last call

	skipped skipped
}

func (c *cursors) lock(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another call with a cursor: %w", context.Cause(ctx))
	}
}

func (c *cursors) unlock() { <-c.turn }

// Cursor returns the cursor of a name, and creates it if there is none. A new one begins
// with what was stored a day ago. A name belongs to one query and one asker; another asker
// only looks, and nothing that it does takes rows from the one that they are owed to. In a
// reader, and before the cursor is created, no new rows may be given.
func (s *Store) Cursor(ctx context.Context, name string, q kmodquery.CursorQuery) (kmodquery.Cursor, error) {
	if err := checkCursorName(name); err != nil {
		return kmodquery.Cursor{}, err
	}
	if _, err := q.Conditions(); err != nil {
		return kmodquery.Cursor{}, err
	}
	if err := s.cursors.lock(ctx); err != nil {
		return kmodquery.Cursor{}, err
	}
	defer s.cursors.unlock()
	last, err := s.lastStored(ctx)
	if err != nil {
		return kmodquery.Cursor{}, fmt.Errorf("read the end of the event store: %w", err)
	}
	if !s.records {
		return s.storedCursor(ctx, name, q, last)
	}
	if err := s.loadCursors(ctx); err != nil {
		return kmodquery.Cursor{}, err
	}
	s.afterRegistrations(ctx)
	state := s.cursors.states[name]
	if state == nil {
		if state, err = s.addCursor(ctx, name, q); err != nil {
			return kmodquery.Cursor{}, err
		}
	}
	if err := state.belongsTo(name, q); err != nil {
		return kmodquery.Cursor{}, err
	}
	for _, previous := range s.cursors.states {
		if previous.isLast && previous.Query.Asker == q.Asker {
			previous.isLast, previous.Deaths = false, 0 // its asker goes on asking
		}
	}
	if !state.isOf(q.Asker, s.elapsed()) {
		c := state.cursor(name, last)
		c.IsLook = true
		return c, nil
	}
	state.isLast = true
	state.Query.Events = q.Events
	state.tick(s.elapsed())
	s.endHolding(ctx, name, state)
	return state.cursor(name, last), nil
}

func checkCursorName(name string) error {
	isPlain := !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' })
	if name == "" || len(name) > maxCursorName || !isPlain {
		return fmt.Errorf("cursor %q: a name has 1 to %d letters, digits and signs, and no blanks", name, maxCursorName)
	}
	return nil
}

func (c *cursorState) belongsTo(name string, q kmodquery.CursorQuery) error {
	if c.Query.ID == q.ID {
		return nil
	}
	return fmt.Errorf("cursor %s belongs to another query, %s; this one is %s: give it a name of its own", name, c.Query.ID, q.ID)
}

// isOf reports whether the cursor belongs to an asker. It gives the cursor to one that has
// asked for it long enough since its own asker did.
func (c *cursorState) isOf(asker string, now time.Duration) bool {
	if asker != c.Query.Asker {
		if c.other.name != asker {
			c.other = otherAsker{name: asker, askedAt: now}
		}
		c.other.asked += min(max(now-c.other.askedAt, 0), askedWithin)
		c.other.askedAt = now
		if c.other.asked < takeOverTime {
			return false
		}
		c.Query.Asker = asker
	}
	c.other = otherAsker{}
	return true
}

// tick counts the time since the last request, if that was answered.
func (c *cursorState) tick(now time.Duration) {
	if c.askedAt != 0 && c.answered {
		c.Clock += min(max(now-c.askedAt, 0), askedWithin)
	}
	c.askedAt, c.answered = max(now, 1), false
}

// endHolding ends the holding of what was given long ago. It stores that: otherwise the
// next recorder would give rows again that were left out of a reply. If it cannot, they
// are held for longer.
func (s *Store) endHolding(ctx context.Context, name string, state *cursorState) {
	next := *state
	for len(next.Held) > 0 && next.Clock-next.Held[0].Given >= holdingTime {
		next.Held = next.Held[1:]
		next.Halvings = max(next.Halvings-1, 0)
	}
	if len(next.Held) < len(state.Held) && s.storeCursor(ctx, name, &next) == nil {
		*state = next
	}
}

func (c *cursorState) cursor(name string, last int64) kmodquery.Cursor {
	after, held := c.Position, 0
	if len(c.Held) > 0 {
		after = c.Held[0].After
	}
	for _, batch := range c.Held {
		held += batch.Rows
	}
	return kmodquery.Cursor{
		Name: name, After: after, Position: c.Position, Last: max(last, c.Position),
		NewRows:  max(min(maxNewRows>>c.Halvings, maxHeldRows>>c.Halvings-held), 0),
		NewBytes: maxNewBytes >> c.Halvings,
	}
}

// Advance moves a cursor that [Store.Cursor] returned to the event up to which it was
// examined, after rows new rows were found. They are held from then on. It returns false
// if another call has moved the cursor meanwhile. It is called before each reply, also
// if the cursor stays where it is: time in which requests fail does not count. If there
// are no new rows, it writes nothing, except once a day that the cursor is in use. A look
// moves nothing.
func (s *Store) Advance(ctx context.Context, c kmodquery.Cursor, to int64, rows int) (bool, error) {
	if !s.records {
		return false, fmt.Errorf("advance cursor %s: another process records", c.Name)
	}
	if c.IsLook {
		return true, nil
	}
	if err := s.cursors.lock(ctx); err != nil {
		return false, err
	}
	defer s.cursors.unlock()
	state := s.cursors.states[c.Name]
	if state == nil || state.Position != c.Position || to < c.Position {
		return false, nil
	}
	next := *state
	next.Position, next.answered = to, true
	if rows > 0 {
		next.Held = append(next.Held[:len(next.Held):len(next.Held)], cursorBatch{After: c.Position, Rows: rows, Given: next.Clock})
	}
	if rows > 0 || s.options.Now().Sub(time.Unix(next.Asked, 0)) > 24*time.Hour {
		if err := s.storeCursor(ctx, c.Name, &next); err != nil {
			return false, fmt.Errorf("advance cursor %s: %w", c.Name, err)
		}
	}
	*state = next
	s.cursors.skipped.moved(c.Name, state)
	return true, nil
}

// Registered tells the store that osquery has registered an asker anew. What that asker
// was given is held for the whole holding time again. If the cursor that it asked for last
// has ended it several times in a row, the cursor gives half from now on. Registered does
// not wait for the store: the next call with a cursor does the rest.
func (s *Store) Registered(asker string) {
	s.cursors.mu.Lock()
	defer s.cursors.mu.Unlock()
	if !slices.Contains(s.cursors.registered, asker) {
		s.cursors.registered = append(s.cursors.registered, asker)
	}
}

// afterRegistrations does what [Store.Registered] announces.
func (s *Store) afterRegistrations(ctx context.Context) {
	s.cursors.mu.Lock()
	registered := s.cursors.registered
	s.cursors.registered = nil
	s.cursors.mu.Unlock()
	for name, state := range s.cursors.states {
		if !slices.Contains(registered, state.Query.Asker) {
			continue
		}
		state.holdAgain()
		if !state.isLast {
			continue
		}
		state.isLast = false
		if state.Deaths++; state.Deaths >= maxDeaths {
			state.halve()
			_ = s.storeCursor(ctx, name, state) // the next recorder halves again
			s.cursors.skipped.moved(name, state)
		}
	}
}

func (c *cursorState) holdAgain() {
	for i := range c.Held {
		c.Held[i].Given = c.Clock
	}
}

// halve halves the bounds, and takes back what was given last and exceeds them.
func (c *cursorState) halve() {
	c.Deaths, c.Halvings = 0, min(c.Halvings+1, maxHalvings)
	rows := 0
	for i, batch := range c.Held {
		if rows += batch.Rows; rows > maxHeldRows>>c.Halvings {
			c.Position, c.Held = batch.After, c.Held[:i]
			return
		}
	}
}

// addCursor creates a cursor. If there are too many, it forgets those that are not asked
// for any more.
func (s *Store) addCursor(ctx context.Context, name string, q kmodquery.CursorQuery) (*cursorState, error) {
	now := s.options.Now()
	for other, state := range s.cursors.states {
		if len(s.cursors.states) < maxCursors || !s.isUnused(state) {
			continue
		}
		if err := s.deleteCursor(ctx, other); err != nil {
			return nil, fmt.Errorf("forget cursor %s: %w", other, err)
		}
	}
	if len(s.cursors.states) >= maxCursors {
		return nil, fmt.Errorf("create cursor %s: there are %d already; use one of them, or wait until one has not been "+
			"asked for in 30 days", name, maxCursors)
	}
	state := &cursorState{Query: q}
	since := now.Add(-firstPeriod).Unix()
	err := s.use(ctx, func(db *database) error {
		return db.readers.QueryRowContext(ctx, firstSQL, since).Scan(&state.Position)
	})
	if err == nil {
		err = s.storeCursor(ctx, name, state)
	}
	if err != nil {
		return nil, fmt.Errorf("create cursor %s: %w", name, err)
	}
	s.cursors.states[name] = state
	s.cursors.skipped.moved(name, state)
	return state, nil
}

// isUnused reports whether a cursor has not been asked for in a long time, in this process
// by the time that no one can set.
func (s *Store) isUnused(c *cursorState) bool {
	if c.askedAt != 0 {
		return s.elapsed()-c.askedAt > forgetAfter
	}
	return s.options.Now().Sub(time.Unix(c.Asked, 0)) > forgetAfter
}

// firstSQL reads the EID before the first event that was stored since a time. What was
// stored by an earlier version has only the event's own time.
const firstSQL = `SELECT coalesce(min(
	coalesce((SELECT min(eid) FROM events WHERE stored_time >= ?1), 9223372036854775807),
	coalesce((SELECT min(eid) FROM events WHERE stored_time IS NULL AND time >= ?1), 9223372036854775807),
	coalesce((SELECT max(eid) FROM events) + 1, 1)), 1) - 1`

// lastStored returns the EID of the last event.
func (s *Store) lastStored(ctx context.Context) (last int64, err error) {
	err = s.use(ctx, func(db *database) error {
		return db.readers.QueryRowContext(ctx, "SELECT coalesce(max(eid), 0) FROM events").Scan(&last)
	})
	return last, err
}

// storedCursor returns a cursor as another process has stored it, without new rows.
func (s *Store) storedCursor(ctx context.Context, name string, q kmodquery.CursorQuery, last int64) (kmodquery.Cursor, error) {
	var states map[string]*cursorState
	err := s.use(ctx, func(db *database) (err error) {
		states, err = s.readCursors(ctx, db.readers)
		return err
	})
	if err != nil {
		return kmodquery.Cursor{}, err
	}
	state := states[name]
	if state == nil {
		state = &cursorState{Query: q, Position: last}
	}
	c := state.cursor(name, last)
	c.NewRows, c.NewBytes = 0, 0
	return c, state.belongsTo(name, q)
}

// loadCursors reads the cursors once. A recorder that has just started holds everything
// for the whole holding time again.
func (s *Store) loadCursors(ctx context.Context) error {
	if s.cursors.states != nil {
		return nil
	}
	var states map[string]*cursorState
	err := s.use(ctx, func(db *database) (err error) {
		states, err = s.readCursors(ctx, db.readers)
		return err
	})
	if err != nil {
		return err
	}
	s.cursors.states = states
	for name, state := range states {
		state.holdAgain()
		s.cursors.skipped.moved(name, state)
	}
	return nil
}

// readCursors reads all cursors. One that does not match its checksum is left out: its
// name is a new one.
func (s *Store) readCursors(ctx context.Context, db squirrel.QueryerContext) (map[string]*cursorState, error) {
	rows, err := db.QueryContext(ctx, "SELECT name, state, sum FROM cursors")
	if err != nil {
		return nil, fmt.Errorf("read the cursors: %w", err)
	}
	defer rows.Close()
	states := map[string]*cursorState{}
	for rows.Next() {
		var name, text string
		var sum int64
		if err := rows.Scan(&name, &text, &sum); err != nil {
			return nil, fmt.Errorf("read the cursors: %w", err)
		}
		state, ok := parseCursor(name, text, sum)
		if !ok {
			s.countDamaged()
			continue
		}
		states[name] = state
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the cursors: %w", err)
	}
	return states, nil
}

// parseCursor returns the state of a cursor, or false if it does not match its checksum.
func parseCursor(name, text string, sum int64) (state *cursorState, ok bool) {
	state = &cursorState{}
	return state, sum == cursorChecksum(name, text) && json.Unmarshal([]byte(text), state) == nil
}

func (s *Store) storeCursor(ctx context.Context, name string, state *cursorState) error {
	return s.writeCursors(ctx, func(tx *sql.Tx) error {
		state.Asked = s.options.Now().Unix()
		state.Skipped = s.cursors.skipped.of(name) // within the transaction no event expires
		text, err := json.Marshal(state)
		if err != nil {
			return err
		}
		const query = "REPLACE INTO cursors (name, state, sum) VALUES (?, ?, ?)"
		_, err = tx.ExecContext(ctx, query, name, string(text), cursorChecksum(name, string(text)))
		return err
	})
}

func (s *Store) deleteCursor(ctx context.Context, name string) error {
	err := s.writeCursors(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM cursors WHERE name = ?", name)
		return err
	})
	if err == nil {
		delete(s.cursors.states, name)
		s.cursors.skipped.forget(name)
	}
	return err
}

// writeCursors changes the cursors in a transaction, unless another process may record:
// Append takes the lock again, and may not be waited for.
func (s *Store) writeCursors(ctx context.Context, change func(*sql.Tx) error) error {
	if !s.IsRecorder() {
		return errors.New("another process may record")
	}
	return s.use(ctx, func(db *database) error {
		tx, err := db.writer.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err := change(tx); err != nil {
			return err
		}
		return tx.Commit()
	})
}

func cursorChecksum(name, state string) int64 {
	return int64(crc32.Checksum(appendValue(appendValue(nil, name), state), castagnoli))
}
