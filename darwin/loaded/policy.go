package loaded

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	_ "modernc.org/sqlite" // database/sql's driver "sqlite"

	"github.com/kmodquery/kmodquery"
)

const (
	// policyTime bounds the time for reading KextPolicy.
	policyTime = 10 * time.Second
	// maxPolicy bounds each of its files, in bytes. They have some 100 KB.
	maxPolicy = 64 << 20
	// maxPolicyRows bounds the rows that are read from each table.
	maxPolicyRows = 4096
	// copyTries is how often the files are copied until none changes meanwhile.
	copyTries = 3
)

// A policy holds the content of KextPolicy.
type policy struct {
	history []pastLoad // latest first
	mdm     []approval
	user    []approval
	lacks   []string // tables and columns that this version of macOS does not have
}

// A pastLoad is a row of kext_load_history_v3.
type pastLoad struct {
	path, team, bundle, boot, cdhash string
	created, seen                    time.Time // zero if unknown
}

// An approval is a row of kext_policy or kext_policy_mdm. A row of the latter without
// a bundle covers all extensions of the team.
type approval struct {
	team, bundle string
	isAllowed    bool
}

// readPolicy reads KextPolicy from a copy, which does not change meanwhile.
func readPolicy(ctx context.Context, path string) (*policy, error) {
	ctx, cancel := context.WithTimeout(ctx, policyTime)
	defer cancel()
	folder, err := os.MkdirTemp("", "kmodquery-kextpolicy-")
	if err != nil {
		return nil, fmt.Errorf("create a folder for a copy of KextPolicy: %w", err)
	}
	defer os.RemoveAll(folder)
	copied := filepath.Join(folder, "KextPolicy")
	if err := copyDatabase(path, copied); err != nil {
		return nil, explainPolicy(path, err)
	}
	values := url.Values{"_pragma": {"trusted_schema(0)", "query_only(1)", "temp_store(memory)"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: copied, RawQuery: values.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("open a copy of KextPolicy: %w", err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	return queryPolicy(ctx, db)
}

func queryPolicy(ctx context.Context, db *sql.DB) (*policy, error) {
	var p policy
	rows, err := p.rows(ctx, db, "kext_load_history_v3", []string{"path", "bundle_id"}, []string{"team_id", "boot_uuid", "created_at", "last_seen", "cdhash"}, "last_seen")
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		p.history = append(p.history, pastLoad{
			path: row["path"], team: row["team_id"], bundle: row["bundle_id"], boot: row["boot_uuid"], cdhash: hash(row["cdhash"]),
			created: moment(row["created_at"]), seen: moment(row["last_seen"]),
		})
	}
	slices.SortStableFunc(p.history, func(a, b pastLoad) int { return b.seen.Compare(a.seen) })
	for table, to := range map[string]*[]approval{"kext_policy": &p.user, "kext_policy_mdm": &p.mdm} {
		rows, err := p.rows(ctx, db, table, []string{"team_id", "bundle_id", "allowed"}, nil, "")
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			*to = append(*to, approval{team: row["team_id"], bundle: row["bundle_id"], isAllowed: row["allowed"] == "1"})
		}
	}
	slices.Sort(p.lacks)
	return &p, nil
}

// rows returns the rows of a table, by column. It leaves out missing columns and notes
// them in lacks. It returns no rows if the table or a column of must is missing.
func (p *policy) rows(ctx context.Context, db *sql.DB, table string, must, may []string, order string) ([]map[string]string, error) {
	has, err := columnsOf(ctx, db, table)
	if err != nil {
		return nil, err
	}
	if len(has) == 0 {
		p.lacks = append(p.lacks, table)
		return nil, nil
	}
	var columns []string
	for _, column := range slices.Concat(must, may) {
		switch {
		case has[column]:
			columns = append(columns, column)
		default:
			p.lacks = append(p.lacks, table+"."+column)
			if slices.Contains(must, column) {
				return nil, nil
			}
		}
	}
	texts := make([]string, len(columns))
	for i, column := range columns {
		texts[i] = "substr(CAST(" + column + " AS TEXT), 1, 1024)"
	}
	query := "SELECT " + strings.Join(texts, ", ") + " FROM " + table
	if has[order] {
		query += " ORDER BY " + order + " DESC"
	}
	found, err := db.QueryContext(ctx, query+fmt.Sprintf(" LIMIT %d", maxPolicyRows))
	if err != nil {
		return nil, fmt.Errorf("read %s of KextPolicy: %w", table, err)
	}
	defer found.Close()
	var rows []map[string]string
	for found.Next() {
		values := make([]sql.NullString, len(columns))
		to := make([]any, len(columns))
		for i := range values {
			to[i] = &values[i]
		}
		if err := found.Scan(to...); err != nil {
			return nil, fmt.Errorf("read %s of KextPolicy: %w", table, err)
		}
		row := map[string]string{}
		for i, column := range columns {
			row[column] = values[i].String
		}
		rows = append(rows, row)
	}
	if err := found.Err(); err != nil {
		return nil, fmt.Errorf("read %s of KextPolicy: %w", table, err)
	}
	return rows, nil
}

func columnsOf(ctx context.Context, db *sql.DB, table string) (map[string]bool, error) {
	rows, err := db.QueryContext(ctx, "SELECT name FROM pragma_table_info(?)", table)
	if err != nil {
		return nil, fmt.Errorf("list the columns of KextPolicy: %w", err)
	}
	defer rows.Close()
	columns := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("list the columns of KextPolicy: %w", err)
		}
		columns[name] = true
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list the columns of KextPolicy: %w", err)
	}
	return columns, nil
}

