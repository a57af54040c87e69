package tables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/osquery/osquery-go/gen/osquery"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

func TestEventColumnsMatchTheEvent(t *testing.T) {
	var names []string
	for _, definition := range eventColumns {
		names = append(names, definition.Name)
		require.NotEmpty(t, definition.Description)
	}
	var want []string
	for _, column := range kmodquery.EventColumns() {
		want = append(want, column.Name)
	}
	want = slices.Insert(want, slices.Index(want, "taints")+1, "taint_flags")
	require.Equal(t, append(want, kmodquery.UnprivilegedColumn, cursorName), names)
}

// osquery treats a column without options as indexed, and sends no constraints on hidden
// and local columns.
func TestEveryColumnStatesItsOptions(t *testing.T) {
	indexedEvents := []string{}
	for _, p := range Plugins(testConfig(t)) {
		for _, route := range p.Routes() {
			require.Contains(t, []string{"9", "12", "8", "16", "20"}, route["op"], route["name"])
			require.Contains(t, []string{"BIGINT", "TEXT"}, route["type"], route["name"])
			if route["op"] == "9" && p.Name() == "kernel_module_events" {
				indexedEvents = append(indexedEvents, route["name"])
			}
			if route["op"] == "16" {
				require.Equal(t, "raw", route["name"])
			}
			if route["op"] == "20" {
				require.Equal(t, cursorName, route["name"])
			}
		}
	}
	require.Equal(t, []string{"time", "eid", "stored_time", "event_name", "source", "load_id", "name", "path", "sha256", "pid", "container_id"}, indexedEvents)
}

func TestEventsShowEveryColumn(t *testing.T) {
	c := testConfig(t, full())
	want := map[string]string{"rowid": "1", "unprivileged": "0"}
	event := full()
	event.EID = 1
	event.FirstSeen, event.StoredTime = new(int64(1)), new(int64(storedTime)) // set by the store
	for _, column := range kmodquery.EventColumns() {
		want[column.Name] = fmt.Sprint(column.Value(&event))
	}
	want["taint_flags"] = kmodquery.TaintFlags(event.Taints)
	require.NotEmpty(t, want["taint_flags"])
	require.Len(t, want, len(eventColumns)) // with rowid, and without cursor
	for _, context := range []string{"", "{}", `{"constraints":[]}`, `{"colsUsed":null}`} {
		require.Equal(t, []map[string]string{want}, rowsOf(t, c, "kernel_module_events", context), context)
	}
}

func TestEventsOmitUnknownAndUnusedColumns(t *testing.T) {
	c := testConfig(t, kmodquery.Event{Time: 10, Name: "dummy", Params: ptr("")}, full())
	require.Equal(t, []map[string]string{
		{"rowid": "2", "name": "text of name", "params": "text of params", "result": strconv.FormatInt(*full().Result, 10)},
		{"rowid": "1", "name": "dummy", "params": ""},
	}, rowsOf(t, c, "kernel_module_events", contextJSON(t, []string{"name", "params", "result", "no_such"})))
}

// The letters are computed from a column that the query may not use.
func TestTaintFlagsNeedNoOtherColumn(t *testing.T) {
	c := testConfig(t, kmodquery.Event{Taints: ptr(int64(12288))}, kmodquery.Event{Taints: ptr(int64(0))}, kmodquery.Event{})
	rows := rowsOf(t, c, "kernel_module_events", contextJSON(t, []string{"taint_flags"}, constraint{"taint_flags", "OE", 2}))
	require.Equal(t, []map[string]string{{"rowid": "3"}, {"rowid": "2"}, {"rowid": "1", "taint_flags": "OE"}}, rows)
}

