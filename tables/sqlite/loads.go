package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

const (
	// runningAfter is how long after its first event an attempt is closed whose end no event
	// tells.
	runningAfter = 10 * time.Second
	// otherSourcesTime is how long an attempt that is over waits for what other sources saw of it.
	otherSourcesTime = 2 * time.Second
	// maxLoadEvents bounds the events that one step examines, and maxEventsOfLoad those of
	// one attempt that count. maxClosings bounds the attempts that one transaction closes.
	maxLoadEvents   = 10_000
	maxEventsOfLoad = 1000
	maxClosings     = 500
)

var closings = []string{kmodquery.EventLoadClosed, kmodquery.EventLoadClosedUnprivileged}

// An unclosed is what the recorder remembers of the attempts that are not closed.
type unclosed struct {
	turn   chan struct{} // guards the others; a lock for which a call waits no longer than its context permits
	of     *database
	closed int64               // each attempt with an event up to this EID is closed
	open   map[string]openLoad // by the key of a load
}

// An openLoad has elapsed times. Those do not step, as clocks do.
type openLoad struct {
	since time.Duration // when its first event was found
	over  time.Duration // when an event was found that tells the outcome; 0 if none was
}

// A load is an attempt to load a module that may be due.
type load struct {
	key    string
	events []kmodquery.Event
}

// CloseLoads stores, for each attempt to load a module that is over, the event that closes it:
// exactly one for each attempt, whatever ends the process when. An attempt without an end is
// closed after ten seconds. One that is over waits two seconds for what other sources saw,
// unless synced is set, because they have reported. In a reader CloseLoads does nothing.
func (s *Store) CloseLoads(ctx context.Context, synced bool) error {
	if !s.records {
		return nil
	}
	select {
	case s.unclosed.turn <- struct{}{}:
		defer func() { <-s.unclosed.turn }()
	case <-ctx.Done():
		return fmt.Errorf("wait for another call that closes loads: %w", context.Cause(ctx))
	}
	for {
		more, err := s.closeLoads(ctx, synced)
		if err != nil {
			return fmt.Errorf("close the loads of %s: %w", s.path, err)
		}
		if !more {
			return nil
		}
	}
}

