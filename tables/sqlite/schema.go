package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// applicationID marks a database as an event store. The first migration sets it.
const applicationID = 0x6b6d6f64

//go:embed migrations/*.sql
var files embed.FS

// migrations are the scripts in order: the n-th, counted from 1, turns schema version
// n-1 into version n. The name of a script begins with that number. The statements
// of a released script never change. A script that changes a column of events breaks the HMACs
// of the rows with a value in it, and one that adds or deletes rows the totals. A new column
// without values breaks neither.
var migrations = func() []string {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		panic(err)
	}
	var scripts []string
	for _, name := range names {
		script, err := files.ReadFile(name)
		if err != nil {
			panic(err)
		}
		scripts = append(scripts, string(script))
	}
	return scripts
}()

// migrate brings a database from a version to the newest, one transaction a step.
func migrate(ctx context.Context, db *sql.DB, version int) error {
	for ; version < len(migrations); version++ {
		if err := step(ctx, db, version+1, migrations[version]); err != nil {
			return fmt.Errorf("migrate to schema version %d: %w", version+1, err)
		}
	}
	return nil
}

func step(ctx context.Context, db *sql.DB, version int, script string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, script); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return err
	}
	return tx.Commit()
}

// create creates the database at a path unless it exists. It builds the database
// under another name and renames it, so that a reader finds no database or a complete
// one. Only the holder of the lock may call it.
func create(ctx context.Context, database string, busyTimeout time.Duration) error {
	if _, err := os.Lstat(database); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	unfinished := database + ".new"
	for _, companion := range companions {
		if err := os.Remove(unfinished + companion); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// SQLite gives its companion files the mode of this file.
	file, err := os.OpenFile(unfinished, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	db, err := openWriter(unfinished, busyTimeout)
	if err != nil {
		return err
	}
	err = prepare(ctx, db, unfinished)
	if err == nil {
		// Close does this too, but reports no failure: the database would be renamed
		// without its log.
		_, err = db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	}
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(unfinished, database); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(database))
}

// prepare turns a database that version accepts into an event store of the newest
// schema.
func prepare(ctx context.Context, db *sql.DB, path string) error {
	version, err := version(ctx, db, path)
	if err != nil {
		return err
	}
	var mode string
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return describe(err, path)
	}
	if mode != "wal" {
		return fmt.Errorf("%s cannot have a write-ahead log; choose a state folder on a local file system", path)
	}
	return migrate(ctx, db, version)
}

// errForeign matches errors for a database of another program.
var errForeign = errors.New("is a database of another program; move it away or choose another state folder")

// A newerError reports a database of a schema that this program does not know.
type newerError struct {
	path    string
	version int
}

func (e *newerError) Error() string {
	return fmt.Sprintf("%s has schema version %d and this program knows up to %d; "+
		"use the newer program that wrote it or choose another state folder", e.path, e.version, len(migrations))
}

// version returns the schema version of an event store, and an error for any other
// database. It writes nothing.
func version(ctx context.Context, db *sql.DB, path string) (int, error) {
	var version, id, objects int
	const query = `SELECT (SELECT user_version FROM pragma_user_version),
		(SELECT application_id FROM pragma_application_id), (SELECT count(*) FROM sqlite_schema)`
	if err := db.QueryRowContext(ctx, query).Scan(&version, &id, &objects); err != nil {
		return 0, describe(err, path)
	}
	switch {
	case id != applicationID && (objects > 0 || version != 0):
		return 0, fmt.Errorf("%s %w", path, errForeign)
	case version > len(migrations):
		return 0, &newerError{path, version}
	}
	return version, nil
}