// moment parses a time in the format of SQLite's CURRENT_TIMESTAMP, in UTC. It returns
// the zero time for any other text.
func moment(text string) time.Time {
	at, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		return time.Time{}
	}
	return at
}

// hash returns the text if it is a code directory hash, otherwise "".
func hash(text string) string {
	if len(text) != 40 || strings.Trim(text, "0123456789abcdef") != "" {
		return ""
	}
	return text
}

// latest returns the last load of an extension, or nil.
func (p *policy) latest(bundle string) *pastLoad {
	for i := range p.history {
		if p.history[i].bundle == bundle {
			return &p.history[i]
		}
	}
	return nil
}

// approval returns who allows an extension to load, or "" if the database does not
// say, as for Apple's own extensions. The device management takes precedence.
func (p *policy) approval(team, bundle string) string {
	for _, a := range p.mdm {
		isForTeam := team != "" && a.team == team && (a.bundle == "" || a.bundle == "*")
		if isForTeam || a.isFor(team, bundle) {
			return cmp.Or(map[bool]string{true: kmodquery.PolicyMDM}[a.isAllowed], kmodquery.PolicyUnapproved)
		}
	}
	for _, a := range p.user {
		if a.isFor(team, bundle) {
			return cmp.Or(map[bool]string{true: kmodquery.PolicyUser}[a.isAllowed], kmodquery.PolicyUnapproved)
		}
	}
	return ""
}

// isFor reports whether an approval names this extension. An empty team is unknown.
func (a *approval) isFor(team, bundle string) bool {
	return a.bundle == bundle && (a.team == team || team == "")
}

// explainPolicy returns an error that says what to do about another one.
func explainPolicy(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &kmodquery.NotSupportedError{Missing: path + ", the history of loads", Need: "macOS 10.13 or later"}
	case errors.Is(err, fs.ErrPermission):
		return &kmodquery.NotSupportedError{
			Missing: "permission to read " + path,
			Need:    "root, and Full Disk Access for kmodquery.ext or what runs it (System Settings, Privacy & Security)",
		}
	}
	return fmt.Errorf("copy %s: %w", path, err)
}
