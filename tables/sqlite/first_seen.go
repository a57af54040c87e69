package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/kmodquery/kmodquery"
)

// maxSeen bounds the remembered pairs of name and hash. The oldest are deleted
// first; if such a pair occurs again, it counts as new.
const maxSeen = 1_000_000

// seenSQL remembers a pair. It changes one row if the pair is new or was first seen
// in the same attempt, and none otherwise. A load_id of NULL equals nothing.
const seenSQL = `INSERT INTO seen (name, sha256, load_id, time) VALUES (?, ?, ?, ?)
ON CONFLICT (name, sha256) DO UPDATE SET load_id = load_id WHERE load_id = excluded.load_id`

// setFirstSeen sets the event's FirstSeen: 1 for every event of the attempt that was
// the first on this host with this name and hash, 0 for events of later attempts,
// and nil if the name or the hash is unknown. In the last case it adds first_seen to
// Missing if the unknown column is there. The pair is remembered when the
// transaction of the statement seen commits.
func setFirstSeen(ctx context.Context, seen *sql.Stmt, e *kmodquery.Event) error {
	e.FirstSeen = nil
	if e.SHA256 == "" || e.Name == "" {
		unknown := "name"
		if e.SHA256 == "" {
			unknown = "sha256"
		}
		if e.Missing.Has(unknown) {
			e.Missing.Add("first_seen")
		}
		return nil
	}
	attempt := sql.NullString{String: e.LoadID, Valid: e.LoadID != ""}
	result, err := seen.ExecContext(ctx, e.Name, e.SHA256, attempt, e.Time)
	if err != nil {
		return fmt.Errorf("remember a name and hash: %w", err)
	}
	changed, err := result.RowsAffected()
	if err != nil {
		return err
	}
	e.FirstSeen = &changed
	return nil
}

// expireSeen deletes at most one chunk of the pairs beyond maxSeen and reports
// whether more remain.
func (s *Store) expireSeen(ctx context.Context) (more bool, err error) {
	result, err := s.writer.ExecContext(ctx, `DELETE FROM seen WHERE id <= min(
		(SELECT max(id) FROM seen) - ?,
		(SELECT min(id) FROM seen) + ?)`, maxSeen, s.chunk-1)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n == int64(s.chunk), err
}
