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
		return fmt.Errorf("no such table: %s; .tables lists them", words[0])
	}
	return nil
}
