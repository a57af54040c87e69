package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

// Position returns the last position in a source's log that was stored with one of
// its events. It is "" if there is none, or if the stored one is damaged.
func (s *Store) Position(ctx context.Context, source string) (string, error) {
	var position string
	var sum sql.NullInt64
	query := squirrel.Select("position", "sum").From("positions").Where(squirrel.Eq{"source": source})
	err := s.use(ctx, func(db *database) error {
		return query.RunWith(db.readers).QueryRowContext(ctx).Scan(&position, &sum)
	})
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("read the position of %s: %w", source, err)
	}
	if err == nil && sum.Valid && sum.Int64 != positionChecksum(source, position) {
		s.countDamaged(1)
		return "", nil
	}
	return position, nil
}

// writePositions stores the last position of each source among the deliveries.
func writePositions(ctx context.Context, tx *sql.Tx, deliveries []kmodquery.Delivery) error {
	last := map[string]string{}
	for i := range deliveries {
		if position := deliveries[i].Position; position != "" {
			last[deliveries[i].Event.Source] = position
		}
	}
	for source, position := range last {
		_, err := squirrel.Replace("positions").Columns("source", "position", "sum").
			Values(source, position, positionChecksum(source, position)).RunWith(tx).ExecContext(ctx)
		if err != nil {
			return fmt.Errorf("store the position of %s: %w", source, err)
		}
	}
	return nil
}
