package osqueryhost_test

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/osquery/osquery-go/plugin/table"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

// query runs a query that must succeed.
func query(t *testing.T, host *osqueryhost.Host, sql string) []map[string]string {
	t.Helper()
	rows, err := host.Query(t.Context(), sql)
	require.NoError(t, err, sql)
	return rows
}

// sparse is a table of one row that has only the column n.
func sparse() *table.Plugin {
	columns := []table.ColumnDefinition{
		table.BigIntColumn("n"), table.BigIntColumn("m"), table.TextColumn("word"), {Name: "raw", Type: table.ColumnType("BLOB")},
	}
	return table.NewPlugin("sparse", columns, func(context.Context, table.QueryContext) ([]map[string]string, error) {
		return []map[string]string{{"n": "1"}}, nil
	})
}

// Only numbers can be NULL.
func TestMissingTextIsEmpty(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	serve(t, host, "extension", sparse())
	require.Equal(t, []map[string]string{{"m": "null", "word": "text", "raw": "text"}},
		query(t, host, "SELECT typeof(m) AS m, typeof(word) AS word, typeof(raw) AS raw FROM sparse"))
	for where, found := range map[string]bool{
		"word IS NULL":               false,
		"word = ''":                  true,
		"word IS NOT NULL":           true,
		"raw IS NULL":                false,
		"m IS NULL":                  true,
		"coalesce(word, '') = ''":    true,
		"nullif(word, '') IS NULL":   true,
		"length(coalesce(raw,0))= 0": true,
	} {
		require.Equal(t, found, len(query(t, host, "SELECT 1 FROM sparse WHERE "+where)) == 1, where)
	}
}

func TestResults(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	toy := newToy("toy")
	toy.set(row(1, "before\x00after"), row(2, "b"))
	serve(t, host, "extension", toy)
	for name, test := range map[string]struct {
		sql  string
		want []map[string]string
	}{
		"text ends at NUL":       {"SELECT name FROM toy WHERE time = 1", []map[string]string{{"name": "before"}}},
		"BLOB ends at NUL":       {"SELECT x'610062' AS b", []map[string]string{{"b": "a"}}},
		"doubles":                {"SELECT 1.0 AS a, 0.1 + 0.2 AS b, 1e300 AS c, 1e999 AS d", []map[string]string{{"a": "1.0", "b": "0.3", "c": "1e+300.0", "d": "inf.0"}}},
		"NULL":                   {"SELECT NULL AS n", []map[string]string{{"n": ""}}},
		"same name":              {"SELECT 1 AS n, 2 AS n", []map[string]string{{"n": "2"}}},
		"statements":             {"SELECT 1 AS a; SELECT name AS b FROM toy WHERE time = 2;", []map[string]string{{"a": "1"}, {"b": "b"}}},
		"comments":               {"-- only a comment", nil},
		"temporary table":        {"CREATE TEMP TABLE kept AS SELECT 7 AS n; SELECT n FROM kept", []map[string]string{{"n": "7"}}},
		"of an earlier query":    {"SELECT count(*) AS n FROM toy", []map[string]string{{"n": "2"}}},
		"constraint beyond text": {"SELECT time FROM toy WHERE name = 'b'", []map[string]string{{"time": "2"}}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.want, query(t, host, test.sql)) })
	}
	require.Equal(t, []map[string]string{{"n": "7"}}, query(t, host, "SELECT n FROM kept"), "the connection is the same")
}

// Errors have the words of osquery, which show neither SQLite's class nor its code.
func TestErrorTexts(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	required := table.NewPlugin("required", []table.ColumnDefinition{table.TextColumn("path", table.RequiredColumn())},
		func(context.Context, table.QueryContext) ([]map[string]string, error) { return nil, nil })
	serve(t, host, "second", required, newToy("lost"))
	extensions := host.Extensions()
	serve(t, host, "extension", newToy("toy"))
	for uuid := range extensions {
		require.NotContains(t, host.Extensions()[uuid].Name, "toy")
	}
	for sql, want := range map[string]string{
		"SELEC":                            `near "SELEC": syntax error`,
		"SELECT missing FROM toy":          "no such column: missing",
		"SELECT * FROM never_seen":         "no such table: never_seen",
		"SELECT 1; SELEC":                  `near "SELEC": syntax error`,
		"ATTACH 'x' AS x":                  "not authorized",
		"SELECT * FROM required":           "Table required was queried without a required column in the WHERE clause",
		"SELECT 1 WHERE 'a' MATCH 'b'":     "unable to use function MATCH in the requested context",
		"SELECT substr(1)":                 "wrong number of arguments to function substr()",
		"SELECT name FROM toy WHERE (1,2)": "row value misused",
	} {
		_, err := host.Query(t.Context(), sql)
		require.EqualError(t, err, want, sql)
	}
	for uuid := range extensions {
		require.True(t, host.DropExtension(uuid))
	}
	for _, sql := range []string{"SELECT * FROM lost", "SELECT * FROM temp.Lost", "SELECT 1 FROM toy, lost"} {
		_, err := host.Query(t.Context(), sql)
		require.EqualError(t, err, "vtable constructor failed: lost", sql)
	}
}

