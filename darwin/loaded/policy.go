package loaded

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
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
	// policyTime bounds one reading of KextPolicy.
	policyTime = 10 * time.Second
	// maxPolicy bounds each of its files in bytes. They have some 100 KB.
	maxPolicy = 64 << 20
	// maxPolicyRows bounds the rows that are taken of each table.
	maxPolicyRows = 4096
	// copyTries is how often the files are copied until they hold still meanwhile.
	copyTries = 3
)

// A memory is what KextPolicy holds.
type memory struct {
	history []remembered // the latest first
	mdm     []approval
	user    []approval
	lacks   []string // what this macOS does not keep there
}

// A remembered load is a row of kext_load_history_v3.
type remembered struct {
	path, team, bundle, boot, cdhash string
	created, seen                    time.Time // zero where it does not say
}

// An approval is a row of kext_policy or kext_policy_mdm. A row of the latter
// without a bundle is for all of the team's.
type approval struct {
	team, bundle string
	isAllowed    bool
}

// readPolicy reads a copy of the database that nobody writes to.
func readPolicy(ctx context.Context, path string) (*memory, error) {
	ctx, cancel := context.WithTimeout(ctx, policyTime)
	defer cancel()
	folder, err := os.MkdirTemp("", "kmodquery-kextpolicy-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for KextPolicy: %w", err)
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

func queryPolicy(ctx context.Context, db *sql.DB) (*memory, error) {
	var m memory
	rows, err := m.rows(ctx, db, "kext_load_history_v3", []string{"path", "bundle_id"}, []string{"team_id", "boot_uuid", "created_at", "last_seen", "cdhash"}, "last_seen")
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		m.history = append(m.history, remembered{
			path: row["path"], team: row["team_id"], bundle: row["bundle_id"], boot: row["boot_uuid"], cdhash: hash(row["cdhash"]),
			created: moment(row["created_at"]), seen: moment(row["last_seen"]),
		})
	}
	slices.SortStableFunc(m.history, func(a, b remembered) int { return b.seen.Compare(a.seen) })
	for table, to := range map[string]*[]approval{"kext_policy": &m.user, "kext_policy_mdm": &m.mdm} {
		rows, err := m.rows(ctx, db, table, []string{"team_id", "bundle_id", "allowed"}, nil, "")
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			*to = append(*to, approval{team: row["team_id"], bundle: row["bundle_id"], isAllowed: row["allowed"] == "1"})
		}
	}
	slices.Sort(m.lacks)
	return &m, nil
}

// rows reads a table as far as this macOS has it. One that lacks a column that
// it must have says nothing.
func (m *memory) rows(ctx context.Context, db *sql.DB, table string, must, may []string, order string) ([]map[string]string, error) {
	has, err := columnsOf(ctx, db, table)
	if err != nil {
		return nil, err
	}
	if len(has) == 0 {
		m.lacks = append(m.lacks, table)
		return nil, nil
	}
	var columns []string
	for _, column := range slices.Concat(must, may) {
		switch {
		case has[column]:
			columns = append(columns, column)
		default:
			m.lacks = append(m.lacks, table+"."+column)
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
		return nil, fmt.Errorf("look into KextPolicy: %w", err)
	}
	defer rows.Close()
	columns := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("look into KextPolicy: %w", err)
		}
		columns[name] = true
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look into KextPolicy: %w", err)
	}
	return columns, nil
}

// moment reads a time as SQLite's CURRENT_TIMESTAMP writes it, in UTC.
func moment(text string) time.Time {
	at, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		return time.Time{}
	}
	return at
}

// hash returns a code directory's hash, or "" for what is none.
func hash(text string) string {
	if len(text) != 40 || strings.Trim(text, "0123456789abcdef") != "" {
		return ""
	}
	return text
}

// latest is the last load of an extension, nil where there is none.
func (m *memory) latest(bundle string) *remembered {
	for i := range m.history {
		if m.history[i].bundle == bundle {
			return &m.history[i]
		}
	}
	return nil
}

// policy says who lets an extension load, or "" where nothing says so, as of
// Apple's own. The device management has the last word.
func (m *memory) policy(team, bundle string) string {
	for _, a := range m.mdm {
		isForTeam := team != "" && a.team == team && (a.bundle == "" || a.bundle == "*")
		if isForTeam || a.isFor(team, bundle) {
			return cmp.Or(map[bool]string{true: kmodquery.PolicyMDM}[a.isAllowed], kmodquery.PolicyUnapproved)
		}
	}
	for _, a := range m.user {
		if a.isFor(team, bundle) {
			return cmp.Or(map[bool]string{true: kmodquery.PolicyUser}[a.isAllowed], kmodquery.PolicyUnapproved)
		}
	}
	return ""
}

// isFor reports whether an approval names this extension, whose team may be
// unknown.
func (a *approval) isFor(team, bundle string) bool {
	return a.bundle == bundle && (a.team == team || team == "")
}

// A fingerprint is how a database's files are: another one, and they were
// written to.
type fingerprint struct {
	size, walSize       int64
	changed, walChanged time.Time
}

func fingerprintOf(path string) (fingerprint, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fingerprint{}, err
	}
	f := fingerprint{size: info.Size(), changed: info.ModTime()}
	if wal, err := os.Stat(path + "-wal"); err == nil {
		f.walSize, f.walChanged = wal.Size(), wal.ModTime()
	}
	return f, nil
}

var errBusy = errors.New("it is being written to all the time")

// copyDatabase copies a database and its write-ahead log as they are in one
// moment.
func copyDatabase(from, to string) error {
	for range copyTries {
		before, err := fingerprintOf(from)
		if err != nil {
			return err
		}
		if err := copyFile(from, to); err != nil {
			return err
		}
		if err := copyFile(from+"-wal", to+"-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if after, err := fingerprintOf(from); err == nil && after == before {
			return nil
		}
		if err := os.Remove(to + "-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return errBusy
}

func copyFile(from, to string) error {
	source, err := openRegular(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(target, io.LimitReader(source, maxPolicy+1))
	if closeErr := target.Close(); err == nil {
		err = closeErr
	}
	if err == nil && n > maxPolicy {
		err = fmt.Errorf("it has more than %d bytes", maxPolicy)
	}
	return err
}

// openRegular opens a file that may have become anything: a pipe, which is why
// it is opened without waiting, or a device.
func openRegular(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// explainPolicy makes of an error what to do about it.
func explainPolicy(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &kmodquery.NotSupportedError{Missing: path + ", which remembers what was loaded", Need: "macOS 10.13 or later"}
	case errors.Is(err, fs.ErrPermission):
		return &kmodquery.NotSupportedError{
			Missing: "permission to read " + path,
			Need:    "root, and Full Disk Access for kmodquery.ext or what runs it (System Settings, Privacy & Security)",
		}
	}
	return fmt.Errorf("copy %s: %w", path, err)
}
