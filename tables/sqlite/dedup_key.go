package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

// maxKeys bounds the deduplication keys that no position has made obsolete. The
// oldest are deleted first.
const maxKeys = 1 << 16

// Keys returns the deduplication keys of a source's stored events, except those that
// sort before the source's position, in no order.
func (s *Store) Keys(ctx context.Context, source string) ([]string, error) {
	var keys []string
	err := s.use(ctx, func(db *database) (err error) {
		keys, err = db.keys(ctx, source)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the deduplication keys of %s: %w", source, err)
	}
	return keys, nil
}

func (d *database) keys(ctx context.Context, source string) (keys []string, err error) {
	query := squirrel.Select("receipt").From("receipts").Where(squirrel.Eq{"source": source})
	rows, err := query.RunWith(d.readers).QueryContext(ctx)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, rows.Err()
}

// writeKeys stores the keys of the deliveries and deletes those that sort before
// their sources' positions.
func writeKeys(ctx context.Context, tx *sql.Tx, deliveries []kmodquery.Delivery) error {
	insert := squirrel.Insert("receipts").Options("OR IGNORE").Columns("source", "receipt")
	positions := map[string]string{}
	n := 0
	for i := range deliveries {
		delivery := &deliveries[i]
		if delivery.Key == "" {
			continue
		}
		insert = insert.Values(delivery.Event.Source, delivery.Key)
		n++
		if delivery.Position != "" {
			positions[delivery.Event.Source] = delivery.Position
		}
	}
	if n == 0 {
		return nil
	}
	if _, err := insert.RunWith(tx).ExecContext(ctx); err != nil {
		return fmt.Errorf("store deduplication keys: %w", err)
	}
	for source, position := range positions {
		_, err := squirrel.Delete("receipts").Where(squirrel.Eq{"source": source}).Where(squirrel.Lt{"receipt": position}).RunWith(tx).ExecContext(ctx)
		if err != nil {
			return fmt.Errorf("delete old deduplication keys: %w", err)
		}
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM receipts WHERE id <= (SELECT max(id) FROM receipts) - ?", maxKeys)
	if err != nil {
		return fmt.Errorf("delete old deduplication keys: %w", err)
	}
	return nil
}
