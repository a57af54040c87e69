package virtualtable

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/osquery/osquery-go/gen/osquery"
	"github.com/stretchr/testify/require"
)

// pair returns a plugin that filters exactly: it answers each constraint with the one row
// that meets it.
func pair(rowid func(n string) string) *recorder {
	return &recorder{
		name:   "pair",
		routes: []map[string]string{route("n", "BIGINT", "1"), route("name", "TEXT", "1")},
		rows: func(asked queryContext) []map[string]string {
			var rows []map[string]string
			for n, name := range map[string]string{"1": "one", "2": "two"} {
				row := map[string]string{"n": n, "name": name}
				if rowid != nil {
					row["rowid"] = rowid(n)
				}
				meets := true
				for _, list := range asked.Constraints {
					for _, c := range list.List {
						meets = meets && row[list.Name] == c.Expr
					}
				}
				if meets {
					rows = append(rows, row)
				}
			}
			return rows
		},
	}
}

func TestRowidCombinesTheRepliesOfAnOr(t *testing.T) {
	const either = "SELECT name FROM pair WHERE n = 1 OR name = 'two' ORDER BY n"

	t.Run("position in the reply loses a row", func(t *testing.T) {
		plugin := pair(nil)
		require.Equal(t, [][]any{{"one"}}, query(t, open(t, plugin), either))
		require.Len(t, plugin.asked(), 2)
	})
	t.Run("key keeps both", func(t *testing.T) {
		plugin := pair(func(n string) string { return n })
		db := open(t, plugin)
		require.Equal(t, [][]any{{"one"}, {"two"}}, query(t, db, either))
		require.Equal(t, [][]any{{int64(1)}, {int64(2)}}, query(t, db, "SELECT rowid FROM pair ORDER BY n"))
	})
	t.Run("key that is no integer", func(t *testing.T) {
		plugin := pair(func(string) string { return "x" })
		_, err := open(t, plugin).ExecContext(t.Context(), "SELECT rowid FROM pair")
		require.Error(t, err)
	})
}

func TestJoinAsksOnceForEachOuterRow(t *testing.T) {
	inner := pair(nil)
	outer := &recorder{
		name:   "outer_rows",
		routes: []map[string]string{route("id", "BIGINT", "16"), route("label", "TEXT", "16")},
		rows:   always(map[string]string{"id": "2", "label": "b"}, map[string]string{"id": "1", "label": "a"}, map[string]string{"label": "c"}),
	}
	db := open(t, inner, outer)
	got := query(t, db, "SELECT label, name FROM outer_rows JOIN pair ON pair.n = outer_rows.id")
	require.Equal(t, [][]any{{"b", "two"}, {"a", "one"}}, got)
	require.Len(t, outer.asked(), 1, "the table without an index is the outer one")
	require.Equal(t, []map[string][]constraint{{"n": {{2, "2"}}}, {"n": {{2, "1"}}}, {}}, inner.asked(),
		"a NULL constrains nothing")
}

func TestIndexedSideIsInner(t *testing.T) {
	for _, from := range []string{"pair JOIN plain ON plain.id = pair.n", "plain JOIN pair ON plain.id = pair.n"} {
		inner := pair(nil)
		plain := &recorder{
			name:   "plain",
			routes: []map[string]string{route("id", "BIGINT", "8")},
			rows:   always(map[string]string{"id": "2"}),
		}
		db := open(t, inner, plain)
		require.Equal(t, [][]any{{"two"}}, query(t, db, "SELECT name FROM "+from))
		require.Equal(t, []map[string][]constraint{{"n": {{2, "2"}}}}, inner.asked(), from)
	}
}

func TestManyTables(t *testing.T) {
	var plugins []Plugin
	from := "t00"
	for i := range 20 {
		plugins = append(plugins, &recorder{
			name:   fmt.Sprintf("t%02d", i),
			routes: []map[string]string{route("id", "BIGINT", "1"), route("next", "BIGINT", "1")},
			rows:   always(map[string]string{"id": fmt.Sprint(i), "next": fmt.Sprint(i + 1)}),
		})
		if i > 0 {
			from += fmt.Sprintf(" JOIN t%02d ON t%02[1]d.id = t%02d.next", i, i-1)
		}
	}
	require.Equal(t, [][]any{{int64(20)}}, query(t, open(t, plugins...), "SELECT t19.next FROM "+from))
}

func TestQueryReturnsThePluginsError(t *testing.T) {
	events := newEvents()
	db := open(t, events)
	events.fail = "error generating table: the store is gone"
	_, err := db.ExecContext(t.Context(), "SELECT name FROM events")
	require.ErrorContains(t, err, "error generating table: the store is gone")

	events.fail = ""
	require.Len(t, query(t, db, "SELECT name FROM events"), 2, "the connection can still be used")
}

