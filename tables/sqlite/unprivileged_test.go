package sqlite

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/race"
)

func denied() kmodquery.Event {
	return kmodquery.Event{EventName: kmodquery.EventFinitModule, Error: "EPERM"}
}

func loaded() kmodquery.Event { return kmodquery.Event{EventName: kmodquery.EventModuleLoad} }

func TestEachKindHasItsOwnBound(t *testing.T) {
	now := time.Unix(1000, 0)
	kinds := "ccoococc" // unprivileged (c) and ordinary (o) events, by EID from 1 on
	for name, test := range map[string]struct {
		options Options
		want    []int64
	}{
		"none":                        {Options{}, []int64{8, 7, 6, 5, 4, 3, 2, 1}},
		"unprivileged":                {Options{MaxUnprivileged: 2}, []int64{8, 7, 6, 4, 3}},
		"ordinary":                    {Options{MaxEvents: 2}, []int64{8, 7, 6, 5, 4, 2, 1}},
		"both are missing":            {Options{MaxEvents: 1, MaxUnprivileged: 1}, []int64{8, 6}},
		"neither reached":             {Options{MaxEvents: 3, MaxUnprivileged: 5}, []int64{8, 7, 6, 5, 4, 3, 2, 1}},
		"reached by both together":    {Options{MaxEvents: 4, MaxUnprivileged: 6}, []int64{8, 7, 6, 5, 4, 3, 2, 1}},
		"age is for both":             {Options{MaxAge: 5 * time.Second}, []int64{8, 7, 6, 5, 4, 3}},
		"age and the bounds of both":  {Options{MaxAge: 5 * time.Second, MaxEvents: 2, MaxUnprivileged: 2}, []int64{8, 7, 6, 4}},
		"age leaves less than bounds": {Options{MaxAge: 2 * time.Second, MaxEvents: 2, MaxUnprivileged: 2}, []int64{8, 7, 6}},
	} {
		t.Run(name, func(t *testing.T) {
			test.options.Now = func() time.Time { return now }
			s := openStore(t, test.options)
			events := make([]kmodquery.Event, len(kinds))
			for i, kind := range kinds {
				events[i] = loaded()
				if kind == 'c' {
					events[i] = denied()
				}
				events[i].Time = 993 + int64(i)
			}
			require.NoError(t, appendEvents(context.Background(), s, events))
			require.NoError(t, s.Expire(context.Background()))
			require.Equal(t, test.want, eids(read(t, s, kmodquery.Filter{})))
		})
	}
}

// A flood of unprivileged events displaces no ordinary event, and vice versa.
func TestAFloodOfOneKindDisplacesNoneOfTheOther(t *testing.T) {
	for name, test := range map[string]struct{ few, many func() kmodquery.Event }{
		"unprivileged": {loaded, denied},
		"ordinary":     {denied, loaded},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, Options{MaxEvents: 3, MaxUnprivileged: 3})
			require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{test.few(), test.few(), test.few()}))
			n := race.Scale(3000)
			flood := make([]kmodquery.Event, n)
			for i := range flood {
				flood[i] = test.many()
			}
			const batches = 5
			for range batches {
				require.NoError(t, appendEvents(context.Background(), s, flood))
			}
			require.NoError(t, s.Expire(context.Background()))
			last := int64(batches*n + 3)
			require.Equal(t, []int64{last, last - 1, last - 2, 3, 2, 1}, eids(read(t, s, kmodquery.Filter{})))
		})
	}
}

// Among a million events the oldest of a kind is found without reading or sorting them.
func TestBoundsAreCheckedThroughAnIndex(t *testing.T) {
	s := openStore(t, Options{})
	index := []string{"SEARCH events USING COVERING INDEX events_cheap (cheap=?)"}
	require.Equal(t, index, plan(t, s, countSQL, 0))
	require.Equal(t, index, plan(t, s, oldestSQL, 0, expiryChunk))
	require.NotContains(t, strings.Join(plan(t, s, olderSQL, expiryChunk, time.Now().Unix(), time.Now().Unix()), "\n"), "TEMP B-TREE")
}

// plan returns SQLite's plan for a query, one line a step.
func plan(t *testing.T, s *Store, query string, args ...any) []string {
	t.Helper()
	rows, err := s.readers.Query("EXPLAIN QUERY PLAN "+query, args...)
	require.NoError(t, err)
	defer rows.Close()
	var steps []string
	for rows.Next() {
		var id, parent, unused int
		var step string
		require.NoError(t, rows.Scan(&id, &parent, &unused, &step))
		steps = append(steps, step)
	}
	require.NoError(t, rows.Err())
	return steps
}

func TestTheStoresOwnColumnCannotBeQueried(t *testing.T) {
	s := openStore(t, Options{})
	require.NoError(t, appendEvents(context.Background(), s, []kmodquery.Event{denied()}))
	require.Equal(t, []int64{1}, eids(read(t, s, kmodquery.Filter{
		Columns:    []string{"cheap"},
		Conditions: []kmodquery.Condition{{Column: "cheap", Op: kmodquery.Equal, Values: []any{int64(0)}}},
	})))
}
