package osqueryhost

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/osquery/osquery-go/gen/osquery"
	"modernc.org/sqlite"

	"github.com/kmodquery/kmodquery/extension/virtualtable"
)

// An engine provides SQLite databases with the currently registered tables.
type engine struct {
	mu      sync.Mutex
	current *database
}

// A database has the tables of one generation of the registry. It is closed when there
// is a newer one and no query uses it.
type database struct {
	*sql.DB
	generation int
	users      int

	busy    sync.Mutex // held by the query that uses primary
	primary *sql.Conn
}

// database returns the current database and a function that releases it.
func (w *worker) database(ctx context.Context) (*database, func(), error) {
	e := &w.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	extensions, generation, _ := w.registry.snapshot()
	if e.current == nil || e.current.generation != generation {
		db, err := virtualtable.Open(ctx, w.tables(extensions)...)
		if err != nil {
			return nil, nil, fmt.Errorf("attach tables: %w", err)
		}
		former := e.current
		e.current = &database{DB: db, generation: generation}
		e.closeUnused(former)
	}
	db := e.current
	db.users++
	return db, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		db.users--
		e.closeUnused(db)
	}, nil
}

func (w *worker) tables(extensions map[osquery.ExtensionRouteUUID]registration) []virtualtable.Plugin {
	var plugins []virtualtable.Plugin
	for _, t := range w.registry.core {
		plugins = append(plugins, w.attach(t.name, t.attachedRoutes(), t.Call))
	}
	for _, uuid := range slices.Sorted(maps.Keys(extensions)) {
		routes := extensions[uuid].routes[tableRegistry]
		for _, name := range slices.Sorted(maps.Keys(routes)) {
			call := func(ctx context.Context, request osquery.ExtensionPluginRequest) osquery.ExtensionResponse {
				return w.callExtension(ctx, uuid, tableRegistry, name, request)
			}
			plugins = append(plugins, w.attach(name, routes[name], call))
		}
	}
	return plugins
}

func (e *engine) closeUnused(db *database) {
	if db == nil || db == e.current || db.users > 0 {
		return
	}
	if db.primary != nil {
		_ = db.primary.Close() // the database is in memory: nothing can be lost
	}
	_ = db.Close()
}

// close releases the database. Running queries end first.
func (e *engine) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	former := e.current
	e.current = nil
	e.closeUnused(former)
}

// conn returns the primary connection, which keeps temporary tables and views from query
// to query, or while another query uses it, one that lives as long as this query
// (SQLiteDBManager::getConnection). The function releases it.
func (db *database) conn(ctx context.Context) (conn *sql.Conn, primary bool, release func(), err error) {
	if !db.busy.TryLock() {
		conn, err = db.Conn(ctx)
		if err != nil {
			return nil, false, nil, err
		}
		return conn, false, func() { discard(conn) }, nil
	}
	if db.primary == nil {
		if db.primary, err = db.Conn(context.WithoutCancel(ctx)); err != nil {
			db.busy.Unlock()
			return nil, false, nil, err
		}
	}
	return db.primary, true, func() {
		if ctx.Err() != nil { // the driver may have given the connection up
			discard(db.primary)
			db.primary = nil
		}
		db.busy.Unlock()
	}, nil
}

// discard closes a connection instead of returning it to the pool.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = conn.Close()
}

// Query runs SQL as osquery's extension manager does for a client, such as osqueryi
// --connect: on a thread of its own, beside the schedule and live queries. Values are text
// as osquery prints it; NULL is an empty text. The rows of several statements are appended
// (queryInternal, sqlite_util.cpp). Errors have the wording of SQLite and the tables, which
// osquery shows.
func (h *Host) Query(ctx context.Context, query string) ([]map[string]string, error) {
	w, err := h.running()
	if err != nil {
		return nil, err
	}
	return w.query(ctx, query)
}

func (w *worker) query(ctx context.Context, query string) ([]map[string]string, error) {
	e := w.execute()
	defer e.close()
	rows, _, err := e.query(ctx, query)
	return texts(rows), err
}

