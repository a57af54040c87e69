package sqlite

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// A database of version 1 keeps its rows and is then as if it had been made
// with the newest schema.
func TestMigrationFromVersion1(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, databaseName)
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	db, err := openWriter(path, defaultBusyTimeout)
	require.NoError(t, err)
	require.NoError(t, step(context.Background(), db, 1, migrations[0]))

	rows := []struct {
		loadID, eventName, errno, hash, missing string
		cheap                                   bool
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
		// Its bytes were read, though nothing was hashed then.
		{"10", kmodquery.EventSecurityKernelReadFile, "", "", "", false},
		{"10", kmodquery.EventFinitModule, "EPERM", "", "", false},
		{"7", kmodquery.EventModuleLoad, "", "x", "", false},
		{"11", kmodquery.EventModuleLoad, "", "X", "", false},
		{"13", kmodquery.EventModuleLoad, "", "x", "", false},
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
		require.Nil(t, event.FirstSeen, "an event is written once")
		var cheap bool
		require.NoError(t, s.readers.QueryRow("SELECT cheap FROM events WHERE eid = ?", event.EID).Scan(&cheap))
		require.Equal(t, row.cheap, cheap, "%+v", row)
		if event.LoadID != "10" {
			require.Equal(t, event.IsUnprivileged(), cheap, "the rule is that of the events to come: %+v", row)
		}
	}
	again := []kmodquery.Event{attempt("12", "a", "x"), attempt("7", "a", "x"), attempt("12", "a", "y")}
	require.NoError(t, appendEvents(context.Background(), s, again))
	require.Equal(t, "011", firsts(again))
	require.EqualValues(t, len(rows)+1, again[0].EID)
}
