package sqlite

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/Masterminds/squirrel"
)

const (
	// expiryInterval and expiryEvents are how long, in time and in events, an
	// Append leaves the bounds unlooked at.
	expiryInterval = time.Minute
	expiryEvents   = 10_000
	// expiryChunk is the most that one transaction deletes, so that a store
	// that has much to forget still takes new events.
	expiryChunk = 5_000
)

// Expire deletes the events beyond the bounds of [Options]: by age those whose
// time is too long ago and that no younger one precedes, by count those with the lowest EIDs. In a reader it is
// an error.
func (s *Store) Expire(ctx context.Context) error {
	if s.writer == nil {
		return fmt.Errorf("expire events of %s: another process records", s.path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		more, err := s.expire(ctx)
		if err != nil {
			return fmt.Errorf("expire events of %s: %w", s.path, err)
		}
		if !more {
			return nil
		}
	}
}

// expireWhenDue deletes one chunk when the bounds have not been looked at for
// some time, and again with the next batch as long as there is more.
func (s *Store) expireWhenDue(ctx context.Context) error {
	now := s.options.Now()
	if now.Before(s.nextExpiry) && s.appended < expiryEvents {
		return nil
	}
	more, err := s.expire(ctx)
	if err == nil && !more {
		s.nextExpiry, s.appended = now.Add(expiryInterval), 0
	}
	return err
}

// expire deletes at most one chunk for each bound and reports whether there is
// more.
func (s *Store) expire(ctx context.Context) (more bool, err error) {
	if s.options.MaxAge > 0 {
		// Only what was stored before everything that is young enough: an event
		// between younger ones has its time from a clock that was wrong, as on
		// a host that boots without one.
		oldest := s.options.Now().Add(-s.options.MaxAge).Unix()
		young := squirrel.Select("eid").From("events").Where(squirrel.GtOrEq{"time": oldest}).OrderBy("eid").Limit(1)
		old := squirrel.Select("eid").From("events").
			Where(squirrel.Expr("eid < coalesce((?), ?)", young, int64(math.MaxInt64))).OrderBy("eid").Limit(expiryChunk)
		if more, err = s.remove(ctx, old); err != nil {
			return false, err
		}
	}
	if s.options.MaxEvents > 0 {
		// Not through the readers' connections: queries may hold all of them.
		var rows int64
		count := squirrel.Select("count(*)").From("events").RunWith(s.writer)
		if err := count.QueryRowContext(ctx).Scan(&rows); err != nil {
			return false, err
		}
		if excess := rows - s.options.MaxEvents; excess > 0 {
			first := squirrel.Select("eid").From("events").OrderBy("eid").Limit(uint64(min(excess, expiryChunk)))
			rest, err := s.remove(ctx, first)
			if err != nil {
				return false, err
			}
			more = more || rest
		}
	}
	return more, nil
}

func (s *Store) remove(ctx context.Context, eids squirrel.SelectBuilder) (more bool, err error) {
	result, err := squirrel.Delete("events").Where(squirrel.Expr("eid IN (?)", eids)).
		RunWith(s.writer).ExecContext(ctx)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n == expiryChunk, err
}
