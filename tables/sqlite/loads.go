package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

const (
	// runningAfter is how long after its first event was examined an attempt is closed whose
	// end no event tells.
	runningAfter = 10 * time.Second
	// otherSourcesTime is how long an attempt that is over waits for what other sources saw of it.
	otherSourcesTime = 2 * time.Second
	// maxOpenLoads bounds the attempts that are not closed and are remembered. While there
	// are as many, no later event is examined.
	maxOpenLoads = 16384
	// maxLoadEvents bounds the events that one step examines, and maxClosings and
	// maxClosingBytes the attempts that one transaction closes.
	maxLoadEvents   = 10_000
	maxClosings     = 500
	maxClosingBytes = 8 << 20
	// maxEventsOfLoad and maxBytesOfLoad bound the events of one attempt that count.
	maxEventsOfLoad = 1000
	maxBytesOfLoad  = 4 << 20
)

var closings = []string{kmodquery.EventLoadClosed, kmodquery.EventLoadClosedUnprivileged}

// openLoads are the attempts to load a module that are not closed. Each stored event is
// examined once, and of an attempt is kept what decides when it is closed. Its events
// are read from the database then.
type openLoads struct {
	turn     chan struct{} // guards the others; a lock for which a call waits no longer than its context permits
	of       *database
	stored   int64                // EID of the last event when the others began
	examined int64                // EID up to which events were examined
	byKey    map[string]*openLoad // by load_id, or by EID if the event has none
	batch    int                  // attempts that the next transaction closes
}

// An openLoad has elapsed times, which do not step as clocks do.
type openLoad struct {
	key, id   string        // id is the load_id
	first     int64         // EID of the first event that was examined
	since     time.Duration // when it was
	isOver    bool          // an event tells the outcome
	over      time.Duration // when the first such event was examined
	overNanos int64         // its time
}

// CloseLoads stores, for each attempt to load a module that is over, the event that closes it:
// exactly one for each attempt, whatever ends the process when. An attempt without an end is
// closed after ten seconds. One that is over waits two seconds for what other sources saw,
// unless it was over at the time reported: the sources have reported what happened until
// then. A zero time is that of no attempt. Events that are stored after the call began are
// left to the next one. On a short disk CloseLoads stores fewer rows at once; its error then
// has a method Reason, as that of [Store.Append]. In a reader CloseLoads does nothing.
func (s *Store) CloseLoads(ctx context.Context, reported time.Time) error {
	if !s.records {
		return nil
	}
	select {
	case s.loads.turn <- struct{}{}:
		defer func() { <-s.loads.turn }()
	case <-ctx.Done():
		return fmt.Errorf("wait for another call that closes loads: %w", context.Cause(ctx))
	}
	s.mu.Lock()
	key, last := s.rowKey, s.state.LastEID
	s.mu.Unlock()
	l := &s.loads
	for more := l.of == nil || l.examined < last || len(l.byKey) > 0; more; {
		examining, err := s.examineLoads(ctx, key, last)
		if err == nil {
			more, err = s.closeDue(ctx, reported)
		}
		if err != nil {
			return fmt.Errorf("close the loads of %s: %w", s.path, err)
		}
		more = more || examining
	}
	return nil
}

// await waits for a CloseLoads whose caller has left, but not for long.
func (l *openLoads) await() {
	select {
	case l.turn <- struct{}{}:
		<-l.turn
	case <-time.After(abandonedWait):
	}
}

// examineLoads examines at most maxLoadEvents stored events, up to an EID, and reports
// whether it may examine more now.
func (s *Store) examineLoads(ctx context.Context, key []byte, last int64) (more bool, err error) {
	err = s.use(ctx, func(db *database) error {
		l := &s.loads
		if l.of != db {
			var stored int64
			if err := db.readers.QueryRowContext(ctx, "SELECT coalesce(max(eid), 0) FROM events").Scan(&stored); err != nil {
				return err
			}
			from, err := s.closedTo(ctx, db, key)
			if err != nil {
				return err
			}
			// All but turn, for which other calls wait meanwhile.
			l.of, l.stored, l.examined, l.byKey, l.batch = db, stored, from, map[string]*openLoad{}, maxClosings
		}
		last = max(last, l.stored)
		if l.examined >= last || len(l.byKey) >= s.mostLoads {
			return nil
		}
		// With "+" SQLite reads the rows in the order of their EIDs.
		where := squirrel.And{squirrel.Expr("eid > ?", l.examined), squirrel.Expr("eid <= ?", last), squirrel.Eq{"+event_name": kmodquery.LoadEvents()}, attemptSQL}
		n, now, isFull := 0, s.elapsed(), false
		columns := append([]string{"load_id", "time_nanos"}, kmodquery.OutcomeColumns...)
		err := s.events(ctx, db, columns, where, oldestFirst, func(e *kmodquery.Event) bool {
			if isFull = !l.examine(e, now, s.mostLoads); isFull {
				return false
			}
			l.examined = e.EID
			n++
			more = n == maxLoadEvents
			return !more
		})
		if err == nil && !isFull && !more {
			l.examined = last
		}
		return err
	})
	return more, err
}

// examine takes an event. It returns false if it is of an attempt beyond the most that are
// remembered.
func (l *openLoads) examine(e *kmodquery.Event, now time.Duration, most int) bool {
	key := cmp.Or(e.LoadID, fmt.Sprint("eid ", e.EID))
	load := l.byKey[key]
	if load == nil {
		if len(l.byKey) >= most {
			return false
		}
		load = &openLoad{key: key, id: e.LoadID, first: e.EID, since: now}
		l.byKey[key] = load
	}
	if _, by := kmodquery.OutcomeOf([]kmodquery.Event{*e}); by != nil && !load.isOver {
		load.isOver, load.over, load.overNanos = true, now, e.TimeNanos
	}
	return true
}

