package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/kmodquery/kmodquery"
)

// maxSeen is how many pairs of name and hash are remembered. Beyond it the
// oldest are forgotten, and count as never seen when they come again.
const maxSeen = 1_000_000

// seenSQL remembers a pair. It changes a row when the pair is new or when the
// attempt that brought it comes again, and none otherwise: NULL, for an event
// of no attempt, equals nothing.
const seenSQL = `INSERT INTO seen (name, sha256, load_id, time) VALUES (?, ?, ?, ?)
ON CONFLICT (name, sha256) DO UPDATE SET load_id = load_id WHERE load_id = excluded.load_id`

// decideFirstSeen sets the event's FirstSeen, whatever it held: 1 for every
// event of the attempt that was the first on this host to have the event's name
// and hash together, 0 for later ones, and nothing where one of the two is
// unknown; it is named in Missing where that one should have been known. It
// remembers the pair for as long as the transaction of seen does.
func decideFirstSeen(ctx context.Context, seen *sql.Stmt, e *kmodquery.Event) error {
	e.FirstSeen = nil
	switch {
	case e.SHA256 == "":
		if e.Missing.Has("sha256") {
			e.Missing.Add("first_seen")
		}
		return nil
	case e.Name == "":
		if e.Missing.Has("name") {
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

// forgetSeen forgets at most one chunk of the pairs beyond maxSeen and reports
// whether there is more.
func (s *Store) forgetSeen(ctx context.Context) (more bool, err error) {
	result, err := s.writer.ExecContext(ctx, `DELETE FROM seen WHERE id <= min(
		(SELECT max(id) FROM seen) - ?,
		(SELECT min(id) FROM seen) + ?)`, maxSeen, s.chunk-1)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n == int64(s.chunk), err
}
