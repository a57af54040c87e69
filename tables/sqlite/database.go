package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"time"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/kmodquery/kmodquery"
)

const (
	// readers bounds the statements that read at the same time.
	readers = 4
	// maxRow bounds the texts of a row that is read, in bytes. No event has as many, and root could
	// store some that take all memory.
	maxRow = 16 << 20
	// walBytes bounds the size of the write-ahead log after it was written back.
	walBytes = 64 << 20
	// defaultBusyTimeout is how long a statement waits for a lock on the database.
	defaultBusyTimeout = 10 * time.Second
)

// A database is an open database file. A [Store] opens another one when this one is
// set aside.
type database struct {
	info     os.FileInfo // of the file
	unsummed int64       // last EID of the events without checksums
	readers  *sql.DB

	// The recorder's; nil in a reader. Closing writer closes the statements.
	writer                                 *sql.DB
	insert, seen, key, last, known, former *sql.Stmt
}

// openWritable opens the database at path for the recorder, and creates it if it does
// not exist. known is the state in the lock file. An error matches errDamaged if the
// database can only be set aside.
func openWritable(ctx context.Context, path string, known lockState, busyTimeout time.Duration) (db *database, err error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) && exists(path) {
		// SQLite would apply the log of another database to the new one.
		if _, err := setAside(path, time.Now()); err != nil {
			return nil, err
		}
	}
	if err := create(ctx, path, busyTimeout); err != nil {
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
	if db.writer, err = openWriter(path, busyTimeout); err != nil {
		return db, err
	}
	if err := prepare(ctx, db.writer, path); err != nil {
		return db, classify(ctx, err, db.writer, known, db.info)
	}
	// From here on only a wrong schema makes a statement fail.
	if err := db.openRest(ctx, path, busyTimeout); err != nil {
		return db, schemaError(err)
	}
	return db, nil
}

func (d *database) openRest(ctx context.Context, path string, busyTimeout time.Duration) (err error) {
	for _, statement := range []struct {
		into **sql.Stmt
		sql  string
	}{{&d.insert, insertSQL}, {&d.seen, seenSQL}, {&d.key, keySQL}, {&d.last, lastSQL}, {&d.known, knownSQL}, {&d.former, formerSQL}} {
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
	if d.readers, err = openReaders(path, busyTimeout); err != nil {
		return err
	}
	return d.beginReading(ctx)
}

var eventsSQL = "SELECT " + strings.Join(columnNames(kmodquery.EventColumns()), ", ") + ", sums, mac, cheap FROM events"

// fitsSQL selects the rows that are not too long, without reading their text.
var fitsSQL = func() string {
	lengths := "coalesce(octet_length(sums), 0) + coalesce(octet_length(mac), 0)"
	for _, column := range kmodquery.EventColumns() {
		if !column.Number {
			lengths += " + coalesce(octet_length(" + column.Name + "), 0)"
		}
	}
	return fmt.Sprintf("%s <= %d", lengths, maxRow)
}()

// readSQL selects all columns that are read of each table.
var readSQL = []string{
	eventsSQL,
	"SELECT source, position, sum FROM positions",
	"SELECT id, name, sha256, load_id, time FROM seen",
	"SELECT id, name, kernel, fact, value, load_id FROM known",
	"SELECT name, state, sum FROM cursors",
	totalsSQL,
}

func columnNames(columns []kmodquery.Column) (names []string) {
	for _, column := range columns {
		names = append(names, column.Name)
	}
	return names
}

// openReadable opens the database at path for a reader.
func openReadable(ctx context.Context, path string, busyTimeout time.Duration) (db *database, err error) {
	db = &database{}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.close())
		}
	}()
	if db.info, err = os.Lstat(path); err != nil {
		return db, err
	}
	if db.readers, err = openReaders(path, busyTimeout); err != nil {
		return db, err
	}
	version, err := version(ctx, db.readers, path)
	if err != nil {
		return db, err
	}
	if version < len(migrations) {
		return db, fmt.Errorf("%s %w: it has schema version %d and this program needs %d; "+
			"restart the process that records with this version", path, errUnfinished, version, len(migrations))
	}
	return db, db.beginReading(ctx)
}

// beginReading prepares the readers of a database that has the newest schema.
func (d *database) beginReading(ctx context.Context) error {
	if err := limitRows(ctx, d.readers); err != nil {
		return err
	}
	return d.readers.QueryRowContext(ctx, "SELECT coalesce(max(eid), 0) FROM unsummed").Scan(&d.unsummed)
}

// limitRows opens all connections of a pool of readers and bounds the rows that they read.
func limitRows(ctx context.Context, pool *sql.DB) error {
	for range readers {
		conn, err := pool.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close() // once all are open
		if _, err := driver.Limit(conn, sqlite3.SQLITE_LIMIT_LENGTH, maxRow); err != nil {
			return err
		}
	}
	return nil
}

// skipTo makes the EIDs continue after one.
func (d *database) skipTo(ctx context.Context, eid int64) error {
	// The table has no key and, before the first event, no row.
	for _, sql := range []string{"DELETE FROM sqlite_sequence WHERE name = 'events'", "INSERT INTO sqlite_sequence (seq, name) VALUES (?1, 'events')"} {
		if _, err := d.writer.ExecContext(ctx, sql, eid); err != nil {
			return err
		}
	}
	return nil
}

func (d *database) close() error {
	var errs []error
	for _, pool := range []*sql.DB{d.readers, d.writer} {
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	return errors.Join(errs...)
}

// openWriter opens the database at path for the one connection that writes.
func openWriter(path string, busyTimeout time.Duration) (*sql.DB, error) {
	return openPool(path, 1, busyTimeout,
		// NORMAL may lose the last batches if the kernel crashes, and a module that
		// crashes the kernel is the evidence that matters most.
		"synchronous(FULL)",
		fmt.Sprintf("journal_size_limit(%d)", walBytes),
		// In KiB: enough for the last pages of all indexes, where each batch writes.
		"cache_size(-16384)")
}

// openReaders opens the database at path for a pool of connections that cannot write.
func openReaders(path string, busyTimeout time.Duration) (*sql.DB, error) {
	return openPool(path, readers, busyTimeout, "query_only(1)")
}

func openPool(path string, connections int, busyTimeout time.Duration, pragmas ...string) (*sql.DB, error) {
	// Temporary files would need space on a disk that may be full.
	all := []string{fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()), "temp_store(memory)"}
	query := url.Values{
		"mode":    {"rw"}, // a reader of a write-ahead log takes locks in its index file
		"_txlock": {"immediate"},
		"_pragma": append(all, pragmas...),
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}
