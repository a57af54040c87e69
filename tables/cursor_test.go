package tables

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// loadsOf returns module_load events with these names.
func loadsOf(names ...string) []kmodquery.Event {
	var events []kmodquery.Event
	for _, name := range names {
		events = append(events, kmodquery.Event{Time: 1, EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF, Name: name})
	}
	return events
}

const equals = 2

func TestCursorGivesNewRowsAndHeldOnes(t *testing.T) {
	c := testConfig(t, append(loadsOf("a", "b"), kmodquery.Event{Time: 1, EventName: kmodquery.EventModuleFree, Source: kmodquery.SourceEBPF})...)
	query := contextJSON(t, []string{"name", "cursor"}, constraint{"cursor", "ship", equals}, constraint{"event_name", "module_load", equals})
	// The events were stored just now, so they are younger than a day.
	rows := rowsOf(t, c, "kernel_module_events", query)
	require.Equal(t, []string{"a", "b"}, column(rows, "name"), "in the order of storage")
	require.Equal(t, []string{"ship", "ship"}, column(rows, "cursor"))
	require.NoError(t, (&recorder{store: c.Recorder.(*recorder).store, pending: loadsOf("c")}).Sync(t.Context()))
	require.Equal(t, []string{"a", "b", "c"}, column(rowsOf(t, c, "kernel_module_events", query), "name"))
}

func TestWithoutAnEqualCursorNothingMoves(t *testing.T) {
	c := testConfig(t, loadsOf("a")...)
	c.Cursors = unmoved{t}
	for _, constraints := range [][]constraint{
		nil,
		{{"cursor", "s%", 65}},
		{{"cursor", "ship", equals}, {"cursor", "other", equals}},
	} {
		rows := rowsOf(t, c, "kernel_module_events", contextJSON(t, []string{"name", "cursor"}, constraints...))
		require.Equal(t, []string{"NULL"}, column(rows, "cursor"))
	}
}

// unmoved are cursors that nobody may ask for.
type unmoved struct{ t *testing.T }

func (u unmoved) Cursor(context.Context, string, kmodquery.CursorQuery) (kmodquery.Cursor, error) {
	u.t.Error("a cursor was asked for")
	return kmodquery.Cursor{}, errors.New("unexpected")
}

func (u unmoved) Advance(context.Context, kmodquery.Cursor, int64, int) (bool, error) {
	u.t.Error("a cursor was moved")
	return false, errors.New("unexpected")
}

func TestCursorOfFindingsGivesFindings(t *testing.T) {
	load := kmodquery.Event{Time: 1, EventName: kmodquery.EventSecurityKernelReadFile, Source: kmodquery.SourceEBPF, Type: kmodquery.TypeKernelModule}
	c := testConfig(t, load, load)
	query := contextJSON(t, []string{"eid", "signature_id", "cursor"}, constraint{"cursor", "findings", equals})
	for range 2 {
		rows := rowsOf(t, c, "kernel_module_findings", query)
		require.Equal(t, []string{"1", "2"}, column(rows, "eid"))
	}
	message := errorOf(t, c, "kernel_module_events", contextJSON(t, []string{"eid", "cursor"}, constraint{"cursor", "findings", equals}))
	require.Contains(t, message, "cursor findings belongs to another query, kernel_module_findings ")
}

// A call with other constraints would pass over the rows that this one leaves out.
func TestACursorBelongsToTheConstraintsThatLeaveOutRows(t *testing.T) {
	c := testConfig(t, loadedTwice()...)
	c.Signatures = twoSignatures()
	store(t, c, loadOf("good", "good", 0)...)
	for table, queries := range map[string][][]constraint{
		"kernel_module_findings": {
			{{"signature_id", "KMQ-1", equals}}, {{"signature_id", "KMQ-2", equals}}, {{"external_id", "T1", equals}}, {{"severity", "1", equals}}, {{"severity", "2", 32}}, nil,
		},
		"kernel_module_loads": {{{"outcome", "loaded", equals}}, {{"outcome", "rejected", equals}}, nil},
	} {
		for i, first := range queries {
			cursor := constraint{"cursor", fmt.Sprint(table, i), equals}
			asked := contextJSON(t, []string{"eid", "cursor"}, append(first, cursor)...)
			rows := rowsOf(t, c, table, asked)
			require.Equal(t, rows, rowsOf(t, c, table, asked))
			for j, other := range queries {
				if i != j {
					require.Contains(t, errorOf(t, c, table, contextJSON(t, []string{"eid", "cursor"}, append(other, cursor)...)), "belongs to another query")
				}
			}
		}
	}
}

