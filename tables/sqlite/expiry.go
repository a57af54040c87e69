package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"time"
)

const (
	// expiryInterval and expiryEvents are the time and the number of events after
	// which an Append checks the bounds again.
	expiryInterval = time.Minute
	expiryEvents   = 10_000
	// expiryChunk is the most events that one transaction deletes, so that a store
	// with many expired events still accepts new ones.
	expiryChunk = 5_000
)

// The column cheap holds [kmodquery.Event.IsUnprivileged]. Events with it and events
// without it have a bound of their own.
const (
	countSQL  = "SELECT count(*) FROM events WHERE cheap = ?"
	oldestSQL = "SELECT eid FROM events WHERE cheap = ? ORDER BY eid LIMIT ?"
)

// olderSQL selects the EIDs of at most ?1 of the first events, up to the last one that is
// older than ?2 and that no younger event precedes. An old event between younger ones
// stays, because its time comes from a clock that was wrong, as on a host that boots
// without a clock. So does the time of an event after ?3: that event is as old as the
// next one. The first young event is searched among ?1 events only. For that of all
// events SQLite sorts the young ones, which took 130 ms of a million; "+" keeps it from
// that.
const olderSQL = `WITH first AS (SELECT eid, time FROM events
	WHERE eid >= (SELECT eid FROM events WHERE +time <= ?3 ORDER BY eid LIMIT 1) ORDER BY eid LIMIT ?1)
SELECT eid FROM events WHERE eid <= (SELECT max(eid) FROM first WHERE time < ?2 AND eid < coalesce(
	(SELECT min(eid) FROM first WHERE time BETWEEN ?2 AND ?3), 9223372036854775807)) ORDER BY eid LIMIT ?1`

// Expire deletes the events beyond the bounds of [Options]. By age it deletes old
// events that no younger event precedes; an event whose time is ahead of the clock is not
// younger. By number it deletes the events of a kind with the lowest EIDs. In a reader
// Expire returns an error.
func (s *Store) Expire(ctx context.Context) error {
	if !s.records {
		return fmt.Errorf("expire events of %s: another process records", s.path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.reopen(ctx); err != nil {
		return err
	}
	for {
		more, err := s.expire(ctx)
		if isDamage(err) {
			if err = s.replaceDamaged(ctx, s.database, err); err == nil {
				continue
			}
		}
		if err != nil {
			return explain(fmt.Errorf("expire events of %s: %w", s.path, err), filepath.Dir(s.path))
		}
		if !more {
			return nil
		}
	}
}

// expireWhenDue deletes one chunk if the bounds have not been checked for some time.
// While more chunks remain, the next batch deletes the next one.
func (s *Store) expireWhenDue(ctx context.Context) error {
	now := s.options.Now()
	untilDue := s.nextExpiry.Sub(now)
	// A later due time was set before the clock stepped back.
	if untilDue > 0 && untilDue <= expiryInterval && s.appended < expiryEvents {
		return nil
	}
	more, err := s.expire(ctx)
	if err == nil && !more {
		s.nextExpiry, s.appended = now.Add(expiryInterval), 0
	}
	return err
}

// expire deletes at most one chunk for each bound and reports whether more remain.
func (s *Store) expire(ctx context.Context) (more bool, err error) {
	present, err := s.present(ctx)
	if err != nil {
		return false, err
	}
	if s.options.MaxAge > 0 {
		oldest, latest := present.Add(-s.options.MaxAge).Unix(), present.Add(s.age.slack).Unix()
		if more, err = s.remove(ctx, olderSQL, s.chunk, oldest, latest); err != nil {
			return false, err
		}
		if err = s.endLost(ctx, present.Unix(), oldest); err != nil {
			return false, err
		}
	}
	for unprivileged, most := range []int64{s.options.MaxEvents, s.options.MaxUnprivileged} {
		if most <= 0 {
			continue
		}
		// Queries may hold all connections of the readers.
		var rows int64
		if err := s.writer.QueryRowContext(ctx, countSQL, unprivileged).Scan(&rows); err != nil {
			return false, err
		}
		if excess := min(rows-most, int64(s.chunk)); excess > 0 {
			rest, err := s.remove(ctx, oldestSQL, unprivileged, excess)
			if err != nil {
				return false, err
			}
			more = more || rest
		}
	}
	rest, err := s.expireSeen(ctx)
	if err != nil {
		return more || rest, err
	}
	more = more || rest
	rest, err = s.expireKnown(ctx)
	return more || rest, err
}

// present returns the time that the age of events is counted from, and keeps it for
// the next recorder.
func (s *Store) present(ctx context.Context) (time.Time, error) {
	if !s.age.known {
		// No recorder has kept a time: only the events tell what time it was.
		const query = "SELECT coalesce((SELECT time FROM events ORDER BY eid DESC LIMIT 1), 0)"
		var newest int64
		if err := s.writer.QueryRowContext(ctx, query).Scan(&newest); err != nil {
			return time.Time{}, err
		}
		if newest > 0 {
			s.age = newAgeClock(lockState{TrustedTime: newest}, s.options.MaxAge)
			s.age.at = s.elapsed()
		}
	}
	return s.tellTime(), nil
}

// tellTime returns the time of the age clock and keeps its state for the next recorder.
func (s *Store) tellTime() time.Time {
	present := s.age.now(s.options.Now(), s.elapsed())
	if trusted := present.Unix(); trusted != s.state.TrustedTime && trusted > 0 {
		s.state.TrustedTime, s.state.Ahead, s.state.Steady = trusted, int64(s.age.ahead/time.Second), int64(s.age.steady/time.Second)
		_ = writeLockState(s.lock.Load(), s.state) // an older time only makes the next recorder delete less
	}
	return present
}

// remove deletes the events whose EIDs a query selects, and reports whether they are a
// whole chunk. In the same transaction it counts those that cursors have not given.
func (s *Store) remove(ctx context.Context, eids string, args ...any) (more bool, err error) {
	var skipped map[string]int64
	n, err := s.deleteEvents(ctx, func(tx *sql.Tx) (err error) {
		if skipped, err = s.countSkipped(ctx, tx, eids, args...); err != nil {
			return err
		}
		s.cursors.skipped.add(skipped, 1) // no cursor is stored before the transaction ends
		return s.storeSkipped(ctx, tx, skipped)
	}, eids, args...)
	if err != nil {
		s.cursors.skipped.add(skipped, -1)
		return false, err
	}
	return n == int64(s.chunk), nil
}
