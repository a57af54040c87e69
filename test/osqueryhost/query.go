package osqueryhost

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/osquery/osquery-go/gen/osquery"

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
}

// A remoteTable is a table behind an extension's socket.
type remoteTable struct {
	host   *Host
	uuid   osquery.ExtensionRouteUUID
	name   string
	routes osquery.ExtensionPluginResponse
}

func (t *remoteTable) Name() string { return t.name }

// Call responds to a request for the columns from the extension's registration, because
// the extension may not serve yet (routes_ in RegistryInterface::call).
func (t *remoteTable) Call(ctx context.Context, request osquery.ExtensionPluginRequest) osquery.ExtensionResponse {
	if request["action"] == "columns" {
		return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Message: "OK"}, Response: t.routes}
	}
	return t.host.callExtension(ctx, t.uuid, tableRegistry, t.name, request)
}

// database returns the current database and a function that releases it.
func (h *Host) database(ctx context.Context) (*database, func(), error) {
	e := &h.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	extensions, generation, _ := h.registry.snapshot()
	if e.current == nil || e.current.generation != generation {
		db, err := virtualtable.Open(ctx, h.tables(extensions)...)
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

func (h *Host) tables(extensions map[osquery.ExtensionRouteUUID]registration) []virtualtable.Plugin {
	var plugins []virtualtable.Plugin
	for _, t := range h.registry.core {
		plugins = append(plugins, t)
	}
	for _, uuid := range slices.Sorted(maps.Keys(extensions)) {
		routes := extensions[uuid].routes[tableRegistry]
		for _, name := range slices.Sorted(maps.Keys(routes)) {
			plugins = append(plugins, &remoteTable{host: h, uuid: uuid, name: name, routes: routes[name]})
		}
	}
	return plugins
}

func (e *engine) closeUnused(db *database) {
	if db != nil && db != e.current && db.users == 0 {
		_ = db.Close() // it is in memory: nothing can be lost
	}
}

// close releases the database. Running queries end first.
func (e *engine) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	former := e.current
	e.current = nil
	e.closeUnused(former)
}

// Query runs SQL as osqueryi or a distributed query does. Values are text; NULL is an
// empty text.
func (h *Host) Query(ctx context.Context, query string) ([]map[string]string, error) {
	rows, done, err := h.rows(ctx, query)
	if err != nil {
		return nil, err
	}
	defer done()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	values := make([]any, len(columns))
	pointers := make([]any, len(columns))
	for i := range values {
		pointers[i] = &values[i]
	}
	var result []map[string]string
	for rows.Next() {
		if err := rows.Scan(pointers...); err != nil {
			return nil, err
		}
		row := make(map[string]string, len(columns))
		for i, column := range columns {
			row[column] = text(values[i])
		}
		result = append(result, row)
	}
	return result, rows.Err()
}

// rows returns errors in the wording of SQLite and the tables, which osquery shows.
func (h *Host) rows(ctx context.Context, query string) (*sql.Rows, func(), error) {
	db, release, err := h.database(ctx)
	if err != nil {
		return nil, nil, err
	}
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		release()
		return nil, nil, err
	}
	return rows, func() {
		rows.Close()
		release()
	}, nil
}

// queryColumns returns the names and types of a query's columns, one per row, without
// reading a table.
func (h *Host) queryColumns(ctx context.Context, query string) ([]map[string]string, error) {
	inner := strings.TrimRight(strings.TrimSpace(query), ";")
	rows, done, err := h.rows(ctx, "SELECT * FROM ("+inner+"\n) LIMIT 0")
	if err != nil {
		return nil, err
	}
	defer done()
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

func text(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case int64:
		return strconv.FormatInt(v, 10)
	case []byte:
		return string(v)
	default:
		return fmt.Sprint(v)
	}
}
