package virtualtable

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/osquery/osquery-go/gen/osquery"
	"modernc.org/sqlite"
)

// A Plugin is an osquery table, in this process or behind a Thrift client. Call may be
// called concurrently, because several connections of one database can run queries. It
// must return soon after its context ends.
type Plugin interface {
	Name() string
	Call(ctx context.Context, request osquery.ExtensionPluginRequest) osquery.ExtensionResponse
}

// Open returns an in-memory database with one virtual table for each plugin, named after
// it. Open reads the columns of the plugins under ctx. Later calls run under the context
// of their query.
//
// Each connection of the pool has a database of its own with all the tables. A view or
// temporary table exists only on the connection that created it, so a caller that needs
// one holds a connection with [sql.DB.Conn].
//
// The caller closes the database. The SQLite driver keeps the plugins reachable until the
// process ends, so a long-lived process must not open many databases.
func Open[P Plugin](ctx context.Context, plugins ...P) (*sql.DB, error) {
	return attach(ctx, &connector{driver: new(sqlite.Driver)}, plugins)
}

func attach[P Plugin](ctx context.Context, c *connector, plugins []P) (*sql.DB, error) {
	for _, plugin := range plugins {
		columns, err := readColumns(ctx, plugin)
		if err != nil {
			return nil, err
		}
		m := &module{plugin: plugin, columns: columns, sessions: &c.sessions, isStrict: c.isStrict}
		if err := c.driver.RegisterModule(plugin.Name(), m); err != nil {
			return nil, fmt.Errorf("register table %s: %w", plugin.Name(), err)
		}
		c.tables = append(c.tables, plugin.Name())
	}
	db := sql.OpenDB(c)
	if err := db.PingContext(ctx); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// connector opens the connections of one database. Each connector has its own driver, so
// that databases can have tables of the same name.
type connector struct {
	driver   *sqlite.Driver
	tables   []string
	opened   atomic.Int64
	isStrict bool     // of OpenShell
	sessions sync.Map // *session by its number as text
}

func (c *connector) Driver() driver.Driver { return c.driver }

func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	opened, err := c.driver.Open(":memory:")
	if err != nil {
		return nil, fmt.Errorf("open in-memory database: %w", err)
	}
	id, s := strconv.FormatInt(c.opened.Add(1), 10), &session{ctx: ctx}
	c.sessions.Store(id, s)
	forget := func() { c.sessions.Delete(id) }
	cn := &conn{sqliteConn: opened.(sqliteConn), session: s, forget: forget}
	for _, table := range c.tables {
		// osquery attaches its tables to the temp schema as well.
		create := fmt.Sprintf("CREATE VIRTUAL TABLE temp.%s USING %[1]s(%s)", quote(table), id)
		if _, err := opened.(driver.ExecerContext).ExecContext(ctx, create, nil); err != nil {
			cn.Close()
			return nil, fmt.Errorf("attach table %s: %w", table, err)
		}
	}
	if err := cn.RegisterAuthorizer(authorize); err != nil {
		cn.Close()
		return nil, fmt.Errorf("set authorizer: %w", err)
	}
	return cn, nil
}

// quote returns a name as an SQL identifier.
func quote(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
