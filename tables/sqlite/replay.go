package sqlite

import (
	"context"
	"fmt"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

// Replay calls visit, as [Store.Events] does, with the events that a new recorder has to know
// among those of a boot with one of the event_names: those of the newest so many events of the
// store, and of the older events the last of each kind. A kind is a name, an event_name, a
// source, and whether the event reports a failure. The last event is the one with the
// latest uptime, or with the latest time if several have the same uptime or none.
func (s *Store) Replay(ctx context.Context, boot string, eventNames, columns []string, newest int64, visit func(*kmodquery.Event)) error {
	err := s.use(ctx, func(db *database) error {
		return s.events(ctx, db, columns, replayed(boot, eventNames, newest), newestFirst, func(e *kmodquery.Event) bool {
			visit(e)
			return true
		})
	})
	if err != nil {
		return fmt.Errorf("replay events: %w", err)
	}
	return nil
}

// replayed selects the events of [Store.Replay].
func replayed(boot string, eventNames []string, newest int64) squirrel.Sqlizer {
	where := squirrel.Eq{"boot_id": boot, "event_name": eventNames}
	recent := squirrel.Select("eid").From("events NOT INDEXED").Where(where).Where("eid > (SELECT max(eid) FROM events) - ?", newest)
	// The eid is that of the row with the maximum:
	// https://sqlite.org/lang_select.html#bareagg. The low 34 bits are time_nanos in
	// microseconds, modulo 4.8 hours. They order events of the same second of uptime.
	const moment = "CASE WHEN uptime IS NULL THEN time_nanos ELSE uptime * (1 << 34) + time_nanos / 1000 % (1 << 34) END"
	older := squirrel.Select("eid", "max("+moment+")").From("events INDEXED BY events_boot").
		Where(where).Where("eid <= (SELECT max(eid) FROM events) - ?", newest).
		GroupBy("event_name", "name COLLATE BINARY", "source", "uptime IS NULL", "coalesce(result, 0) = 0")
	return squirrel.Expr("eid IN (? UNION ALL SELECT eid FROM (?))", recent, older)
}