func (o *openLoad) isDue(now time.Duration, reported time.Time) bool {
	isReported := !reported.IsZero() && o.overNanos <= reported.UnixNano()
	return o.isOver && (isReported || now-o.over >= otherSourcesTime) || now-o.since >= runningAfter
}

// forget forgets attempts that are closed.
func (l *openLoads) forget(closed []*openLoad) {
	for _, load := range closed {
		delete(l.byKey, load.key)
	}
}

// closedTo returns the EID up to which all attempts are closed.
func (l *openLoads) closedTo() int64 {
	to := l.examined
	for _, load := range l.byKey {
		to = min(to, load.first-1)
	}
	return to
}

// closeDue closes attempts that are due, the oldest first, at most a batch. It reports
// whether there may be more.
func (s *Store) closeDue(ctx context.Context, reported time.Time) (more bool, err error) {
	l, now := &s.loads, s.elapsed()
	due := slices.SortedFunc(maps.Values(l.byKey), func(a, b *openLoad) int { return cmp.Compare(a.first, b.first) })
	due = slices.DeleteFunc(due, func(o *openLoad) bool { return !o.isDue(now, reported) })
	if len(due) == 0 {
		return false, nil
	}
	var done []*openLoad
	var rows []kmodquery.Delivery
	err = s.use(ctx, func(db *database) error {
		if l.of != db {
			return nil // the next call begins anew
		}
		users := sync.OnceValue(s.users)
		names := func(uid int64) string { return users()(uid) }
		for bytes := int64(0); len(done) < len(due) && len(rows) < l.batch && bytes < maxClosingBytes; {
			load := due[len(done)]
			row, ok, err := s.closing(ctx, db, load, names)
			if err != nil {
				return err
			}
			if done = append(done, load); ok {
				rows = append(rows, kmodquery.Delivery{Event: row})
				bytes += bytesOf(&row)
			}
		}
		return nil
	})
	if err != nil || len(done) == 0 {
		return false, err
	}
	l.forget(done)
	if len(rows) == 0 {
		return true, nil
	}
	if err := s.storeClosings(ctx, rows); err != nil {
		for _, load := range done {
			l.byKey[load.key] = load
		}
		isShort := isFullIn(err, filepath.Dir(s.path))
		l.batch = max(1, len(rows)/2)
		if isShort && len(rows) > 1 {
			return true, nil
		}
		return false, err
	}
	l.batch = min(maxClosings, l.batch+l.batch/4+1)
	return true, nil
}

// storeClosings appends the rows of attempts, and with them the EID up to which all are closed.
func (s *Store) storeClosings(ctx context.Context, rows []kmodquery.Delivery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.reopen(ctx); err != nil {
		return err
	}
	if s.database != s.loads.of {
		return nil // the rows are of a database that is gone; the other one begins anew
	}
	return s.appendAgain(ctx, rows, s.loads.closedTo())
}

func (s *Store) users() func(uid int64) string {
	if s.options.Users == nil {
		return func(int64) string { return "" }
	}
	return s.options.Users()
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

// attemptSQL leaves out other files that a module's init made the kernel read, and a module
// that was loaded under another name.
var attemptSQL = squirrel.Expr("(event_name <> ? OR type = ?) AND (event_name <> ? OR parent_load_id IS NULL)",
	kmodquery.EventSecurityKernelReadFile, kmodquery.TypeKernelModule, kmodquery.EventModuleUnwitnessed)

// closing returns the event that closes an attempt. It returns false if the attempt is closed
// already, or if its events are not those of an attempt.
func (s *Store) closing(ctx context.Context, db *database, load *openLoad, names func(int64) string) (closing kmodquery.Event, ok bool, err error) {
	var ofLoad squirrel.Sqlizer = squirrel.Eq{"load_id": load.id}
	if load.id == "" {
		ofLoad = squirrel.Eq{"eid": load.first}
	}
	var events []kmodquery.Event
	bytes := int64(0)
	all := squirrel.And{ofLoad, squirrel.Eq{"+event_name": kmodquery.LoadEvents()}, attemptSQL}
	err = s.events(ctx, db, nil, all, oldestFirst, func(e *kmodquery.Event) bool {
		events = append(events, *e)
		bytes += bytesOf(e)
		return len(events) < maxEventsOfLoad && bytes < maxBytesOfLoad
	})
	if err != nil || len(events) == 0 {
		return kmodquery.Event{}, false, err
	}
	isClosed := false
	if load.id != "" || load.first <= s.loads.stored {
		isClosed, err = isClosedIn(ctx, db, &events[0])
	}
	if err != nil || isClosed {
		return kmodquery.Event{}, false, err
	}
	closing, ok = kmodquery.CloseLoad(events, names)
	return closing, ok, nil
}

// isClosedIn reports whether an attempt is closed, given one of its events.
func isClosedIn(ctx context.Context, db *database, e *kmodquery.Event) (isClosed bool, err error) {
	where := squirrel.Eq{"load_id": e.LoadID, "+event_name": closings}
	if e.LoadID == "" {
		where = squirrel.Eq{"load_id": nil, "event_name": closings, "time": e.Time, "CASE WHEN json_valid(raw) THEN raw ->> 'event' END": e.EID}
	}
	err = squirrel.Select("count(*) > 0").From("events").Where(where).RunWith(db.readers).QueryRowContext(ctx).Scan(&isClosed)
	return isClosed, err
}