// query runs all statements and accounts what they hold. It also returns the columns of the
// first statement.
func (e *execution) query(ctx context.Context, query string) ([]row, []string, error) {
	w := e.worker
	ctx, cancel := context.WithCancel(context.WithValue(ctx, executionKey{}, e))
	defer cancel()
	defer context.AfterFunc(w.ctx, cancel)()
	db, release, err := w.database(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	conn, primary, giveBack, err := db.conn(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer giveBack()

	var result []row
	var columns []string
	for i, statement := range statements(query) {
		if isEmpty(statement) {
			continue
		}
		names, err := e.statement(ctx, conn, statement, &result)
		if w.ctx.Err() != nil {
			return nil, nil, context.Cause(w.ctx)
		}
		if err != nil {
			return nil, nil, w.refusal(err, primary)
		}
		if i == 0 {
			columns = names
		}
	}
	return result, columns, nil
}

// statement appends the rows of one statement to the result and returns its columns.
func (e *execution) statement(ctx context.Context, conn *sql.Conn, statement string, result *[]row) ([]string, error) {
	rows, err := conn.QueryContext(ctx, statement)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	values := make([]any, len(columns))
	pointers := make([]any, len(columns))
	for i := range values {
		pointers[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(pointers...); err != nil {
			return nil, err
		}
		r := make(row, len(columns))
		for i, column := range columns {
			r[column] = cellValue(values[i])
		}
		*result = append(*result, r)
		e.result += int64(len(r))
		e.update()
	}
	return columns, rows.Err()
}

// errorStrings are the texts of sqlite3_errstr that the driver puts before SQLite's message.
var errorStrings = map[int]string{
	1:  "SQL logic error",
	6:  "database table is locked",
	8:  "attempt to write a readonly database",
	18: "string or blob too big",
	19: "constraint failed",
	20: "datatype mismatch",
	23: "authorization denied",
}

var (
	noSuchTable     = regexp.MustCompile(`^no such table: (?:\w+\.)?(\w+)$`)
	missingRequired = regexp.MustCompile(`^table (\S+ was queried without a required column in the WHERE clause)$`)
)

// refusal returns an error in the words of sqlite3_errmsg, which are osquery's. A table
// whose extension was removed is still a module of the primary connection, and SQLite fails
// to construct it.
func (w *worker) refusal(err error, primary bool) error {
	var sqliteErr *sqlite.Error
	if !errors.As(err, &sqliteErr) {
		return err
	}
	message := strings.TrimSuffix(sqliteErr.Error(), fmt.Sprintf(" (%d)", sqliteErr.Code()))
	message = strings.TrimPrefix(message, errorStrings[sqliteErr.Code()&0xff]+": ")
	if match := noSuchTable.FindStringSubmatch(message); match != nil && primary {
		if name, ok := w.registry.dropped(match[1]); ok {
			return refusal("vtable constructor failed: " + name)
		}
	}
	return refusal(missingRequired.ReplaceAllString(message, "Table $1"))
}

// queryColumns returns the names and types of the first statement's columns, one per row,
// without reading a table. osquery also derives the types of expressions; here they are
// UNKNOWN.
func (w *worker) queryColumns(ctx context.Context, query string) ([]map[string]string, error) {
	list := statements(query)
	if len(list) == 0 || isEmpty(list[0]) {
		return nil, refusal("not an error")
	}
	db, release, err := w.database(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	conn, primary, giveBack, err := db.conn(ctx)
	if err != nil {
		return nil, err
	}
	defer giveBack()
	rows, err := conn.QueryContext(ctx, "SELECT * FROM ("+list[0]+"\n) LIMIT 0")
	if err != nil {
		return nil, w.refusal(err, primary)
	}
	defer rows.Close()
	types, err := rows.ColumnTypes()
	if err != nil {
		return nil, err
	}
	var result []map[string]string
	for _, column := range types {
		kind := column.DatabaseTypeName()
		if kind == "" {
			kind = "UNKNOWN"
		}
		result = append(result, map[string]string{column.Name(): kind})
	}
	return result, rows.Err()
}
