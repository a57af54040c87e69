package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/Masterminds/squirrel"
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

// The kinds of events that have a bound of their own. The column cheap holds
// [kmodquery.Event.IsUnprivileged].
var ordinary, unprivileged = squirrel.Eq{"cheap": false}, squirrel.Eq{"cheap": true}

// Expire deletes the events beyond the bounds of [Options]. By age it deletes old
// events that no younger event precedes; by number it deletes the events of a kind
// with the lowest EIDs. In a reader Expire returns an error.
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
		if more, err = s.remove(ctx, s.olderThan(present.Add(-s.options.MaxAge))); err != nil {
			return false, err
		}
	}
	for _, bound := range []struct {
		kind squirrel.Eq
		most int64
	}{{ordinary, s.options.MaxEvents}, {unprivileged, s.options.MaxUnprivileged}} {
		rest, err := s.expireKind(ctx, bound.kind, bound.most)
		if err != nil {
			return false, err
		}
		more = more || rest
	}
	rest, err := s.expireSeen(ctx)
	return more || rest, err
}

// expireKind deletes at most one chunk of the oldest events of a kind that has more
// than most, and reports whether more remain. 0 means no bound.
func (s *Store) expireKind(ctx context.Context, kind squirrel.Eq, most int64) (more bool, err error) {
	if most <= 0 {
		return false, nil
	}
	// Queries may hold all connections of the readers.
	var rows int64
	if err := countOf(kind).RunWith(s.writer).QueryRowContext(ctx).Scan(&rows); err != nil {
		return false, err
	}
	excess := rows - most
	if excess <= 0 {
		return false, nil
	}
	return s.remove(ctx, oldestOf(kind, uint64(min(excess, int64(s.chunk)))))
}

// present returns the time that the age of events is counted from, and keeps it for
// the next recorder.
func (s *Store) present(ctx context.Context) (time.Time, error) {
	if !s.age.known {
		// No recorder has kept a time: only the events tell what time it was.
		var newest sql.NullInt64
		err := squirrel.Select("time").From("events").OrderBy("eid DESC").Limit(1).RunWith(s.writer).QueryRowContext(ctx).Scan(&newest)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return time.Time{}, err
		}
		if newest.Int64 > 0 {
			s.age = newAgeClock(time.Unix(newest.Int64, 0), s.options.MaxAge)
			s.age.at = s.elapsed()
		}
	}
	present := s.age.now(s.options.Now(), s.elapsed())
	if trusted := present.Unix(); trusted != s.state.TrustedTime && trusted > 0 {
		s.state.TrustedTime = trusted
		_ = writeLockState(s.lock.Load(), s.state) // an older time only makes the next recorder delete less
	}
	return present, nil
}

// olderThan selects the EIDs of at most one chunk of the first events, up to the
// first one that is not older than at. An old event between younger ones stays,
// because its time comes from a clock that was wrong, as on a host that boots
// without a clock.
func (s *Store) olderThan(at time.Time) squirrel.SelectBuilder {
	// The first young event is searched in the chunk only. For that of all events
	// SQLite sorts the young ones, which took 130 ms of a million.
	chunk := squirrel.Select("eid", "time").From("events").OrderBy("eid").Limit(uint64(s.chunk))
	young := squirrel.Select("min(eid)").FromSelect(chunk, "chunk").Where(squirrel.GtOrEq{"time": at.Unix()})
	return squirrel.Select("eid").From("events").
		Where(squirrel.Expr("eid < coalesce((?), ?)", young, int64(math.MaxInt64))).OrderBy("eid").Limit(uint64(s.chunk))
}

func countOf(kind squirrel.Eq) squirrel.SelectBuilder {
	return squirrel.Select("count(*)").From("events").Where(kind)
}

// oldestOf selects the EIDs of the first n events of a kind.
func oldestOf(kind squirrel.Eq, n uint64) squirrel.SelectBuilder {
	return squirrel.Select("eid").From("events").Where(kind).OrderBy("eid").Limit(n)
}

func (s *Store) remove(ctx context.Context, eids squirrel.SelectBuilder) (more bool, err error) {
	result, err := squirrel.Delete("events").Where(squirrel.Expr("eid IN (?)", eids)).
		RunWith(s.writer).ExecContext(ctx)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n == int64(s.chunk), err
}
