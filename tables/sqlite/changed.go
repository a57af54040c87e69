package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// maxKnown bounds the remembered values. The oldest are deleted first; if such a value occurs
// again, it counts as new.
const maxKnown = 1_000_000

// knownSQL remembers a value, and returns its row. A value that another attempt brought returns
// none.
const knownSQL = `INSERT INTO known (name, kernel, fact, value, load_id) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (name, kernel, fact, value) DO UPDATE SET load_id = load_id WHERE load_id = excluded.load_id
RETURNING id`

// formerSQL reports whether another attempt brought a value before a row.
const formerSQL = `SELECT EXISTS (SELECT 1 FROM known WHERE name = ? AND kernel = ? AND fact = ? AND id < ? AND load_id != ?)`

// A knowledge holds the statements that setChanged needs, of its transaction.
type knowledge struct{ known, former *sql.Stmt }

// setChanged sets the event's Changed from what earlier attempts with this name brought under
// this kernel. It is nil if there were none, and in Missing if the name or the hash is missing.
// FirstSeen must be set. A row that closes an attempt keeps what its events have.
func (s *Store) setChanged(ctx context.Context, k knowledge, e *kmodquery.Event) error {
	if s.options.Kernel == "" || kmodquery.IsLoadClosed(e.EventName) {
		return nil
	}
	e.Changed = ""
	hash := cmp.Or(e.ImageSHA256, e.CDHash)
	isOurs := e.BootID == "" || s.options.BootID == "" || e.BootID == s.options.BootID
	if hash == "" || e.Name == "" || e.LoadID == "" || !isOurs {
		if e.Missing.Has("first_seen") || e.Missing.Has("image_sha256") || hash != "" && e.Name != "" && e.Missing.Has("load_id") {
			e.Missing.Add("changed")
		}
		return nil
	}
	var changed []string
	hasFormer := false
	for _, fact := range []struct {
		name, value string
		isUnknown   bool
	}{
		{kmodquery.ChangedHash, hash, false},
		{kmodquery.ChangedSigner, cmp.Or(e.Signer, e.TeamID), e.Missing.Has("signer") || e.Missing.Has("team_id")},
		{kmodquery.ChangedPath, uncompressed(e.Path), e.Path == "" || e.Missing.Has("path")},
	} {
		if fact.isUnknown {
			continue
		}
		var id int64
		err := k.known.QueryRowContext(ctx, e.Name, s.options.Kernel, fact.name, fact.value, e.LoadID).Scan(&id)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			hasFormer = true // another attempt brought this value
			continue
		case err != nil:
			return fmt.Errorf("remember the %s of a module: %w", fact.name, err)
		}
		var is bool
		if err := k.former.QueryRowContext(ctx, e.Name, s.options.Kernel, fact.name, id, e.LoadID).Scan(&is); err != nil {
			return err
		}
		if is {
			changed = append(changed, fact.name)
		}
	}
	switch {
	case len(changed) > 0:
		e.Changed = strings.Join(changed, ",")
	case hasFormer:
		e.Changed = kmodquery.ChangedNothing
	}
	return nil
}

// uncompressed returns the path of a module's file without the suffix of its compression: the
// files of an initramfs are often not compressed.
func uncompressed(path string) string {
	for _, suffix := range []string{".gz", ".xz", ".zst"} {
		if short, ok := strings.CutSuffix(path, suffix); ok {
			return short
		}
	}
	return path
}

// expireKnown deletes at most one chunk of the values beyond maxKnown and reports whether more
// remain.
func (s *Store) expireKnown(ctx context.Context) (more bool, err error) {
	result, err := s.writer.ExecContext(ctx, `DELETE FROM known WHERE id <= min(
		(SELECT max(id) FROM known) - ?,
		(SELECT min(id) FROM known) + ?)`, maxKnown, s.chunk-1)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n == int64(s.chunk), err
}