func TestCursorStopsAtTheBoundOfTheReply(t *testing.T) {
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprint("module", i))
	}
	c := testConfig(t, loadsOf(names...)...)
	c.ReplyBytes = 1000
	query := contextJSON(t, []string{"name", "cursor"}, constraint{"cursor", "ship", equals})
	rows := rowsOf(t, c, "kernel_module_events", query)
	require.LessOrEqual(t, c.bound().cost(rows), c.ReplyBytes)
	require.NotEmpty(t, rows)
	require.Equal(t, rows, rowsOf(t, c, "kernel_module_events", query), "what is held leaves no room for more")
}

func TestHeldRowsMustFitWithTheColumnsOfTheQuery(t *testing.T) {
	c := testConfig(t, loadsOf("a", "b", "c")...)
	c.ReplyBytes = 140
	query := contextJSON(t, []string{"name", "cursor"}, constraint{"cursor", "ship", equals})
	require.Len(t, rowsOf(t, c, "kernel_module_events", query), 3)
	message := errorOf(t, c, "kernel_module_events", contextJSON(t, nil, constraint{"cursor", "ship", equals}))
	require.Contains(t, message, "cursor ship holds more than twice 140 bytes with these columns; select fewer")
	require.Len(t, rowsOf(t, c, "kernel_module_events", query), 3)
}

func TestHeldRowsFitWithTheLargestBound(t *testing.T) {
	c := testConfig(t, loadsOf("a", "b", "c")...)
	c.ReplyBytes = math.MaxInt64
	query := contextJSON(t, []string{"name", "cursor"}, constraint{"cursor", "ship", equals})
	for range 2 {
		require.Len(t, rowsOf(t, c, "kernel_module_events", query), 3)
	}
}

func TestCursorIsNotMovedWhereTheStoreCannotBeWritten(t *testing.T) {
	c := testConfig(t, loadsOf("a", "b")...)
	query := contextJSON(t, []string{"name", "cursor"}, constraint{"cursor", "ship", equals})
	working := c.Cursors
	c.Cursors = unwritable{working}
	require.Empty(t, rowsOf(t, c, "kernel_module_events", query))
	c.Cursors = working
	require.Len(t, rowsOf(t, c, "kernel_module_events", query), 2)
}

// unwritable are cursors that cannot be moved.
type unwritable struct{ Cursors }

func (u unwritable) Advance(context.Context, kmodquery.Cursor, int64, int) (bool, error) {
	return false, errors.New("disk full")
}

func TestCursorIsAskedAgainIfAnotherCallMovedIt(t *testing.T) {
	c := testConfig(t, loadsOf("a", "b")...)
	query := contextJSON(t, []string{"name", "cursor"}, constraint{"cursor", "ship", equals})
	c.Cursors = &overtaken{Cursors: c.Cursors, times: 2}
	require.Len(t, rowsOf(t, c, "kernel_module_events", query), 2)
	c.Cursors = &overtaken{Cursors: c.Cursors, times: 1 << 30}
	other := contextJSON(t, []string{"name", "cursor"}, constraint{"cursor", "other", equals})
	require.Contains(t, errorOf(t, c, "kernel_module_events", other), "cursor other is asked by several queries at once")
}

// overtaken are cursors that other calls move first, some times.
type overtaken struct {
	Cursors
	times int
}

func (o *overtaken) Advance(ctx context.Context, c kmodquery.Cursor, to int64, rows int) (bool, error) {
	if o.times--; o.times >= 0 {
		return false, nil
	}
	return o.Cursors.Advance(ctx, c, to, rows)
}

func TestEveryTableWithACursorHidesIt(t *testing.T) {
	c := testConfig(t)
	for _, table := range []string{"kernel_module_events", "kernel_module_findings"} {
		routes := pluginNamed(t, c, table).Routes()
		at := slices.IndexFunc(routes, func(r map[string]string) bool { return r["name"] == cursorName })
		require.GreaterOrEqual(t, at, 0)
		require.Equal(t, "20", routes[at]["op"], "ADDITIONAL and HIDDEN")
		require.Equal(t, "TEXT", routes[at]["type"])
	}
}
