package tables

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/signatures"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// BenchmarkDay asks for one day of thirty in a store of a million events, of which a third
// stand for a load: for the events, for the findings of one signature, for those that
// stand out, and for the loads. Then it asks when the loads of the first minutes were unloaded,
// with many unloads of other modules after them. The findings may take at most 1.5 times as
// long as the events.
func BenchmarkDay(b *testing.B) {
	const rows, unloads, day = 1_000_000, 100_000, 24 * 3600
	c := testConfig(b)
	c.Signatures = signatures.All()
	event, first := typicalLoad(), typicalLoad().Time
	batch := make([]kmodquery.Delivery, 0, 10_000)
	for i := range int64(rows + unloads) {
		e := event
		e.Time = first + min(i, rows)*30*day/rows
		e.TimeNanos, e.LoadID = e.Time*1_000_000_000, fmt.Sprint("boot-", i/3)
		e.EventName = []string{kmodquery.EventSecurityKernelReadFile, kmodquery.EventModuleLoad, kmodquery.EventFinitModule}[i%3]
		e.ReportsLoad = new((3 - i%3) / 3)
		if i >= rows {
			e.EventName, e.Name, e.LoadID, e.ReportsLoad = kmodquery.EventModuleFree, "other", "", nil
		}
		if batch = append(batch, kmodquery.Delivery{Event: e}); len(batch) == cap(batch) {
			require.NoError(b, c.Store.(interface {
				Append(ctx context.Context, batch []kmodquery.Delivery) error
			}).Append(b.Context(), batch))
			batch = batch[:0]
		}
	}
	closeDay(b, c.Store.(*sqlite.Store), first, first+600)
	closeDay(b, c.Store.(*sqlite.Store), first+28*day, first+29*day)
	columns := []string{"time", "name", "path"}
	later := append([]string{"findings", "unloaded_time"}, columns...)
	for _, query := range []struct {
		name, table string
		columns     []string
		constraints []constraint
		from, to    int64
		rows        int
	}{
		{"events", "kernel_module_events", columns, nil, 28 * day, 29 * day, rows / 30},
		{"findings of TRC-1017", "kernel_module_findings", columns, []constraint{{"signature_id", "TRC-1017", 2}}, 28 * day, 29 * day, rows / 90},
		{"findings of severity 3", "kernel_module_findings", columns, []constraint{{"severity", "3", 32}}, 28 * day, 29 * day, 0},
		{"loads", "kernel_module_loads", columns, nil, 28 * day, 29 * day, rows / 90},
		{"loads with findings and unloads", "kernel_module_loads", later, nil, 28 * day, 29 * day, rows / 90},
		{"unloads of the first loads", "kernel_module_loads", []string{"unloaded_time"}, nil, 0, 600, 600 * rows / (90 * day)},
	} {
		b.Run(query.name, func(b *testing.B) {
			context := contextJSON(b, query.columns, append(query.constraints,
				constraint{"time", fmt.Sprint(first + query.from), 32}, constraint{"time", fmt.Sprint(first + query.to), 16})...)
			for b.Loop() {
				require.InDelta(b, query.rows, len(rowsOf(b, c, query.table, context)), 1)
			}
		})
	}
}

// closeDay closes the loads whose events are in a window of time.
func closeDay(b *testing.B, s *sqlite.Store, from, to int64) {
	b.Helper()
	loads := map[string][]kmodquery.Event{}
	window := []kmodquery.Condition{
		{Column: "time", Op: kmodquery.GreaterOrEqual, Values: []any{from}}, {Column: "time", Op: kmodquery.Less, Values: []any{to}},
	}
	require.NoError(b, s.Events(b.Context(), kmodquery.Filter{Conditions: window}, func(e *kmodquery.Event) error {
		loads[e.LoadID] = append([]kmodquery.Event{*e}, loads[e.LoadID]...)
		return nil
	}))
	var batch []kmodquery.Delivery
	for _, events := range loads {
		if closed, ok := kmodquery.CloseLoad(events, func(int64) string { return "root" }); ok {
			batch = append(batch, kmodquery.Delivery{Event: closed})
		}
	}
	require.NoError(b, s.Append(b.Context(), batch))
}
