package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/kmodquery/kmodquery"
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
	// checkFor bounds the time that the structure of a database is looked at
	// before it is used. What that does not reach is found out when it is
	// read.
	checkFor = time.Second
)

// A database is one database file, open. A [Store] has another one when that is
// set aside.
type database struct {
	info     os.FileInfo // of the file
	unsummed int64       // last EID of the events that have no sums
	readers  *sql.DB

	// The recorder's own; nil in a reader.
	writer             *sql.DB
	insert, seen, last *sql.Stmt
}

// openWritable opens the database at path, of which the mark may know, for the
// recorder, and makes it where there is none. An error matches errDamaged where
// it can only be set aside.
func openWritable(ctx context.Context, path string, known mark) (db *database, err error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) && exists(path) {
		// SQLite would take another database's log for the new one's.
		if _, err := setAside(path, time.Now()); err != nil {
			return nil, err
		}
	}
	if err := create(ctx, path); err != nil {
		return nil, err
	}
	db = &database{}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.close())
		}
	}()
	if db.info, err = os.Lstat(path); err != nil {
		return db, err
	}
	if db.writer, err = openWriter(path); err != nil {
		return db, err
	}
	if err := prepare(ctx, db.writer, path); err != nil {
		return db, judge(ctx, err, db.writer, known, db.info)
	}
	// From here on nothing can be wrong with a statement but with the schema.
	if err := db.openRest(ctx, path); err != nil {
		return db, misfit(err)
	}
	return db, nil
}

func (d *database) openRest(ctx context.Context, path string) (err error) {
	for _, statement := range []struct {
		into **sql.Stmt
		sql  string
	}{{&d.insert, insertSQL}, {&d.seen, seenSQL}, {&d.last, lastSQL}} {
		if *statement.into, err = d.writer.PrepareContext(ctx, statement.sql); err != nil {
			return err
		}
	}
	for _, columns := range readSQL {
		if _, err := d.writer.ExecContext(ctx, columns+" LIMIT 0"); err != nil {
			return err
		}
	}
	if err := check(ctx, d.writer); err != nil {
		return err
	}
	if d.readers, err = openReaders(path); err != nil {
		return err
	}
	return d.learn(ctx)
}

// readSQL are all columns that are read of each table.
var readSQL = []string{
	"SELECT " + strings.Join(eventNames(), ", ") + ", cheap, sums FROM events",
	"SELECT source, position, sum FROM positions",
	"SELECT id, name, sha256, load_id, time FROM seen",
}

func eventNames() []string {
	var names []string
	for _, column := range kmodquery.EventColumns() {
		names = append(names, column.Name)
	}
	return names
}

// openReadable opens the database at path for a reader.
func openReadable(ctx context.Context, path string) (db *database, err error) {
	db = &database{}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.close())
		}
	}()
	if db.info, err = os.Lstat(path); err != nil {
		return db, err
	}
	pool, err := openReaders(path)
	if err != nil {
		return db, err
	}
	db.readers = pool
	version, err := version(ctx, pool, path)
	if err != nil {
		return db, err
	}
	if version < len(migrations) {
		return db, fmt.Errorf("%s %w: it has schema version %d and this program needs %d; "+
			"restart the process that records with this version", path, errUnfinished, version, len(migrations))
	}
	return db, db.learn(ctx)
}

// learn reads what the reading of events needs to know.
func (d *database) learn(ctx context.Context) error {
	return d.readers.QueryRowContext(ctx, "SELECT coalesce(max(eid), 0) FROM unsummed").Scan(&d.unsummed)
}

// check looks at the structure of the database, and for as long as there is time
// whether its indexes have every event.
func check(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, checkFor)
	defer cancel()
	for _, pragma := range []string{"quick_check", "integrity_check"} {
		var found string
		err := db.QueryRowContext(ctx, "PRAGMA "+pragma+"(1)").Scan(&found)
		if ctx.Err() != nil {
			return nil // unless the caller's own has ended, which the next statement tells
		}
		if err != nil {
			return err
		}
		if found != "ok" {
			return unsound(found)
		}
	}
	return nil
}

// pageError is how a check tells that it could not have a page.
var pageError = regexp.MustCompile(`error code=(\d+)`)

// unsound is what a check found, which is no damage where the disk gave nothing.
func unsound(found string) error {
	if match := pageError.FindStringSubmatch(found); match != nil {
		if code, _ := strconv.Atoi(match[1]); code&0xff != sqlite3.SQLITE_CORRUPT && code&0xff != sqlite3.SQLITE_NOTADB {
			return fmt.Errorf("check the database: %s", found)
		}
	}
	return fmt.Errorf("%w: %s", errDamaged, found)
}

func (d *database) close() error {
	var errs []error
	for _, statement := range []*sql.Stmt{d.insert, d.seen, d.last} {
		if statement != nil {
			errs = append(errs, statement.Close())
		}
	}
	if d.readers != nil {
		errs = append(errs, d.readers.Close())
	}
	if d.writer != nil {
		errs = append(errs, d.writer.Close())
	}
	return errors.Join(errs...)
}

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
			// What does not fit into memory would need room on a disk that may
			// be full.
			"temp_store(memory)",
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

// errForeign says that a database is none of this program's to write.
var errForeign = errors.New("is a database of another program; move it away or choose another state folder")

// A newerError says that a database is of a schema that this program does not
// know.
type newerError struct {
	path    string
	version int
}

func (e *newerError) Error() string {
	return fmt.Sprintf("%s has schema version %d and this program knows up to %d; "+
		"use the newer program that wrote it or choose another state folder", e.path, e.version, len(migrations))
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
		return 0, fmt.Errorf("%s %w", path, errForeign)
	case version > len(migrations):
		return 0, &newerError{path, version}
	}
	return version, nil
}
