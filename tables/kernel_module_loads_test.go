package tables

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/signatures"
	"github.com/kmodquery/kmodquery/tables/sqlite"
	"github.com/kmodquery/kmodquery/test/hostile"
)

const (
	loadsTable    = "kernel_module_loads"
	findingsTable = "kernel_module_findings"
)

// store stores events, and closes the loads that are over.
func store(t *testing.T, c Config, events ...kmodquery.Event) {
	t.Helper()
	s := c.Store.(*sqlite.Store)
	require.NoError(t, (&recorder{store: s, pending: events}).Sync(t.Context()))
	require.NoError(t, s.CloseLoads(t.Context(), time.Now()))
}

// loadOf returns the events of a load by eBPF with this result of the call.
func loadOf(id, name string, result int64) []kmodquery.Event {
	read := kmodquery.Event{
		Time: 1_700_000_000, EventName: kmodquery.EventSecurityKernelReadFile, Source: kmodquery.SourceEBPF, Type: kmodquery.TypeKernelModule, BootID: "boot",
		LoadID: id, ReportsLoad: new(int64(1)), Name: name, Path: "/tmp/" + name + ".ko", Origin: kmodquery.OriginFile, SHA256: "aa", SignatureStatus: kmodquery.SignatureUnsigned,
		UID: new(int64(0)), ProcessName: "insmod", ProcessPath: "/usr/bin/kmod",
	}
	live, call := read, read
	live.EventName, live.ReportsLoad = kmodquery.EventModuleLoad, new(int64(0))
	call.EventName, call.ReportsLoad, call.Result = kmodquery.EventFinitModule, new(int64(0)), &result
	if result != 0 {
		call.Error = "ENODEV"
	}
	return []kmodquery.Event{read, live, call}
}

func freeOf(name, boot string, at int64) kmodquery.Event {
	return kmodquery.Event{Time: at, EventName: kmodquery.EventModuleFree, Source: kmodquery.SourceEBPF, Name: name, BootID: boot}
}

func TestLoadsAreOneRowForEachAttempt(t *testing.T) {
	c := testConfig(t)
	c.Signatures = signatures.All()
	store(t, c, loadOf("1", "good", 0)...)
	store(t, c, loadOf("2", "bad", -19)...)
	denied := kmodquery.Event{Time: 1_700_000_000, EventName: kmodquery.EventInitModule, Source: kmodquery.SourceEBPF, Result: new(int64(-1)), Error: "EPERM", Count: new(int64(3))}
	store(t, c, denied)
	rows := rowsOf(t, c, loadsTable, "{}")
	require.Equal(t, []string{"denied", "init_failed", "loaded"}, column(rows, "outcome"))
	require.Equal(t, []string{"NULL", "bad", "good"}, column(rows, "name"))
	require.Equal(t, []string{"EPERM", "ENODEV", "NULL"}, column(rows, "error"))
	require.Equal(t, []string{"3", "NULL", "NULL"}, column(rows, "count"))
	require.Equal(t, []string{"1", "0", "0"}, column(rows, "unprivileged"))
	require.Equal(t, []string{"ebpf", "ebpf", "ebpf"}, column(rows, "sources"))
	require.Equal(t, "2023-11-14 22:13:20", rows[0]["utc"])
	findings := column(rows, "findings")
	require.Contains(t, findings[0], "TRC-1017")
	require.Regexp(t, `^KMQ-1001,.*,TRC-1017$`, findings[1])
	require.Equal(t, findings[1], findings[2])
	for i, row := range rows {
		require.Len(t, rowsOf(t, c, "kernel_module_events", contextJSON(t, nil, constraint{"eid", row["event_eid"], equals}, constraint{"time", row["time"], equals})), 1)
		require.NotEqual(t, "NULL", column(rows, "severity")[i])
	}
	require.Len(t, rowsOf(t, c, loadsTable, contextJSON(t, []string{})), 3)
	require.Equal(t, []string{"bad"}, column(rowsOf(t, c, loadsTable, contextJSON(t, nil, constraint{"outcome", "init_failed", equals})), "name"))
	require.Equal(t, []string{"bad", "good"}, column(rowsOf(t, c, loadsTable, contextJSON(t, []string{"name"}, constraint{"unprivileged", "0", equals})), "name"))
	require.Equal(t, []map[string]string{{"findings": findings[2], "rowid": rows[2]["eid"]}},
		rowsOf(t, c, loadsTable, contextJSON(t, []string{"findings"}, constraint{"name", "good", equals})))
	require.Len(t, rowsOf(t, c, "kernel_module_events", "{}"), 7, "the rows of loads are not among the events")
	var names []constraint
	for n := range 1000 {
		names = append(names, constraint{"name", fmt.Sprint("good", n), equals})
	}
	require.Len(t, rowsOf(t, c, loadsTable, contextJSON(t, nil, names...)), 3, "the store leaves out the condition, and osquery filters again")
}

