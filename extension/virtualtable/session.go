package virtualtable

import (
	"context"
	"database/sql/driver"

	"modernc.org/sqlite"
)

// session passes the context of the statement that runs on a connection to the tables,
// because SQLite's virtual table methods have no context. It needs no lock, because
// database/sql uses a connection from one goroutine at a time, and a table is read only
// while its connection is in use.
type session struct {
	ctx context.Context
}

// sqliteConn has the methods of the SQLite driver's connections that database/sql or this
// package call. It has no ExecContext and no QueryContext, so that database/sql prepares
// each statement.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
	sqlite.AuthorizerRegisterer
}

type conn struct {
	sqliteConn
	session *session
	forget  func()
}

func (c *conn) Close() error {
	defer c.forget()
	return c.sqliteConn.Close()
}

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	prepared, err := c.sqliteConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return &stmt{sqliteStmt: prepared.(sqliteStmt), session: c.session}, nil
}

type sqliteStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type stmt struct {
	sqliteStmt
	session *session
}

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	s.session.ctx = ctx
	return s.sqliteStmt.ExecContext(ctx, args)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	s.session.ctx = ctx
	return s.sqliteStmt.QueryContext(ctx, args)
}
