package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// applicationID marks a database as an event store; the first migration sets
// it.
const applicationID = 0x6b6d6f64

const (
	// readers bounds the statements that read at the same time.
	readers = 4
	// walBytes is what the write-ahead log may keep on disk once it is
	// written back.
	walBytes = 64 << 20
)

// openWriter opens the database at path for the one connection that writes.
func openWriter(path string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsn(path, url.Values{
		"mode":    {"rw"},
		"_txlock": {"immediate"},
		"_pragma": {
			"busy_timeout(10000)",
			// Not NORMAL, which may lose the last batches when the kernel
			// goes down: a module that crashes it is the evidence wanted.
			"synchronous(FULL)",
			fmt.Sprintf("journal_size_limit(%d)", walBytes),
			// In KiB: room for the ends of all indexes, where every batch
			// writes.
			"cache_size(-16384)",
		},
	}))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// openReaders opens the database at path for a pool that cannot write.
func openReaders(path string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsn(path, url.Values{
		"mode":    {"rw"}, // a reader of a write-ahead log takes locks in its index file
		"_pragma": {"busy_timeout(10000)", "query_only(1)", "temp_store(memory)"},
	}))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(readers)
	db.SetMaxIdleConns(readers)
	return db, nil
}

func dsn(path string, query url.Values) string {
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String()
}

// version reads the schema version of an event store and refuses whatever is
// none. It writes nothing.
func version(ctx context.Context, db *sql.DB, path string) (int, error) {
	var version, id, objects int
	for _, q := range []struct {
		sql  string
		into *int
	}{
		{"PRAGMA user_version", &version},
		{"PRAGMA application_id", &id},
		{"SELECT count(*) FROM sqlite_schema", &objects},
	} {
		if err := db.QueryRowContext(ctx, q.sql).Scan(q.into); err != nil {
			return 0, describe(err, path)
		}
	}
	switch {
	case id != applicationID && (objects > 0 || version != 0):
		return 0, fmt.Errorf("%s is a database of another program; move it away or choose another state folder", path)
	case version > len(migrations):
		return 0, fmt.Errorf("%s has schema version %d and this program knows up to %d; "+
			"use the newer program that wrote it or choose another state folder", path, version, len(migrations))
	}
	return version, nil
}

// describe says what to do about a file that SQLite refuses.
func describe(err error, path string) error {
	var failure *driver.Error
	if !errors.As(err, &failure) {
		return err
	}
	switch failure.Code() & 0xff {
	case sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%s is no SQLite database; move it away or choose another state folder", path)
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY:
		return fmt.Errorf("%s cannot be opened for reading and writing; run as a user who may or choose another state folder", path)
	case sqlite3.SQLITE_CORRUPT:
		return fmt.Errorf("%s is damaged; move it away or choose another state folder: %w", path, err)
	}
	return fmt.Errorf("read %s: %w", path, err)
}
