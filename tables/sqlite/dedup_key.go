package sqlite

import (
	"context"
	"fmt"
)

// maxKeys bounds the deduplication keys that no position has made obsolete. The
// oldest are deleted first.
const maxKeys = 1 << 16

const (
	keySQL      = "INSERT OR IGNORE INTO receipts (source, receipt) VALUES (?, ?)"
	oldKeysSQL  = "DELETE FROM receipts WHERE source = ? AND receipt < ?"
	manyKeysSQL = "DELETE FROM receipts WHERE id <= (SELECT max(id) FROM receipts) - ?"
)

// Keys returns the deduplication keys of a source's stored events, except those that
// sort before the source's position, in no order.
func (s *Store) Keys(ctx context.Context, source string) (keys []string, err error) {
	err = s.use(ctx, func(db *database) error {
		rows, err := db.readers.QueryContext(ctx, "SELECT receipt FROM receipts WHERE source = ?", source)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var key string
			if err := rows.Scan(&key); err != nil {
				return err
			}
			keys = append(keys, key)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read the deduplication keys of %s: %w", source, err)
	}
	return keys, nil
}