// closeLoads closes at most maxClosings attempts among maxLoadEvents events, and reports
// whether there may be more.
func (s *Store) closeLoads(ctx context.Context, synced bool) (more bool, err error) {
	l := &s.unclosed
	s.mu.Lock()
	key, last := s.rowKey, s.state.LastEID
	s.mu.Unlock()
	if l.of != nil && len(l.open) == 0 && last == l.closed {
		return false, nil
	}
	var due []kmodquery.Delivery
	var to int64
	open := map[string]openLoad{}
	err = s.use(ctx, func(db *database) error {
		if l.of != db {
			from, err := s.closedTo(ctx, db, key)
			if err != nil {
				return err
			}
			l.of, l.closed, l.open = db, from, nil
		}
		var found []load
		if found, to, more, err = s.findLoads(ctx, db, l.closed); err != nil {
			return err
		}
		users := sync.OnceValue(s.users)
		names := func(uid int64) string { return users()(uid) }
		now := s.elapsed()
		for _, found := range found {
			isDue := l.isDue(&found, open, now, synced)
			if isDue && len(due) == maxClosings {
				isDue, more = false, true
				open[found.key] = l.open[found.key]
			}
			if !isDue {
				to = min(to, found.events[0].EID-1)
				continue
			}
			closing, ok, err := s.closing(ctx, db, &found, names)
			if err != nil {
				return err
			}
			if ok {
				due = append(due, kmodquery.Delivery{Event: closing})
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	more = more && to > l.closed
	if len(due) > 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.reopen(ctx); err != nil || s.database != l.of {
			return false, err
		}
		if err := s.appendAgain(ctx, due, to); err != nil {
			return false, err
		}
	}
	l.closed, l.open = to, open
	return more, nil
}

func (s *Store) users() func(uid int64) string {
	if s.options.Users == nil {
		return func(int64) string { return "" }
	}
	return s.options.Users()
}

// isDue reports whether an attempt is to be closed. If not, it remembers it in open.
func (l *unclosed) isDue(found *load, open map[string]openLoad, now time.Duration, synced bool) bool {
	known, isKnown := l.open[found.key]
	if !isKnown {
		known.since = now
	}
	if _, by := kmodquery.OutcomeOf(found.events); by != nil && known.over == 0 {
		known.over = max(now, 1)
	}
	if known.over != 0 && (synced || now-known.over >= otherSourcesTime) || now-known.since >= runningAfter {
		return true
	}
	open[found.key] = known
	return false
}

// closedTo returns the EID up to which attempts are closed. If the database does not say so,
// as after an upgrade, that is what was stored a day ago: what is closed is not closed again.
func (s *Store) closedTo(ctx context.Context, db *database, key []byte) (to int64, err error) {
	tx, err := db.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	t, ok, _, err := readTotals(ctx, tx, key, 0)
	if err != nil || ok && t.Closed != 0 {
		return t.Closed, err
	}
	err = tx.QueryRowContext(ctx, firstSQL, s.options.Now().Add(-firstPeriod).Unix()).Scan(&to)
	return to, err
}

// findLoads returns the attempts of the events after an EID, in the order of their first
// events, the EID up to which it examined them, and whether there are more.
func (s *Store) findLoads(ctx context.Context, db *database, after int64) (found []load, to int64, more bool, err error) {
	if err := db.readers.QueryRowContext(ctx, "SELECT coalesce(max(eid), 0) FROM events").Scan(&to); err != nil {
		return nil, 0, false, err
	}
	to = max(to, after)
	// With "+" SQLite reads the rows in the order of their EIDs.
	where := squirrel.And{squirrel.Expr("eid > ?", after), squirrel.Expr("eid <= ?", to), squirrel.Eq{"+event_name": kmodquery.LoadEvents()}, moduleSQL}
	byKey, n := map[string]int{}, 0
	err = s.events(ctx, db, nil, where, oldestFirst, func(e *kmodquery.Event) bool {
		key := e.LoadID
		if key == "" {
			key = fmt.Sprintf("eid %d", e.EID)
		}
		at, isKnown := byKey[key]
		if !isKnown {
			at = len(found)
			byKey[key], found = at, append(found, load{key: key})
		}
		found[at].events = append(found[at].events, *e)
		if n++; n == maxLoadEvents {
			to, more = e.EID, true
		}
		return !more
	})
	return found, to, more, err
}

// moduleSQL leaves out other files that a module's init made the kernel read.
var moduleSQL = squirrel.Expr("(event_name <> ? OR type = ?)", kmodquery.EventSecurityKernelReadFile, kmodquery.TypeKernelModule)

// closing returns the event that closes an attempt. It returns false if the attempt is closed
// already, or if its events are not those of an attempt.
func (s *Store) closing(ctx context.Context, db *database, found *load, names func(int64) string) (closing kmodquery.Event, ok bool, err error) {
	first, events := &found.events[0], found.events
	where := squirrel.Eq{"load_id": first.LoadID}
	if first.LoadID == "" {
		where = squirrel.Eq{"load_id": nil, "event_name": closings, "time": first.Time, "CASE WHEN json_valid(raw) THEN raw ->> 'event' END": first.EID}
	}
	var isClosed, hasEarlier bool
	if err := squirrel.Select().Column(squirrel.Expr("coalesce(max(event_name IN (?, ?)), 0), coalesce(max(eid < ?), 0)", closings[0], closings[1], first.EID)).
		From("events").Where(where).RunWith(db.readers).QueryRowContext(ctx).Scan(&isClosed, &hasEarlier); err != nil || isClosed {
		return kmodquery.Event{}, false, err
	}
	if hasEarlier { // such as the approval of a kernel extension
		events = nil
		all := squirrel.And{where, squirrel.Eq{"+event_name": kmodquery.LoadEvents()}, moduleSQL}
		err := s.events(ctx, db, nil, all, oldestFirst, func(e *kmodquery.Event) bool {
			events = append(events, *e)
			return len(events) < maxEventsOfLoad
		})
		if err != nil {
			return kmodquery.Event{}, false, err
		}
	}
	closing, ok = kmodquery.CloseLoad(events, names)
	return closing, ok, nil
}
