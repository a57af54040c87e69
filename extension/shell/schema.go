package shell

import (
	"context"
	"fmt"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// relations lists tables and views with their CREATE statements. Virtual tables are in
// the temp schema. The statement of a virtual table does not name its columns, so a CREATE
// TABLE statement replaces it.
const relations = `
SELECT name, iif(sql NOT LIKE 'CREATE VIRTUAL TABLE%', sql, 'CREATE TABLE ' || name || '(' || char(10) ||
	(SELECT group_concat('  ' || name || ' ' || type || iif(hidden, ' HIDDEN', ''), ',' || char(10) ORDER BY cid)
		FROM pragma_table_xinfo(r.name)) || char(10) || ')') AS sql
FROM (SELECT type, name, sql FROM temp.sqlite_master UNION ALL SELECT type, name, sql FROM main.sqlite_master) AS r
WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name`

// Statements that list names.
const (
	tableNames    = "SELECT name FROM (" + relations + ")"
	columnNames   = "SELECT DISTINCT c.name FROM (" + relations + ") AS r, pragma_table_xinfo(r.name) AS c ORDER BY 1"
	columnsOf     = "SELECT c.name FROM (" + relations + ") AS r, pragma_table_xinfo(r.name) AS c WHERE lower(r.name) = lower(?) ORDER BY 1"
	functionNames = "SELECT DISTINCT name FROM pragma_function_list ORDER BY 1"
)

// names returns the names that a statement lists, or nil after an error.
func (s *session) names(ctx context.Context, statement string, args ...any) (names []string) {
	rows, err := s.conn.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if rows.Scan(&name) == nil {
			names = append(names, name)
		}
	}
	if rows.Err() != nil {
		return nil // no suggestion is better than one of half the names
	}
	return names
}

type relation struct {
	name, sql string
}

func (s *session) relations(ctx context.Context) ([]relation, error) {
	rows, err := s.conn.QueryContext(ctx, relations)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	defer rows.Close()
	var all []relation
	for rows.Next() {
		var r relation
		if err := rows.Scan(&r.name, &r.sql); err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

func showTables(ctx context.Context, s *session, _ []string) error {
	all, err := s.relations(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if _, err := fmt.Fprintln(s.out, kmodquery.Printable(r.name)); err != nil {
			return err
		}
	}
	return nil
}

func showSchema(ctx context.Context, s *session, words []string) error {
	all, err := s.relations(ctx)
	if err != nil {
		return err
	}
	found := false
	for _, r := range all {
		if len(words) > 0 && !strings.EqualFold(r.name, words[0]) {
			continue
		}
		found = true
		lines := strings.Split(r.sql, "\n")
		for i, line := range lines {
			lines[i] = kmodquery.Printable(line)
		}
		if _, err := fmt.Fprintln(s.out, strings.Join(lines, "\n")+";"); err != nil {
			return err
		}
	}
	if len(words) > 0 && !found {
		return s.explain(ctx, "", noTable(words[0]))
	}
	return nil
}

func noTable(name string) error { return fmt.Errorf("SQL logic error: no such table: %s", name) }

func showAll(ctx context.Context, s *session, words []string) error {
	s.total-- // the statement counts, and not the command too
	s.statement(ctx, `SELECT * FROM "`+strings.ReplaceAll(words[0], `"`, `""`)+`"`)
	return nil
}