func TestAQuerySeesEventsFromBeforeIt(t *testing.T) {
	for _, table := range []string{"kernel_module_events", "kernel_module_findings"} {
		t.Run(table, func(t *testing.T) {
			for _, used := range [][]string{nil, {}, {"name"}} {
				c := testConfig(t, kmodquery.Event{EventName: "init_module", Source: "ebpf"})
				require.Len(t, rowsOf(t, c, table, contextJSON(t, used)), 1)
			}
			c := testConfig(t)
			c.Recorder.(*recorder).err = errors.New("ring is stuck")
			require.Equal(t, "error generating table: wait for pending events: ring is stuck", errorOf(t, c, table, "{}"))
		})
	}
}

// countOnly is a store whose events must not be read.
type countOnly struct {
	Store
	rows int64
}

func (s countOnly) Count(context.Context, kmodquery.Filter) (int64, error) { return s.rows, nil }

func TestAMillionEventsAreCountedWithoutReadingThem(t *testing.T) {
	c := testConfig(t)
	c.Store = countOnly{rows: 1_000_000}
	c.ReplyBytes = 1
	rows := rowsOf(t, c, "kernel_module_events", contextJSON(t, []string{}))
	require.Len(t, rows, 1_000_000)
	require.Empty(t, rows[0])
	require.Empty(t, rows[999_999])
}

func TestCountingAppliesTheConstraints(t *testing.T) {
	c := testConfig(t, kmodquery.Event{Time: 1}, kmodquery.Event{Time: 2})
	require.Len(t, rowsOf(t, c, "kernel_module_events", contextJSON(t, []string{}, constraint{"time", "2", 2})), 1)
}

func TestOtherActionsAreAnswered(t *testing.T) {
	p := pluginNamed(t, testConfig(t), "kernel_module_events")
	require.Equal(t, "table", p.RegistryName())
	require.Zero(t, p.Ping().Code)
	columns := p.Call(t.Context(), osquery.ExtensionPluginRequest{"action": "columns"})
	require.Equal(t, p.Routes(), columns.Response)
	require.EqualValues(t, 1, p.Call(t.Context(), osquery.ExtensionPluginRequest{"action": "drop"}).Status.Code)
	bad := p.Call(t.Context(), osquery.ExtensionPluginRequest{"action": "generate", "context": "{"})
	require.Equal(t, "error parsing context JSON: unexpected end of JSON input", bad.Status.Message)
}

func TestUnprivilegedEventsAreFiltered(t *testing.T) {
	denied := kmodquery.Event{Time: 1, Source: kmodquery.SourceEBPF, EventName: kmodquery.EventInitModule, Result: ptr[int64](-1), Error: "EPERM"}
	c := testConfig(t, append(loadsOf("dummy"), denied)...)
	for value, name := range map[string]string{"0": kmodquery.EventModuleLoad, "1": kmodquery.EventInitModule} {
		for _, table := range []string{"kernel_module_events", "kernel_module_findings"} {
			rows := rowsOf(t, c, table, contextJSON(t, []string{"unprivileged"}, constraint{"unprivileged", value, equals}))
			if table == "kernel_module_findings" && value == "0" {
				require.Empty(t, rows)
				continue
			}
			require.Equal(t, []string{value}, column(rows, "unprivileged"), "%s: %s", table, name)
		}
	}
}

// osquery shows missing text as "", and sends all values of an IN at once, "" too
// (osquery/sql/virtual_table.cpp).
func TestEmptyTextAmongValuesSelectsMissingText(t *testing.T) {
	c := testConfig(t, kmodquery.Event{Name: "host"}, kmodquery.Event{Name: "contained", ContainerID: "abc"})
	used := []string{"name", "container_id"}
	rows := rowsOf(t, c, "kernel_module_events", contextJSON(t, used, constraint{"container_id", "", equals}, constraint{"container_id", "abc", equals}))
	require.Equal(t, []string{"contained", "host"}, column(rows, "name"))
	rows = rowsOf(t, c, "kernel_module_events", contextJSON(t, used, constraint{"container_id", "abc", equals}))
	require.Equal(t, []string{"contained"}, column(rows, "name"))
}
