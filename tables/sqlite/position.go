package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/kmodquery/kmodquery"
)

// Position returns the last position in a source's log that was stored with one of
// its events. It is "" if there is none, or if the stored one is damaged.
func (s *Store) Position(ctx context.Context, source string) (string, error) {
	var position string
	var sum sql.NullInt64
	err := s.use(ctx, func(db *database) error {
		const query = "SELECT position, sum FROM positions WHERE source = ?"
		return db.readers.QueryRowContext(ctx, query, source).Scan(&position, &sum)
	})
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("read the position of %s: %w", source, err)
	}
	if err == nil && sum.Valid && sum.Int64 != positionChecksum(source, position) {
		s.countDamaged()
		return "", nil
	}
	return position, nil
}

// writePositions stores the last position of each source among the deliveries. If they
// have deduplication keys, which are stored already, it deletes the obsolete ones.
func writePositions(ctx context.Context, tx *sql.Tx, deliveries []kmodquery.Delivery) error {
	last, keyed := map[string]string{}, false
	for i := range deliveries {
		keyed = keyed || deliveries[i].Key != ""
		if position := deliveries[i].Position; position != "" {
			last[deliveries[i].Event.Source] = position
		}
	}
	for source, position := range last {
		const query = "REPLACE INTO positions (source, position, sum) VALUES (?, ?, ?)"
		if _, err := tx.ExecContext(ctx, query, source, position, positionChecksum(source, position)); err != nil {
			return fmt.Errorf("store the position of %s: %w", source, err)
		}
	}
	if !keyed {
		return nil
	}
	for source, position := range last {
		if _, err := tx.ExecContext(ctx, oldKeysSQL, source, position); err != nil {
			return fmt.Errorf("delete old deduplication keys: %w", err)
		}
	}
	if _, err := tx.ExecContext(ctx, manyKeysSQL, maxKeys); err != nil {
		return fmt.Errorf("delete old deduplication keys: %w", err)
	}
	return nil
}