func TestOpenErrors(t *testing.T) {
	tests := map[string]struct {
		plugins []Plugin
		want    string
	}{
		"no columns":   {[]Plugin{&recorder{name: "bare"}}, "read columns of table bare: the plugin returned none"},
		"same name":    {[]Plugin{newEvents(), newEvents()}, "register table events"},
		"same column":  {[]Plugin{&recorder{name: "twice", routes: []map[string]string{route("a", "TEXT", "0"), route("a", "TEXT", "0")}}}, "attach table twice"},
		"refuses":      {[]Plugin{answer{Status: &osquery.ExtensionStatus{Code: 1, Message: "not now"}}}, "read columns of table answer: not now"},
		"empty answer": {[]Plugin{answer{}}, "read columns of table answer: the plugin answered without a status"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), test.plugins...)
			require.ErrorContains(t, err, test.want)
		})
	}
}

// answer is a plugin that answers every request in the same way.
type answer osquery.ExtensionResponse

func (answer) Name() string { return "answer" }

func (a answer) Call(context.Context, osquery.ExtensionPluginRequest) osquery.ExtensionResponse {
	return osquery.ExtensionResponse(a)
}

func TestDatabasesAndConnectionsAreIndependent(t *testing.T) {
	first, second := newEvents(), newEvents()
	second.rows = always()
	one, two := open(t, first), open(t, second)
	require.Equal(t, [][]any{{int64(2)}}, query(t, one, "SELECT count(*) FROM events"))
	require.Equal(t, [][]any{{int64(0)}}, query(t, two, "SELECT count(*) FROM events"))

	rows, err := one.QueryContext(t.Context(), "SELECT name FROM events")
	require.NoError(t, err)
	defer rows.Close()
	require.True(t, rows.Next())
	require.Len(t, query(t, one, "SELECT name FROM events"), 2, "while another statement is open")
}

// waiter is a plugin that answers when its context ends.
type waiter struct {
	*recorder
	started chan struct{}
}

func (w waiter) Call(ctx context.Context, request osquery.ExtensionPluginRequest) osquery.ExtensionResponse {
	if request["action"] == "columns" {
		return w.recorder.Call(ctx, request)
	}
	close(w.started)
	<-ctx.Done()
	return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: 1, Message: ctx.Err().Error()}}
}

func TestCallRunsUnderTheQuerysContext(t *testing.T) {
	run := map[string]func(ctx context.Context, t *testing.T, w waiter) error{
		"query": func(ctx context.Context, t *testing.T, w waiter) error {
			var n int
			return open(t, w).QueryRowContext(ctx, "SELECT count(*) FROM events").Scan(&n)
		},
		"exec": func(ctx context.Context, t *testing.T, w waiter) error {
			_, err := open(t, w).ExecContext(ctx, "SELECT count(*) FROM events")
			return err
		},
		"prepared query": func(ctx context.Context, t *testing.T, w waiter) error {
			prepared, err := open(t, w).PrepareContext(t.Context(), "SELECT count(*) FROM events")
			require.NoError(t, err)
			defer prepared.Close()
			var n int
			return prepared.QueryRowContext(ctx).Scan(&n)
		},
		"prepared exec": func(ctx context.Context, t *testing.T, w waiter) error {
			prepared, err := open(t, w).PrepareContext(t.Context(), "SELECT count(*) FROM events")
			require.NoError(t, err)
			defer prepared.Close()
			_, err = prepared.ExecContext(ctx)
			return err
		},
	}
	for name, run := range run {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			w := waiter{newEvents(), make(chan struct{})}
			go func() {
				<-w.started
				cancel()
			}()
			require.Error(t, run(ctx, t, w))
		})
	}
}

func TestForbiddenStatements(t *testing.T) {
	conn, err := open(t, newEvents()).Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	file := t.TempDir() + "/new.db"
	for _, refused := range []string{
		"ATTACH '" + file + "' AS f",
		"VACUUM INTO '" + file + "'",
		"DROP TABLE events",
		"CREATE VIRTUAL TABLE more USING events",
		"INSERT INTO events(time) VALUES (1)",
		"DELETE FROM events",
		"PRAGMA temp_store_directory = '/'",
		"SELECT name FROM events WHERE name MATCH 'd'",
	} {
		_, err := conn.ExecContext(t.Context(), refused)
		require.Error(t, err, refused)
	}
	require.NoFileExists(t, file)
	for _, fine := range []string{
		"CREATE TEMP VIEW late AS SELECT * FROM events WHERE time > 10",
		"CREATE TABLE kept AS SELECT name FROM late",
		"DROP TABLE kept",
		"PRAGMA table_info(events)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
		"BEGIN", "COMMIT",
	} {
		_, err := conn.ExecContext(t.Context(), fine)
		require.NoError(t, err, strings.ToLower(fine))
	}
}
