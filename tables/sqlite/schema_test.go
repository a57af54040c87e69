package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// A migrated database of version 1 has its rows and the newest schema.
func TestAMigrationFromVersion1KeepsTheRows(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, databaseName)
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	db, err := openWriter(path, defaultBusyTimeout)
	require.NoError(t, err)
	require.NoError(t, step(context.Background(), db, 1, migrations[0]))

	rows := []struct {
		loadID, eventName, errno, hash, missing string
		unprivileged                            bool
	}{
		{"1", kmodquery.EventModuleRequest, "", "", "", true},
		{"2", kmodquery.EventFinitModule, "EPERM", "", "", true},
		{"3", kmodquery.EventInitModule, "EPERM", "", "params,image_sha256", true},
		{"4", kmodquery.EventDeleteModule, "EPERM", "", "", true},
		{"", kmodquery.EventDeleteModule, "EPERM", "", "load_id", true},
		{"5", kmodquery.EventFinitModule, "", "", "", false},
		{"6", kmodquery.EventFinitModule, "ENOEXEC", "", "", false},
		{"7", kmodquery.EventFinitModule, "EPERM", "x", "", false},
		{"8", kmodquery.EventFinitModule, "EPERM", "", "name,sha256", false},
		{"9", kmodquery.EventModuleLoad, "EPERM", "", "", false},
		// Its bytes were read; version 1 did not hash them.
		{"10", kmodquery.EventSecurityKernelReadFile, "", "", "", false},
		{"10", kmodquery.EventFinitModule, "EPERM", "", "", false},
		{"7", kmodquery.EventModuleLoad, "", "x", "", false},
		{"11", kmodquery.EventModuleLoad, "", "X", "", false},
		{"13", kmodquery.EventModuleLoad, "", "x", "", false},
		{"14", kmodquery.EventKextload, "not approved to load", "", "sha256", true},
		{"15", kmodquery.EventKextload, "", "", "sha256", false},
		{"16", kmodquery.EventKextBlocked, "", "", "sha256", true},
		{"17", kmodquery.EventKextAllowed, "", "", "sha256", false},
	}
	for _, row := range rows {
		null := func(text string) any {
			if text == "" {
				return nil
			}
			return text
		}
		_, err := db.Exec("INSERT INTO events (time, time_nanos, name, event_name, load_id, error, sha256, missing) VALUES (5, 6, 'a', ?, ?, ?, ?, ?)",
			row.eventName, null(row.loadID), null(row.errno), null(row.hash), null(row.missing))
		require.NoError(t, err)
	}
	require.NoError(t, db.Close())

	s := openIn(t, dir, Options{})
	events := read(t, s, kmodquery.Filter{})
	require.Len(t, events, len(rows))
	for i, row := range rows {
		event := events[len(rows)-1-i]
		require.EqualValues(t, i+1, event.EID)
		require.Equal(t, row.eventName, event.EventName)
		require.Nil(t, event.FirstSeen, "a stored event was changed")
		var unprivileged bool
		require.NoError(t, s.readers.QueryRow("SELECT cheap FROM events WHERE eid = ?", event.EID).Scan(&unprivileged))
		require.Equal(t, row.unprivileged, unprivileged, "%+v", row)
		if event.LoadID != "10" {
			require.Equal(t, event.IsUnprivileged(), unprivileged, "differs from the rule for new events: %+v", row)
		}
	}
	again := []kmodquery.Event{attempt("12", "a", "x"), attempt("7", "a", "x"), attempt("12", "a", "y")}
	require.NoError(t, appendEvents(context.Background(), s, again))
	require.Equal(t, "011", firsts(again))
	require.EqualValues(t, len(rows)+1, again[0].EID)
}

func TestTheSchemaMatchesTheEvent(t *testing.T) {
	s := openStore(t, Options{})
	// The columns of the store itself, which no event has, are listed here.
	rows, err := s.readers.Query("SELECT name, type, pk FROM pragma_table_info('events') WHERE name NOT IN ('cheap', 'sums', 'mac')")
	require.NoError(t, err)
	defer rows.Close()
	var got []kmodquery.Column
	for rows.Next() {
		var name, kind string
		var key bool
		require.NoError(t, rows.Scan(&name, &kind, &key))
		require.Contains(t, []string{"INTEGER", "TEXT"}, kind, name)
		require.Equal(t, name == "eid", key, name)
		column, ok := kmodquery.EventColumn(name)
		require.True(t, ok, "%s is no column of an event", name)
		require.Equal(t, column.Number, kind == "INTEGER", name)
		got = append(got, column)
	}
	require.NoError(t, rows.Err())
	require.ElementsMatch(t, kmodquery.EventColumns(), got)
}

func TestMigrationsAreNumbered(t *testing.T) {
	entries, err := files.ReadDir("migrations")
	require.NoError(t, err)
	require.Len(t, migrations, len(entries))
	for i, entry := range entries {
		require.Regexp(t, fmt.Sprintf(`^%04d_[a-z_]+\.sql$`, i+1), entry.Name())
	}
}
