package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

// maxReceipts bounds the receipts that are kept where no position makes them
// useless. The oldest leave first.
const maxReceipts = 1 << 16

// Receipts returns those of a source's stored events which lie behind its
// position, in no order.
func (s *Store) Receipts(ctx context.Context, source string) ([]string, error) {
	var receipts []string
	err := s.use(ctx, func(db *database) (err error) {
		receipts, err = db.receipts(ctx, source)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the receipts of %s: %w", source, err)
	}
	return receipts, nil
}

func (d *database) receipts(ctx context.Context, source string) (receipts []string, err error) {
	query := squirrel.Select("receipt").From("receipts").Where(squirrel.Eq{"source": source})
	rows, err := query.RunWith(d.readers).QueryContext(ctx)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var receipt string
		if err := rows.Scan(&receipt); err != nil {
			return nil, err
		}
		receipts = append(receipts, receipt)
	}
	return receipts, rows.Err()
}

// writeReceipts keeps the receipts that events have, and forgets those that their
// sources' positions have passed.
func writeReceipts(ctx context.Context, tx *sql.Tx, events []kmodquery.Event) error {
	insert := squirrel.Insert("receipts").Options("OR IGNORE").Columns("source", "receipt")
	passed := map[string]string{}
	n := 0
	for _, event := range events {
		if event.Receipt == "" {
			continue
		}
		insert = insert.Values(event.Source, event.Receipt)
		n++
		if event.Position != "" {
			passed[event.Source] = event.Position
		}
	}
	if n == 0 {
		return nil
	}
	if _, err := insert.RunWith(tx).ExecContext(ctx); err != nil {
		return fmt.Errorf("keep receipts: %w", err)
	}
	for source, position := range passed {
		_, err := squirrel.Delete("receipts").Where(squirrel.Eq{"source": source}).Where(squirrel.Lt{"receipt": position}).RunWith(tx).ExecContext(ctx)
		if err != nil {
			return fmt.Errorf("forget receipts: %w", err)
		}
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM receipts WHERE id <= (SELECT max(id) FROM receipts) - ?", maxReceipts)
	if err != nil {
		return fmt.Errorf("forget receipts: %w", err)
	}
	return nil
}
