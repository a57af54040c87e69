package shell

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// relations lists tables and views. Virtual tables are in the temp schema.
const relations = `
SELECT name, sql FROM (SELECT type, name, sql FROM temp.sqlite_master UNION ALL SELECT type, name, sql FROM main.sqlite_master)
WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name`

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
		text := kmodquery.Printable(r.sql)
		// The statement that created a virtual table does not name its columns.
		if strings.HasPrefix(r.sql, "CREATE VIRTUAL TABLE") {
			if text, err = declaration(ctx, s.conn, r.name); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintln(s.out, text+";"); err != nil {
			return err
		}
	}
	if len(words) > 0 && !found {
		return fmt.Errorf("no such table: %s; .tables lists them", words[0])
	}
	return nil
}

// declaration returns a CREATE TABLE statement with a table's columns.
func declaration(ctx context.Context, conn *sql.Conn, table string) (string, error) {
	rows, err := conn.QueryContext(ctx, "SELECT name, type, hidden FROM pragma_table_xinfo(?) ORDER BY cid", table)
	if err != nil {
		return "", fmt.Errorf("read columns of %s: %w", table, err)
	}
	defer rows.Close()
	var columns []string
	for rows.Next() {
		var name, kind string
		var hidden bool
		if err := rows.Scan(&name, &kind, &hidden); err != nil {
			return "", fmt.Errorf("read columns of %s: %w", table, err)
		}
		column := "  " + kmodquery.Printable(name) + " " + kmodquery.Printable(kind)
		if hidden {
			column += " HIDDEN"
		}
		columns = append(columns, column)
	}
	if err := rows.Err(); err != nil {
		return "", fmt.Errorf("read columns of %s: %w", table, err)
	}
	return fmt.Sprintf("CREATE TABLE %s(\n%s\n)", kmodquery.Printable(table), strings.Join(columns, ",\n")), nil
}
