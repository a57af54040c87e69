package sqlite

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestEveryColumnRoundTrips(t *testing.T) {
	s := openStore(t, Options{})
	written := []kmodquery.Event{full(), {Time: 5, TimeNanos: 6}, {Params: ptr("")}}
	require.NoError(t, appendEvents(context.Background(), s, written))
	require.EqualValues(t, 1, *written[0].FirstSeen, "only the store sets FirstSeen")
	require.Equal(t, []int64{1, 2, 3}, eids(written))
	require.Equal(t, []kmodquery.Event{written[2], written[1], written[0]}, read(t, s, kmodquery.Filter{}))
}

func TestTextIsStoredByteByByte(t *testing.T) {
	s := openStore(t, Options{})
	texts := []string{"a\x00b", "\x00", "\xff\xfe", "\x1b[31mred", "é\u202e", strings.Repeat("x", 1<<20), "it's \"quoted\"; --"}
	for _, text := range texts {
		require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{{Name: text, Cmdline: text}}))
	}
	for i, event := range read(t, s, kmodquery.Filter{}) {
		want := texts[len(texts)-1-i]
		require.Equal(t, want, event.Name)
		require.Equal(t, want, event.Cmdline)
	}
}

func TestOnlyTheWantedColumnsAreRead(t *testing.T) {
	s := openStore(t, Options{})
	event := full()
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{event}))
	for name, test := range map[string]struct {
		columns []string
		want    kmodquery.Event
	}{
		"none":    {[]string{}, kmodquery.Event{EID: 1, Time: event.Time}},
		"one":     {[]string{"name"}, kmodquery.Event{EID: 1, Time: event.Time, Name: event.Name}},
		"unknown": {[]string{"pid", "no_such"}, kmodquery.Event{EID: 1, Time: event.Time, Pid: event.Pid}},
		"twice":   {[]string{"eid", "pid", "pid"}, kmodquery.Event{EID: 1, Time: event.Time, Pid: event.Pid}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, []kmodquery.Event{test.want}, read(t, s, kmodquery.Filter{Columns: test.columns}))
		})
	}
}

// Sorting whole events would need memory for all of them before the first one is
// returned.
func TestNoQuerySortsWholeEvents(t *testing.T) {
	s := openStore(t, Options{})
	for _, where := range []string{"time > 5", "name = 'x'", "name IN ('x', 'y')", "event_name IN ('x', 'y') AND time > 5"} {
		rows, err := s.readers.Query("EXPLAIN QUERY PLAN SELECT * FROM events WHERE eid IN (SELECT eid FROM events WHERE " +
			where + ") ORDER BY eid DESC")
		require.NoError(t, err)
		for rows.Next() {
			var id, parent, unused int
			var detail string
			require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
			t.Log(where, ":", detail)
			require.NotContains(t, detail, "TEMP B-TREE")
		}
		require.NoError(t, rows.Close())
	}
}

// A cursor with a million events before it reads a page of them: no step of the plan finds
// or sorts all of them first.
func TestAPageIsReadInTheOrderOfStorage(t *testing.T) {
	s := openStore(t, Options{})
	for _, column := range kmodquery.EventColumns() {
		var value any = "x"
		if column.Number {
			value = int64(1)
		}
		for _, op := range []kmodquery.Op{kmodquery.Equal, kmodquery.Less, kmodquery.GreaterOrEqual} {
			for _, further := range [][]kmodquery.Condition{
				nil,
				{{Column: kmodquery.UnprivilegedColumn, Op: kmodquery.Equal, Values: []any{int64(0)}}},
				{{Column: "event_name", Op: kmodquery.Equal, Values: []any{"init_module", "module_load"}}},
			} {
				f := kmodquery.Filter{Conditions: append(further, kmodquery.Condition{Column: column.Name, Op: op, Values: []any{value}})}
				text, args, err := reading(readColumns(nil), between(5, 1_000_000, f), oldestFirst).ToSql()
				require.NoError(t, err)
				steps := plan(t, s, text, args...)
				require.Len(t, steps, 1, text)
				require.Regexp(t, `^SEARCH events USING (INTEGER PRIMARY KEY|INDEX \w+) \(.*rowid(=\?|>\? AND rowid<\?)\)$`, steps[0])
			}
		}
	}
}

func TestAnErrorOfVisitStopsReading(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 3)))
	enough, visits := errors.New("enough"), 0
	err := s.Events(context.Background(), kmodquery.Filter{}, func(*kmodquery.Event) error { visits++; return enough })
	require.Equal(t, enough, err)
	require.Equal(t, 1, visits)
}

func TestACancelledReadIsAnError(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, make([]kmodquery.Event, 3)))
	ctx, cancel := context.WithCancel(context.Background())
	err := s.Events(ctx, kmodquery.Filter{}, func(*kmodquery.Event) error { cancel(); <-ctx.Done(); return ctx.Err() })
	require.ErrorIs(t, err, context.Canceled)
	require.Error(t, s.Events(ctx, kmodquery.Filter{}, func(*kmodquery.Event) error { return nil }))
}

func TestReadersSeeWholeBatches(t *testing.T) {
	dir := t.TempDir()
	recorder := openIn(t, dir, Options{})
	reader := openIn(t, dir, Options{})
	const batches, size = 50, 20
	var group sync.WaitGroup
	group.Go(func() {
		for range batches {
			if err := appendEvents(context.Background(), recorder, make([]kmodquery.Event, size)); err != nil {
				t.Error(err)
			}
		}
	})
	for _, s := range []*Store{recorder, reader} {
		group.Go(func() {
			for n := 0; n < batches*size && !t.Failed(); {
				n = 0
				err := s.Events(context.Background(), kmodquery.Filter{}, func(*kmodquery.Event) error { n++; return nil })
				if err != nil || n%size != 0 {
					t.Errorf("read %d events: %v", n, err)
				}
			}
		})
	}
	group.Wait()
}

func TestReadersDoNotBlockWrites(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(t.Context(), s, []kmodquery.Event{full()}))
	reading := 0
	err := s.Events(t.Context(), kmodquery.Filter{}, func(*kmodquery.Event) error {
		reading++
		appended := make(chan error, 1)
		go func() { appended <- appendEvents(t.Context(), s, []kmodquery.Event{full()}) }()
		select {
		case err := <-appended:
			require.NoError(t, err)
		case <-time.After(20 * time.Second):
			require.Fail(t, "a reader blocks writes")
		}
		require.Len(t, read(t, s, kmodquery.Filter{}), 2)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 1, reading)
}
