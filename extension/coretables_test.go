package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/extension/shell"
	"github.com/kmodquery/kmodquery/extension/virtualtable"
	"github.com/kmodquery/kmodquery/tables"
)

// openTables opens the tables as the command query does, on an empty store.
func openTables(t *testing.T) *sql.DB {
	t.Helper()
	var report strings.Builder
	p := *hostPlatform()
	p.newInventory = func(r recorder) tables.Inventory { return eventsOnly{r} } // the host's kernel may have no modules
	c, err := parse(&p, []string{"query", "--state-dir", t.TempDir(), "--config", ""})
	require.NoError(t, err)
	a, err := open(t.Context(), c, newReport(&report))
	require.NoError(t, err)
	<-a.started
	db, err := virtualtable.OpenShell(t.Context(), withCoreTables(a.plugins)...)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, db.Close())
		require.NoError(t, a.Close())
	})
	return db
}

func TestEveryQueryOfThePacksRunsInTheShell(t *testing.T) {
	content, err := os.ReadFile("../packs/kernel-modules.conf")
	require.NoError(t, err)
	var pack struct {
		Discovery []string
		Queries   map[string]struct{ Query string }
	}
	require.NoError(t, json.Unmarshal(content, &pack))
	statements := map[string]string{}
	for i, statement := range pack.Discovery {
		statements["discovery "+strconv.Itoa(i)] = statement
	}
	for name, query := range pack.Queries {
		statements[name] = query.Query
	}
	for _, file := range []string{"policies", "labels", "reports"} {
		content, err := os.ReadFile("../packs/fleet/" + file + ".yml")
		require.NoError(t, err)
		for i, match := range regexp.MustCompile(`(?m)^ *query: (SELECT .*)$|^( *)query: [>|]-?\n((?: +SELECT .*\n)(?: {4,}.*\n)*)`).FindAllStringSubmatch(string(content), -1) {
			statements[file+strconv.Itoa(i)] = match[1] + strings.Join(strings.Fields(match[3]), " ")
		}
	}
	guide, err := os.ReadFile("../docs/shell.md")
	require.NoError(t, err)
	statements["guide"] = regexp.MustCompile(`--line "(SELECT [^"]+)"`).FindStringSubmatch(string(guide))[1]
	require.Greater(t, len(statements), 30)
	db := openTables(t)
	for name, statement := range statements {
		var out strings.Builder
		require.NoError(t, shell.Query(t.Context(), db, &out, shell.JSON, statement), "%s: %s", name, statement)
		if strings.HasPrefix(name, "discovery") {
			require.Equal(t, "[\n  {\"1\":\"1\"}\n]\n", out.String(), statement)
		}
	}
}

func TestCoreTables(t *testing.T) {
	db := openTables(t)
	ask := func(statement string) (text string) {
		require.NoError(t, db.QueryRowContext(context.Background(), statement).Scan(&text), statement)
		return text
	}
	seconds, err := strconv.ParseInt(ask("SELECT unix_time FROM time"), 10, 64)
	require.NoError(t, err)
	require.InDelta(t, time.Now().Unix(), seconds, 60)
	require.Equal(t, "1", ask("SELECT utc(unix_time) || 'Z' = replace(iso_8601, 'T', ' ') FROM time"))
	require.Equal(t, "root", ask("SELECT username FROM users WHERE uid = 0"))
	require.Equal(t, "3", ask("SELECT count(*) FROM osquery_registry WHERE name IN ('time', 'users', 'kernel_module_events')"))
}

func TestUsersOfAnOddFile(t *testing.T) {
	require.Equal(t, []map[string]string{
		{"username": "a", "uid": "1", "gid": "2", "description": "", "directory": "/", "shell": "/bin/\x1bsh"},
	}, parseUsers("# c:x:1:2::/:/\n\nno user\na:x:1:2::/:/bin/\x1bsh\nb:x:1:2::/:/:more"))
}

// Under osquery SQLite compares a number with a text, and each number is less.
func TestAComparisonOfATimeWithTextIsRefused(t *testing.T) {
	db := openTables(t)
	for _, condition := range []string{
		"time > datetime('now', '-1 hour')", "time < datetime('now')", "time BETWEEN date('now') AND datetime('now')",
		"time = '2026-01-31'", "pid > 'x' OR time >= datetime('now')", "time > (SELECT iso_8601 FROM time)",
	} {
		err := shell.Query(t.Context(), db, &strings.Builder{}, shell.CSV, "SELECT eid FROM kernel_module_events WHERE "+condition)
		require.ErrorContains(t, err, "holds numbers and '", condition)
		require.ErrorContains(t, err, "' is none; write a time as strftime('%s', '2026-01-31') or ago('1h')", condition)
	}
	for _, condition := range []string{"time > strftime('%s', 'now', '-1 hour')", "time > ago('7d')", "time > 1e9", "time > ' 12 '", "name > 'x'", "time > NULL"} {
		require.NoError(t, shell.Query(t.Context(), db, &strings.Builder{}, shell.CSV, "SELECT eid FROM kernel_module_events WHERE "+condition), condition)
	}
}