// A row is shipped once, so what becomes known later is in columns of its own.
func TestLaterEventsChangeOnlyTheColumnsComputedByTheQuery(t *testing.T) {
	c := testConfig(t)
	s := c.Store.(*sqlite.Store)
	load := loadOf("1", "slow", 0)
	store(t, c, load[:2]...)
	require.Empty(t, rowsOf(t, c, loadsTable, "{}"))
	// The store's clock of tests does not pass ten seconds: the attempt is as good as closed.
	closed, ok := kmodquery.CloseLoad(stored(t, s), func(int64) string { return "root" })
	require.True(t, ok)
	store(t, c, closed)
	before := rowsOf(t, c, loadsTable, "{}")
	require.Equal(t, []string{"running"}, column(before, "outcome"))
	require.Equal(t, []string{"running"}, column(before, "final_outcome"))
	require.Equal(t, []string{"root"}, column(before, "user_name"))

	audited := load[2]
	audited.Source = kmodquery.SourceAudit
	unwitnessed := kmodquery.Event{Time: 1_700_000_000, EventName: kmodquery.EventModuleHidden, Source: kmodquery.SourceProcfs, LoadID: "1", Name: "slow", BootID: "boot"}
	c.Signatures = signatures.All()
	store(t, c, load[2], audited, unwitnessed, freeOf("slow", "other boot", 1_700_000_003), freeOf("SLOW", "boot", 1_700_000_004),
		freeOf("slow", "boot", 1_700_000_005), freeOf("slow", "boot", 1_700_000_006))
	after := rowsOf(t, c, loadsTable, "{}")
	require.Len(t, after, 1)
	require.Equal(t, "loaded", after[0]["final_outcome"])
	require.Equal(t, "1700000005", after[0]["unloaded_time"])
	require.Equal(t, "2023-11-14 22:13:25", after[0]["unloaded_utc"])
	require.Equal(t, "4", after[0]["severity"], "a hidden module")
	for _, row := range append(before, after...) {
		for _, name := range laterColumns {
			delete(row, name)
		}
	}
	require.Equal(t, before, after)
}

func stored(t *testing.T, s *sqlite.Store) []kmodquery.Event {
	t.Helper()
	var events []kmodquery.Event
	require.NoError(t, s.Events(t.Context(), kmodquery.Filter{}, func(e *kmodquery.Event) error {
		events = append(events, *e)
		return nil
	}))
	slices.Reverse(events)
	return events
}

// Each load ends with the first unload after it, however often its name is loaded.
func TestEachLoadHasItsOwnUnload(t *testing.T) {
	c := testConfig(t)
	for n := range int64(5) {
		store(t, c, loadOf(fmt.Sprint(n), "dummy", 0)...)
		store(t, c, loadOf(fmt.Sprint("again", n), "dummy", -17)...)
		if n < 4 {
			store(t, c, freeOf("dummy", "boot", 1_700_000_100+n))
		}
	}
	rows := rowsOf(t, c, loadsTable, contextJSON(t, []string{"unloaded_time"}))
	require.Equal(t, []string{"NULL", "NULL", "NULL", "1700000103", "NULL", "1700000102", "NULL", "1700000101", "NULL", "1700000100"}, column(rows, "unloaded_time"))
}

// Root may unload a module of the name while its file is being read for the next one.
func TestAnUnloadBeforeTheModuleWasLiveIsThatOfAnother(t *testing.T) {
	c := testConfig(t)
	audited := kmodquery.Event{Time: 1_700_000_000, EventName: kmodquery.EventFinitModule, Source: kmodquery.SourceAudit, LoadID: "3", Name: "dummy", BootID: "boot", Result: new(int64(0))}
	load := loadOf("2", "dummy", 0)
	events := append(loadOf("1", "dummy", 0), load[0], freeOf("dummy", "boot", 1_700_000_001))
	events = append(events, load[1:]...)
	events = append(events, freeOf("dummy", "boot", 1_700_000_002), audited)
	// Its return may be stored after that, and a module is unloaded before its row is stored.
	late, seen := loadOf("4", "late", 0), audited
	seen.LoadID, seen.Name = "5", "seen"
	events = append(append(events, late[:2]...), freeOf("late", "boot", 1_700_000_003), late[2], seen, freeOf("seen", "boot", 1_700_000_004))
	store(t, c, events...)
	rows := rowsOf(t, c, loadsTable, contextJSON(t, []string{"load_id", "unloaded_time"}))
	unloads := map[string]string{}
	for i, id := range column(rows, "load_id") {
		unloads[id] = column(rows, "unloaded_time")[i]
	}
	require.Equal(t, map[string]string{"1": "1700000001", "2": "1700000002", "3": "NULL", "4": "1700000003", "5": "1700000004"}, unloads)
}

