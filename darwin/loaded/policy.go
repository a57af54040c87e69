package loaded

import (
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
	"syscall"
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
	// copyPrefix begins the names of the folders of copies. A folder of that name is stale
	// after staleAfter: the process that made it was killed.
	copyPrefix = "kmodquery-kextpolicy-"
	staleAfter = time.Hour
	// copyTries is how often the files are copied until none changes meanwhile.
	copyTries = 3
)

// A policy holds the content of KextPolicy.
type policy struct {
	history   []pastLoad // latest first
	approvals []approval // those of the device management first, which take precedence
	lacks     []string   // used tables and columns that this version of macOS does not have
}

// A pastLoad is a row of kext_load_history_v3.
type pastLoad struct {
	path, team, bundle, cdhash string
	seen                       time.Time // zero if unknown
}

// An approval is a row of kext_policy or kext_policy_mdm. A row of the latter without
// a bundle covers all extensions of the team.
type approval struct {
	by           string // PolicyMDM or PolicyUser
	team, bundle string
	isAllowed    bool
}

// readPolicy reads KextPolicy from a copy, which does not change meanwhile.
func readPolicy(ctx context.Context, path string) (*policy, error) {
	ctx, cancel := context.WithTimeout(ctx, policyTime)
	defer cancel()
	removeStaleCopies(time.Now().Add(-staleAfter))
	folder, err := os.MkdirTemp("", copyPrefix)
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
	p, err := queryPolicy(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("read KextPolicy: %w", err)
	}
	return p, nil
}

// removeStaleCopies removes the folders of copies that this user made before a time.
func removeStaleCopies(before time.Time) {
	entries, _ := os.ReadDir(os.TempDir())
	for _, entry := range entries {
		if !entry.IsDir() || !strings.HasPrefix(entry.Name(), copyPrefix) {
			continue
		}
		info, err := entry.Info()
		if err != nil || !info.ModTime().Before(before) {
			continue
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) == os.Geteuid() {
			os.RemoveAll(filepath.Join(os.TempDir(), entry.Name()))
		}
	}
}

func queryPolicy(ctx context.Context, db *sql.DB) (*policy, error) {
	var p policy
	must, may := []string{"path", "bundle_id"}, []string{"team_id", "cdhash", "last_seen"}
	loads, err := p.rows(ctx, db, "kext_load_history_v3", must, may)
	if err != nil {
		return nil, err
	}
	for _, row := range loads {
		load := pastLoad{path: row["path"], team: row["team_id"], bundle: row["bundle_id"], cdhash: hash(row["cdhash"])}
		load.seen, _ = time.Parse(time.DateTime, row["last_seen"]) // in UTC; zero for any other text
		p.history = append(p.history, load)
	}
	for _, from := range []struct{ table, by string }{
		{"kext_policy_mdm", kmodquery.PolicyMDM},
		{"kext_policy", kmodquery.PolicyUser},
	} {
		rows, err := p.rows(ctx, db, from.table, []string{"team_id", "bundle_id", "allowed"}, nil)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			a := approval{from.by, row["team_id"], row["bundle_id"], row["allowed"] == "1"}
			p.approvals = append(p.approvals, a)
		}
	}
	slices.Sort(p.lacks)
	return &p, nil
}

// rows returns the rows of a table, by column, the last_seen first. It leaves out missing
// columns and notes them in lacks. It returns no rows if the table or a column of must
// is missing.
func (p *policy) rows(ctx context.Context, db *sql.DB, table string, must, may []string) ([]map[string]string, error) {
	const list = "SELECT COALESCE(group_concat(name), '') FROM pragma_table_info(?)"
	var names string
	if err := db.QueryRowContext(ctx, list, table).Scan(&names); err != nil {
		return nil, fmt.Errorf("list the columns of %s: %w", table, err)
	}
	if names == "" {
		p.lacks = append(p.lacks, table)
		return nil, nil
	}
	has := strings.Split(names, ",")
	var columns, texts []string
	for _, column := range slices.Concat(must, may) {
		if slices.Contains(has, column) {
			columns = append(columns, column)
			texts = append(texts, "COALESCE(substr(CAST("+column+" AS TEXT), 1, 1024), '')")
			continue
		}
		p.lacks = append(p.lacks, table+"."+column)
		if slices.Contains(must, column) {
			return nil, nil
		}
	}
	query := "SELECT " + strings.Join(texts, ", ") + " FROM " + table
	if slices.Contains(columns, "last_seen") {
		query += " ORDER BY datetime(last_seen) DESC"
	}
	found, err := db.QueryContext(ctx, query+fmt.Sprintf(" LIMIT %d", maxPolicyRows))
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var rows []map[string]string
	for found.Next() {
		values := make([]string, len(columns))
		to := make([]any, len(columns))
		for i := range values {
			to[i] = &values[i]
		}
		if err := found.Scan(to...); err != nil {
			return nil, err
		}
		row := map[string]string{}
		for i, column := range columns {
			row[column] = values[i]
		}
		rows = append(rows, row)
	}
	return rows, found.Err()
}

// hash returns the text if it is a code directory hash, otherwise "".
func hash(text string) string {
	if len(text) != 40 || strings.Trim(text, "0123456789abcdef") != "" {
		return ""
	}
	return text
}

// describe adds what KextPolicy has about an extension.
func (p *policy) describe(m *kmodquery.Module) {
	i := slices.IndexFunc(p.history, func(load pastLoad) bool { return load.bundle == m.Name })
	if i >= 0 {
		load := p.history[i]
		m.Views = append(m.Views, kmodquery.ViewKextPolicy)
		if strings.HasPrefix(load.path, "/") {
			m.Path = load.path
		}
		m.TeamID, m.CDHash = load.team, load.cdhash
		if !load.seen.IsZero() {
			m.LastLoaded = new(load.seen.Unix())
		}
	}
	m.Policy = p.approval(m.TeamID, m.Name)
}

// approval returns who allows an extension to load, or "" if the database does not
// say, as for Apple's own extensions.
func (p *policy) approval(team, bundle string) string {
	i := slices.IndexFunc(p.approvals, func(a approval) bool { return a.isFor(team, bundle) })
	switch {
	case i < 0:
		return ""
	case p.approvals[i].isAllowed:
		return p.approvals[i].by
	}
	return kmodquery.PolicyUnapproved
}

// isFor reports whether an approval is about this extension. An empty team is unknown.
func (a *approval) isFor(team, bundle string) bool {
	if a.by == kmodquery.PolicyMDM && team != "" && a.team == team && (a.bundle == "" || a.bundle == "*") {
		return true
	}
	return a.bundle == bundle && (a.team == team || team == "")
}

// explainPolicy returns an error that says what to do about another one.
func explainPolicy(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &kmodquery.NotSupportedError{Missing: path + ", the history of loads", Need: "macOS 12 or later"}
	case errors.Is(err, fs.ErrPermission):
		return &kmodquery.NotSupportedError{
			Missing: "permission to read " + path,
			Need:    "root, and Full Disk Access for kmodquery.ext or what runs it (System Settings, Privacy & Security)",
		}
	}
	return fmt.Errorf("copy %s: %w", path, err)
}
