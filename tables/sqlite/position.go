package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/Masterminds/squirrel"

	"github.com/kmodquery/kmodquery"
)

// Position returns how far in its log a source has come, by the last of its
// stored events that said so; "" where none did, or where what is stored is not
// what was written.
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
	if err == nil && sum.Valid && sum.Int64 != sumOfPosition(source, position) {
		s.notice(1)
		return "", nil
	}
	return position, nil
}

// writePositions keeps the last position that the events of each source have.
func writePositions(ctx context.Context, tx *sql.Tx, events []kmodquery.Event) error {
	last := map[string]string{}
	for _, event := range events {
		if event.Position != "" {
			last[event.Source] = event.Position
		}
	}
	for source, position := range last {
		_, err := squirrel.Replace("positions").Columns("source", "position", "sum").
			Values(source, position, sumOfPosition(source, position)).RunWith(tx).ExecContext(ctx)
		if err != nil {
			return fmt.Errorf("keep the position of %s: %w", source, err)
		}
	}
	return nil
}