func TestLimitAndOffsetReachTheFirstColumn(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	toy := newToy("toy")
	toy.set(row(1, "a"), row(2, "b"), row(3, "c"))
	serve(t, host, "extension", toy)
	require.Len(t, query(t, host, "SELECT name FROM toy LIMIT 1 OFFSET 1"), 1)
	orders := map[string]bool{}
	for range 100 {
		query(t, host, "SELECT time, name, note FROM toy LIMIT 2")
	}
	for i, request := range toy.requests {
		var asked struct {
			Constraints []struct {
				Name string
				List json.RawMessage
			}
			ColsUsed json.RawMessage
		}
		require.NoError(t, json.Unmarshal([]byte(request["context"]), &asked))
		for _, c := range asked.Constraints {
			want := map[string]string{"time": `[{"op":73,"expr":"2"}]`}[c.Name]
			if i == 0 && c.Name == "time" {
				want = `[{"op":73,"expr":"1"},{"op":74,"expr":"1"}]`
			}
			if want == "" {
				want = "[]"
			}
			require.JSONEq(t, want, string(c.List), c.Name)
		}
		orders[string(asked.ColsUsed)] = true
	}
	require.Greater(t, len(orders), 3, "the used columns have no order")
}

func TestTablesOfCore(t *testing.T) {
	host := start(t, osqueryhost.Options{Platform: "linux", Flags: map[string]string{"log_numerics_as_numbers": "true"}})
	require.NoError(t, host.Tick(t.Context(), noon.Add(-time.Second)))
	host.Schedule(t.Context(), parse(t, `{"platform": "linux", "shard": 1, "queries": {}}`))
	pack := parse(t, `{"platform": "linux", "discovery": ["SELECT 1"], "queries": {"q": {"query": "SELECT 'text' AS a, 1 AS b", "interval": 60}}}`)
	pack.Name = "second"
	host.Schedule(t.Context(), pack)
	require.NoError(t, host.Advance(t.Context(), 2*time.Second))

	require.Equal(t, []map[string]string{
		{"name": "p", "platform": "linux", "version": "", "shard": "1", "discovery_cache_hits": "0", "discovery_executions": "1", "active": "0"},
		{"name": "second", "platform": "linux", "version": "", "shard": "0", "discovery_cache_hits": "2", "discovery_executions": "1", "active": "1"},
	}, query(t, host, "SELECT * FROM osquery_packs"))
	require.Equal(t, []map[string]string{{
		"name": "pack_second_q", "query": "SELECT 'text' AS a, 1 AS b", "interval": "60", "denylisted": "0", "executions": "1",
		"last_executed": strconv.FormatInt(noon.Unix(), 10), "output_size": "14", "last_memory": "1200",
	}}, query(t, host, "SELECT name, query, interval, denylisted, executions, last_executed, output_size, last_memory FROM osquery_schedule"))
	require.Equal(t, []map[string]string{
		{"name": "disable_watchdog", "type": "bool", "default_value": "false", "value": "true"},
		{"name": "logger_numerics", "type": "bool", "default_value": "false", "value": "true"},
	}, query(t, host, "SELECT name, type, default_value, value FROM osquery_flags WHERE name IN ('logger_numerics', 'log_numerics_as_numbers', 'disable_watchdog')"))
	require.NotEmpty(t, query(t, host, "SELECT * FROM users WHERE uid = 0 AND username = 'root'"))
	require.NotEmpty(t, query(t, host, "SELECT p.pid, u.username FROM processes p LEFT JOIN users u ON u.uid = p.uid WHERE p.pid = "+strconv.Itoa(os.Getpid())))
}

// A query that runs on another thread than the one that holds the primary connection gets a
// connection of its own, and neither waits for the other.
func TestLiveQueriesRunBesideTheSchedule(t *testing.T) {
	host := start(t, osqueryhost.Options{})
	started, proceed := make(chan struct{}), make(chan struct{})
	slow := table.NewPlugin("slow", []table.ColumnDefinition{table.TextColumn("name")},
		func(context.Context, table.QueryContext) ([]map[string]string, error) {
			close(started)
			<-proceed
			return []map[string]string{{"name": "slow"}}, nil
		})
	toy := newToy("toy")
	toy.set(row(1, "a"))
	serve(t, host, "extension", slow, toy)
	require.NoError(t, host.Tick(t.Context(), noon.Add(-time.Second)))
	host.Schedule(t.Context(), parse(t, `{"queries": {"q": {"query": "SELECT name FROM slow", "interval": 60}}}`))
	ticked := make(chan error)
	go func() { ticked <- host.Tick(t.Context(), noon) }()
	<-started
	rows, err := host.Live(t.Context(), "SELECT name FROM toy; SELECT 1 AS name, 2 AS other")
	require.NoError(t, err)
	require.Equal(t, []map[string]string{{"name": "a"}, {"name": "1"}}, rows, "only the columns of the first statement")
	_, err = host.Query(t.Context(), "CREATE TEMP TABLE passing AS SELECT 1; SELECT * FROM passing")
	require.NoError(t, err)
	close(proceed)
	require.NoError(t, <-ticked)
	require.Equal(t, []string{"added slow"}, actions(t, host, "pack_p_q"))
	_, err = host.Query(t.Context(), "SELECT * FROM passing")
	require.EqualError(t, err, "no such table: passing", "it was on a connection that ended with its query")
	_, err = host.Live(t.Context(), " -- nothing")
	require.EqualError(t, err, "not an error")
}