// The views know which of two modules of a name was unloaded.
func TestAnUnloadThatTheViewsFoundIsOfItsLoad(t *testing.T) {
	c := testConfig(t)
	found := freeOf("dummy", "boot", 1_700_000_003)
	found.Source, found.ParentLoadID = kmodquery.SourceProcfs, "1"
	store(t, c, append(append(loadOf("1", "dummy", 0), loadOf("2", "dummy", 0)...), found)...)
	require.Equal(t, []string{"NULL", "1700000003"}, column(rowsOf(t, c, loadsTable, contextJSON(t, []string{"eid", "unloaded_time"})), "unloaded_time"))
	store(t, c, freeOf("dummy", "boot", 1_700_000_004))
	require.Equal(t, []string{"1700000004", "1700000003"}, column(rowsOf(t, c, loadsTable, contextJSON(t, []string{"eid", "unloaded_time"})), "unloaded_time"))
}

func TestFindingsOfARenamedModuleAreThoseOfItsLoad(t *testing.T) {
	c := testConfig(t)
	c.Signatures = signatures.All()
	renamed := kmodquery.Event{
		Time: 1_700_000_000, EventName: kmodquery.EventModuleUnwitnessed, Source: kmodquery.SourceProcfs, LoadID: "r", ParentLoadID: "1", Name: "other", BootID: "boot",
	}
	inside := loadOf("2", "inside", -8)
	for i := range inside {
		inside[i].ParentLoadID = "1"
	}
	store(t, c, append(append(loadOf("1", "dummy", 0), renamed), inside...)...)
	rows := rowsOf(t, c, loadsTable, contextJSON(t, []string{"name", "findings", "final_outcome"}))
	require.Len(t, rows, 2)
	require.Equal(t, []string{"inside", "dummy"}, column(rows, "name"))
	require.Contains(t, rows[1]["findings"], "KMQ-1006")
	require.NotContains(t, rows[0]["findings"], "KMQ-1006")
	require.Equal(t, []string{"init_failed", "loaded"}, column(rows, "final_outcome"))
}

func TestCursorGivesEachLoadOnce(t *testing.T) {
	c := testConfig(t)
	query := contextJSON(t, []string{"name", "outcome", "cursor"}, constraint{"cursor", "ship", equals})
	rows := rowsOf(t, c, loadsTable, query)
	require.Empty(t, rows)
	given := map[string]bool{}
	for n := range 5 {
		name := fmt.Sprint("module", n)
		events := loadOf(name, name, 0)
		store(t, c, events[:2]...) // is not over
		rows = rowsOf(t, c, loadsTable, query)
		require.Len(t, rows, n, "the held ones")
		store(t, c, events[2])
		rows = rowsOf(t, c, loadsTable, query)
		require.Len(t, rows, n+1)
		for _, row := range rows {
			given[row["name"]] = true
		}
	}
	require.Len(t, given, 5)
}

func TestLoadsEscapeHostileText(t *testing.T) {
	events, texts := hostileEvents(t)
	c := testConfig(t)
	for i := range events {
		closed, ok := kmodquery.CloseLoad(events[i:i+1], func(int64) string { return texts[i] })
		require.True(t, ok)
		store(t, c, closed)
	}
	rows := rowsOf(t, c, loadsTable, "{}")
	require.Len(t, rows, len(texts))
	requireHarmless(t, rows)
	for i, text := range texts {
		row := rows[len(rows)-1-i]
		for _, column := range []string{"name", "path", "cmdline", "user_name"} {
			require.Equal(t, text, hostile.Unescape(row[column]), column)
		}
	}
	// Root may write anything to the store.
	forged := events[0]
	forged.EventName, forged.Raw = kmodquery.EventLoadClosed, `{"outcome":"`+strings.Repeat("x", 5000)+"\u009b"+`","user":"\u001b[2J","sources":"\u202e"}`
	store(t, c, forged)
	forged.Raw = "no JSON"
	store(t, c, forged)
	requireHarmless(t, rowsOf(t, c, loadsTable, "{}"))
}

// The columns that are set after the rows were read count for the bound of the reply.
func TestRepliesWithLaterColumnsAreBounded(t *testing.T) {
	c := testConfig(t)
	for n := range 20 {
		store(t, c, loadOf(fmt.Sprint(n), "dummy", 0)...)
	}
	c.ReplyBytes = 20 * (32 + 10)
	require.Len(t, rowsOf(t, c, loadsTable, contextJSON(t, []string{"eid"})), 20)
	require.Contains(t, errorOf(t, c, loadsTable, contextJSON(t, []string{"eid", "findings"})), "reply would be 20 rows")
}
