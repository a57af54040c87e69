package virtualtable

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShellRefusesTextWhereNumbersAre(t *testing.T) {
	events := newEvents()
	events.routes = append(events.routes, route("unread", "BIGINT", "16")) // whose constraints the plugin does not get
	db, err := OpenShell(t.Context(), events)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	for statement, want := range map[string]string{
		"SELECT name FROM events WHERE time > date('2026-01-31')":    "time holds numbers and '2026-01-31' is none",
		"SELECT name FROM events WHERE unread <= date('2026-01-31')": "unread holds numbers and '2026-01-31' is none",
		"SELECT name FROM events WHERE time = date('2026-01-31')":    "time holds numbers and '2026-01-31' is none",
		"SELECT name FROM events WHERE time > 'x'":                   "time holds numbers and 'x' is none",
		"SELECT ago('1 hour')":                                       "ago('1 hour'): write a time with its unit",
		"SELECT ago('-1h')":                                          "ago('-1h') is in the future; write a time without a sign",
		"SELECT ago(3)":                                              "ago takes a text",
	} {
		_, err := db.ExecContext(t.Context(), statement)
		require.ErrorContains(t, err, want, statement)
	}
	require.Equal(t, [][]any{{"loop"}}, query(t, db, "SELECT name FROM events WHERE time > '10'"))
	require.Equal(t, [][]any{{"loop"}}, query(t, db, "SELECT name FROM events WHERE time > '10' AND name > 'a'"))
	require.Empty(t, query(t, db, "SELECT name FROM events WHERE time = 'x'"), "a join compares with any text")
	require.Empty(t, query(t, db, "SELECT name FROM events WHERE unread > 1"))
	for _, asked := range events.asked() {
		require.NotContains(t, asked, "unread")
	}

	osquery, err := Open(t.Context(), newEvents())
	require.NoError(t, err)
	t.Cleanup(func() { osquery.Close() })
	require.Empty(t, query(t, osquery, "SELECT name FROM events WHERE time > date('2026-01-31')"))
}

func TestTimesAsText(t *testing.T) {
	db, err := OpenShell(t.Context(), newEvents())
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	require.Equal(t, [][]any{{"2026-08-01 12:00:00", "1970-01-01 00:00:00", "1969-12-31 23:59:59", "1970-01-01 00:00:01", nil, nil, nil, nil}},
		query(t, db, "SELECT utc(1785585600), utc('0'), utc(-1), utc(1.9), utc(NULL), utc('x'), utc(9223372036854775807), utc(1e300)"))
	require.Equal(t, [][]any{{int64(1)}}, query(t, db, "SELECT strftime('%s', 'now') - ago('1d1h') BETWEEN 90000 AND 90100"))
}
