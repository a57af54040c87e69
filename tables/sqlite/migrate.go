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
)

//go:embed migrations/*.sql
var files embed.FS

// migrations are the scripts in their order: the n-th, counted from 1, makes
// schema version n out of n-1. The number is that of the script's name. A script
// that was released is never edited.
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

// migrate brings a database from version to the newest, one transaction a
// step.
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

// create makes the database at a path unless there is one. It is built under
// another name and then renamed, so that a reader finds either nothing or a
// complete event store. Only the holder of the lock may call it.
func create(ctx context.Context, database string) error {
	if _, err := os.Lstat(database); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	unfinished := database + ".new"
	for _, companion := range companions {
		if err := os.Remove(unfinished + companion); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// SQLite gives its other files the mode of this one.
	file, err := os.OpenFile(unfinished, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	db, err := openWriter(unfinished)
	if err != nil {
		return err
	}
	err = prepare(ctx, db, unfinished)
	if err == nil {
		// Closing does so too and tells nobody when it cannot: the database would
		// be renamed without its log.
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

// prepare turns a database that version accepts into an event store of the
// newest schema.
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
