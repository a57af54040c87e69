package sqlite

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// The replayed events include the last event of each kind.
func TestReplayReturnsTheLastEventOfEachKind(t *testing.T) {
	s := openStore(t, Options{})
	names := []string{"module_load", "module_free"}
	columns := []string{"name", "event_name", "source", "uptime", "time_nanos", "result"}
	replay := func(newest int64) (eids []int64) {
		require.NoError(t, s.Replay(t.Context(), "this", names, columns, newest, func(e *kmodquery.Event) { eids = append(eids, e.EID) }))
		return eids
	}
	require.Empty(t, replay(3))

	const hour = 3600
	at := func(name, eventName string, uptime, nanos int64, change ...func(*kmodquery.Event)) kmodquery.Event {
		e := kmodquery.Event{BootID: "this", Source: "ebpf", Name: name, EventName: eventName, Uptime: &uptime, TimeNanos: 1_790_000_000_000_000_000 + nanos}
		for _, c := range change {
			c(&e)
		}
		return e
	}
	untimed := func(e *kmodquery.Event) { e.Uptime = nil }
	var want []int64
	var events []kmodquery.Event
	add := func(isWanted bool, e kmodquery.Event) {
		events = append(events, e)
		if isWanted {
			want = append(want, int64(len(events)))
		}
	}
	add(false, at("a", "module_load", 5, 0))
	add(true, at("a", "module_load", 7, -9*hour*1e9)) // the clock was set back
	add(false, at("a", "module_load", 6, 9*hour*1e9)) // stored late
	add(true, at("a", "module_free", 6, 0))
	add(true, at("A", "module_load", 1, 0)) // another module
	add(false, at("b", "module_load", 5, 1000))
	add(true, at("b", "module_load", 5, 3000)) // in the same second
	add(false, at("b", "module_load", 5, 2000))
	add(true, at("b", "module_load", 9, 0, func(e *kmodquery.Event) { e.Result = new(int64(-8)) }))
	add(false, at("b", "module_load", 2, 0, func(e *kmodquery.Event) { e.Result = new(int64(0)) }))
	add(true, at("b", "module_load", 1, 0, func(e *kmodquery.Event) { e.Source = "kmsg" }))
	add(false, at("c", "module_load", 0, 1, untimed))
	add(true, at("c", "module_load", 0, 20*hour*1e9, untimed))
	add(false, at("c", "module_load", 0, 15*hour*1e9, untimed))
	add(true, at("c", "module_load", 3, 0))
	add(false, at("d", "module_load", 3, 0, func(e *kmodquery.Event) { e.BootID = "another" }))
	add(false, at("d", "init_module", 3, 0))
	require.NoError(t, appendEvents(t.Context(), s, events))
	slices.Reverse(want)
	require.Equal(t, want, replay(0))
	require.Equal(t, want, replay(2), "none of the newest is selected")
	require.Equal(t, []int64{15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, replay(1000))
	require.Equal(t, []int64{15, 14, 13, 12, 11, 9, 7, 5, 4, 2}, replay(6))
}

// A new recorder reads the newest events only, and finds the others in an index.
func TestReplayDoesNotScanTheEvents(t *testing.T) {
	s := openStore(t, Options{})
	query, args, err := reading(nil, replayed("this", []string{"module_load", "module_free"}, 1000), newestFirst).ToSql()
	require.NoError(t, err)
	rows, err := s.readers.Query("EXPLAIN QUERY PLAN "+query, args...)
	require.NoError(t, err)
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var step string
		require.NoError(t, rows.Scan(&id, &parent, &unused, &step))
		plan = append(plan, step)
	}
	require.NoError(t, rows.Err())
	require.Contains(t, plan, "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)", "the newest")
	require.Contains(t, plan, "SEARCH events USING COVERING INDEX events_boot (boot_id=? AND event_name=?)")
	for _, step := range plan {
		require.NotRegexp(t, "^SCAN events|FOR GROUP BY", step)
	}
}
