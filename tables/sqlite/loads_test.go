package sqlite

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// A closer is a store with a clock for its loads.
type closer struct {
	*Store
	dir string
	now time.Duration
}

func openCloser(t *testing.T) *closer {
	t.Helper()
	c := &closer{dir: t.TempDir(), now: time.Hour}
	c.open(t)
	return c
}

func (c *closer) open(t *testing.T) {
	t.Helper()
	c.Store = openIn(t, c.dir, Options{
		Now:     func() time.Time { return time.Unix(1_700_000_000, 0) },
		Elapsed: func() time.Duration { return c.now },
		Users:   func() func(int64) string { return func(uid int64) string { return fmt.Sprintf("user%d", uid) } },
	})
}

// restart ends the recorder as a crash does, without closing loads, and starts the next one.
func (c *closer) restart(t *testing.T) {
	t.Helper()
	require.NoError(t, c.Close())
	c.open(t)
}

func (c *closer) add(t *testing.T, events ...kmodquery.Event) {
	t.Helper()
	require.NoError(t, appendEvents(t.Context(), c.Store, events))
}

// closed closes loads after a while and returns all rows as "load_id outcome sources", the
// oldest first.
func (c *closer) closed(t *testing.T, after time.Duration) []string {
	t.Helper()
	c.now += after
	require.NoError(t, c.CloseLoads(t.Context(), time.Time{}))
	return c.rows(t)
}

func (c *closer) rows(t *testing.T) []string {
	t.Helper()
	rows := []string{}
	for _, e := range ofLoads(t, c.Store) {
		closing := e.Closing()
		rows = append([]string{e.LoadID + " " + closing.Outcome + " " + closing.Sources}, rows...)
	}
	return rows
}

func ofLoads(t *testing.T, s *Store) []kmodquery.Event {
	t.Helper()
	return read(t, s, kmodquery.Filter{Conditions: []kmodquery.Condition{
		{Column: "event_name", Op: kmodquery.Equal, Values: []any{kmodquery.EventLoadClosed, kmodquery.EventLoadClosedUnprivileged}},
	}})
}

// Events of an attempt as the sources emit them.
func fileRead(id, name string) kmodquery.Event {
	return kmodquery.Event{
		Time: 1_700_000_000, TimeNanos: 1_700_000_000e9, EventName: kmodquery.EventSecurityKernelReadFile, Source: kmodquery.SourceEBPF,
		Type: kmodquery.TypeKernelModule, LoadID: id, ReportsLoad: new(int64(1)), Name: name, Path: "/tmp/" + name + ".ko", UID: new(int64(7)), BootID: "b",
	}
}

func live(id, name string) kmodquery.Event {
	return kmodquery.Event{
		Time: 1_700_000_000, TimeNanos: 1_700_000_000e9 + 1, EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF,
		LoadID: id, ReportsLoad: new(int64(0)), Name: name, Taints: new(int64(4096)), BootID: "b",
	}
}

func returned(id, name, source string, result int64, errno string) kmodquery.Event {
	return kmodquery.Event{
		Time: 1_700_000_000, TimeNanos: 1_700_000_000e9 + 2, EventName: kmodquery.EventFinitModule, Source: source,
		LoadID: id, ReportsLoad: new(int64(0)), Name: name, Result: &result, Error: errno, SHA256: "x", BootID: "b",
	}
}

func TestALoadIsClosedOnceItIsOverAndOtherSourcesHadTime(t *testing.T) {
	c := openCloser(t)
	c.add(t, fileRead("a", "dummy"), live("a", "dummy"), returned("a", "dummy", kmodquery.SourceEBPF, 0, ""))
	require.Empty(t, c.closed(t, 0), "another source may have seen more")
	c.add(t, returned("a", "dummy", kmodquery.SourceAudit, 0, ""))
	require.Equal(t, []string{"a loaded ebpf,audit"}, c.closed(t, otherSourcesTime))
	require.Equal(t, []string{"a loaded ebpf,audit"}, c.closed(t, time.Hour))

	row := ofLoads(t, c.Store)[0]
	require.EqualValues(t, 5, row.EID, "behind the events that it was derived from")
	require.Equal(t, kmodquery.Closing{Outcome: kmodquery.OutcomeLoaded, Sources: "ebpf,audit", Event: 1, User: "user7"}, row.Closing())
	require.EqualValues(t, 1_700_000_000e9, row.TimeNanos)
	require.Equal(t, "/tmp/dummy.ko", row.Path)
	require.Equal(t, "x", row.SHA256)
	require.EqualValues(t, 4096, *row.Taints)
	require.EqualValues(t, 0, *row.Result)
}

func TestASyncClosesWhatIsOverAtOnce(t *testing.T) {
	c := openCloser(t)
	c.add(t, fileRead("a", "dummy"), live("a", "dummy"), fileRead("b", "nbd"), returned("b", "nbd", kmodquery.SourceEBPF, -8, "ENOEXEC"))
	require.NoError(t, c.CloseLoads(t.Context(), time.Now()))
	require.Equal(t, []string{"b rejected ebpf"}, c.rows(t))
}

// What becomes known later is not in the row: it was shipped already.
func TestALoadWithoutAnEndIsClosedAfterTenSeconds(t *testing.T) {
	c := openCloser(t)
	c.add(t, fileRead("a", "dummy"), live("a", "dummy"))
	require.Empty(t, c.closed(t, 0))
	require.Empty(t, c.closed(t, runningAfter-1))
	require.Equal(t, []string{"a running ebpf"}, c.closed(t, 1))
	c.add(t, returned("a", "dummy", kmodquery.SourceEBPF, 0, ""), returned("a", "dummy", kmodquery.SourceAudit, 0, ""))
	require.Equal(t, []string{"a running ebpf"}, c.closed(t, time.Hour))
	c.restart(t)
	require.Equal(t, []string{"a running ebpf"}, c.closed(t, time.Hour))
}

func TestEachLoadIsClosedOnceWhereverTheRecorderEnds(t *testing.T) {
	c := openCloser(t)
	want := []string{}
	for n := range 6 {
		id := fmt.Sprint(n)
		for _, e := range []kmodquery.Event{fileRead(id, "dummy"), live(id, "dummy"), returned(id, "dummy", kmodquery.SourceEBPF, 0, "")} {
			c.add(t, e)
			c.closed(t, 0)
			if n%2 == 0 {
				c.restart(t)
			}
		}
		want = append(want, id+" loaded ebpf")
		if n%3 == 0 {
			c.closed(t, 0)
			c.closed(t, otherSourcesTime)
			c.restart(t)
		}
	}
	c.closed(t, 0)
	require.Equal(t, want, c.closed(t, otherSourcesTime))
}

// Without its key the store does not know how far it was.
func TestNoLoadIsClosedTwiceWhenThePositionIsLost(t *testing.T) {
	c := openCloser(t)
	denied := kmodquery.Event{Time: 1_700_000_000, EventName: kmodquery.EventFinitModule, Source: kmodquery.SourceEBPF, Error: "EPERM", Result: new(int64(-1))}
	c.add(t, fileRead("a", "dummy"), returned("a", "dummy", kmodquery.SourceEBPF, 0, ""), denied, denied, denied)
	c.closed(t, 0)
	want := c.closed(t, otherSourcesTime)
	require.Len(t, want, 4)
	_, err := c.writer.Exec("UPDATE totals SET state = '', mac = x''")
	require.NoError(t, err)
	c.restart(t)
	c.closed(t, 0)
	require.Equal(t, want, c.closed(t, runningAfter))
}

func TestOutcomesOfLoads(t *testing.T) {
	denied := kmodquery.Event{EventName: kmodquery.EventInitModule, Source: kmodquery.SourceEBPF, Error: "EPERM", Result: new(int64(-1)), Count: new(int64(99))}
	logged := func(missing kmodquery.Columns) kmodquery.Event {
		return kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceKmsg, LoadID: "a", ReportsLoad: new(int64(1)), Missing: missing}
	}
	kext := func(name, source, verdict string, result *int64) kmodquery.Event {
		return kmodquery.Event{EventName: name, Source: source, LoadID: "a", Verdict: verdict, Result: result}
	}
	failedBy := func(pid *int64, errno string) kmodquery.Event {
		e := logged("")
		e.Source, e.Pid, e.Result, e.Error = kmodquery.SourceJournal, pid, new(int64(-1)), errno
		return e
	}
	byAudit := func(euid int64) kmodquery.Event {
		return kmodquery.Event{EventName: kmodquery.EventFinitModule, Source: kmodquery.SourceAudit, Error: "EPERM", Result: new(int64(-1)), EUID: &euid, LoadID: "a"}
	}
	waited := kmodquery.Event{
		EventName: kmodquery.EventFinitModule, Source: kmodquery.SourceEBPF, Error: "ENODEV", Result: new(int64(-19)), LoadID: "a", Missing: "path,sha256",
	}
	inside := kmodquery.Event{EventName: kmodquery.EventSecurityKernelReadFile, Source: kmodquery.SourceEBPF, Type: "firmware", LoadID: "a", Path: "/lib/firmware/x"}
	for want, events := range map[string][]kmodquery.Event{
		"init_failed": {fileRead("a", "x"), live("a", "x"), inside, returned("a", "x", kmodquery.SourceEBPF, -19, "ENODEV")},
		"rejected":    {fileRead("a", "x"), returned("a", "x", kmodquery.SourceEBPF, -8, "ENOEXEC")},
		"loaded":      {fileRead("a", "x"), live("a", "x"), returned("a", "x", kmodquery.SourceEBPF, 0, "")},
		"denied":      {denied},
		"running":     {fileRead("a", "x"), live("a", "x")},
		"rejected: audit saw that the kernel did not know the name":     {returned("a", "", kmodquery.SourceAudit, -8, "ENOEXEC")},
		"unknown: audit does not see whether the init ran":              {returned("a", "x", kmodquery.SourceAudit, -19, "ENODEV")},
		"unknown: the call waited for another":                          {waited},
		"rejected: the file was read":                                   {fileRead("a", "x"), waited},
		"init_failed: the call was seen in the midst":                   {live("a", "x"), waited},
		"denied: audit saw a user without the right":                    {byAudit(1000)},
		"unknown: lockdown may refuse root with the same record":        {byAudit(0)},
		"unknown: the loader logged what the init may have returned":    {failedBy(new(int64(5)), "ENODEV")},
		"rejected: no init returns it":                                  {failedBy(new(int64(5)), "ENOEXEC")},
		"rejected: the kernel logged it":                                {failedBy(nil, "EINVAL")},
		"rejected: the log says so":                                     {logged("result")},
		"unknown: the log says nothing of the end":                      {logged("")},
		"loaded: the views show it":                                     {logged(""), {EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceProcfs, LoadID: "a"}},
		"loaded: no source observed the load of a module that is there": {{EventName: kmodquery.EventModuleUnwitnessed, Source: kmodquery.SourceProcfs, LoadID: "a"}},
		"loaded: a kext":   {kext(kmodquery.EventKextload, kmodquery.SourceEndpointSecurity, kmodquery.VerdictAllow, nil), kext(kmodquery.EventKextload, kmodquery.SourceUnifiedLog, "", new(int64(0)))},
		"rejected: a kext": {kext(kmodquery.EventKextload, kmodquery.SourceUnifiedLog, "", new(int64(-1)))},
		"denied: a kext":   {kext(kmodquery.EventKextBlocked, kmodquery.SourceUnifiedLog, kmodquery.VerdictDeny, nil)},
		"unknown: Endpoint Security reports the request": {kext(kmodquery.EventKextload, kmodquery.SourceEndpointSecurity, kmodquery.VerdictAllow, nil)},
	} {
		t.Run(want, func(t *testing.T) {
			c := openCloser(t)
			c.add(t, events...)
			c.closed(t, 0)
			c.closed(t, runningAfter)
			rows := ofLoads(t, c.Store)
			require.Len(t, rows, 1)
			require.Regexp(t, "^"+rows[0].Closing().Outcome+"(:|$)", want)
			require.NotEqual(t, inside.Path, rows[0].Path)
			require.Equal(t, events[0].Count, rows[0].Count)
		})
	}
}

// Firmware, a policy's decision alone, and the end of an attempt are no attempts.
func TestOtherEventsAreNoLoads(t *testing.T) {
	c := openCloser(t)
	c.add(t,
		kmodquery.Event{EventName: kmodquery.EventSecurityKernelReadFile, Source: kmodquery.SourceEBPF, Type: "firmware", LoadID: "a"},
		kmodquery.Event{EventName: kmodquery.EventKextAllowed, Source: kmodquery.SourceUnifiedLog, LoadID: "b", Verdict: kmodquery.VerdictAllow},
		kmodquery.Event{EventName: kmodquery.EventModuleFree, Source: kmodquery.SourceEBPF, LoadID: "c"},
		kmodquery.Event{EventName: kmodquery.EventModulePresent, Source: kmodquery.SourceProcfs, Name: "x"},
	)
	c.closed(t, 0)
	require.Empty(t, c.closed(t, time.Hour))
}

// What any user can cause counts among what any user can cause.
func TestDeniedLoadsAreUnprivileged(t *testing.T) {
	c := openCloser(t)
	denied := kmodquery.Event{EventName: kmodquery.EventFinitModule, Source: kmodquery.SourceEBPF, Error: "EPERM", Result: new(int64(-1))}
	c.add(t, denied, fileRead("a", "x"), returned("a", "x", kmodquery.SourceEBPF, 0, ""))
	c.closed(t, 0)
	require.Len(t, c.closed(t, otherSourcesTime), 2)
	kinds := map[int64]int{}
	rows, err := c.readers.Query("SELECT cheap FROM events")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var kind int64
		require.NoError(t, rows.Scan(&kind))
		kinds[kind]++
	}
	require.Equal(t, map[int64]int{0: 3, 1: 2}, kinds)
}

// Queries of events see no rows of loads, in any order and with any condition.
func TestEventsAreWithoutLoads(t *testing.T) {
	c := openCloser(t)
	c.add(t, fileRead("a", "x"), returned("a", "x", kmodquery.SourceEBPF, 0, ""))
	c.closed(t, 0)
	require.Len(t, c.closed(t, otherSourcesTime), 1)
	for _, conditions := range [][]kmodquery.Condition{
		nil,
		{{Column: "load_id", Op: kmodquery.Equal, Values: []any{"a"}}},
		{{Column: "time", Op: kmodquery.Greater, Values: []any{int64(5)}}},
	} {
		filter := kmodquery.Filter{Conditions: conditions}
		require.Len(t, read(t, c.Store, filter), 2)
		n, err := c.Count(t.Context(), filter)
		require.NoError(t, err)
		require.EqualValues(t, 2, n)
		n = 0
		require.NoError(t, c.EventsBetween(t.Context(), 0, 100, filter, func(*kmodquery.Event) error { n++; return nil }))
		require.EqualValues(t, 2, n)
	}
}

// The rows of loads expire as events do, and are checked as they are.
func TestLoadsExpireAndAreVerified(t *testing.T) {
	c := openCloser(t)
	for n := range 5 {
		id := fmt.Sprint(n)
		c.add(t, fileRead(id, "x"), returned(id, "x", kmodquery.SourceEBPF, 0, ""))
		c.closed(t, 0)
		c.closed(t, otherSourcesTime)
	}
	c.options.MaxEvents = 4
	require.NoError(t, c.Expire(t.Context()))
	require.Equal(t, []string{"3 loaded ebpf", "4 loaded ebpf"}, c.rows(t))
	done, err := c.verifySlice(t.Context())
	require.NoError(t, err)
	require.True(t, done)
	require.Empty(t, c.Loss())
	_, err = c.writer.Exec("DELETE FROM events WHERE event_name = ?", kmodquery.EventLoadClosed)
	require.NoError(t, err)
	_, err = c.verifySlice(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, c.Loss())
}

// finished returns the events of loads that are over.
func finished(n int) []kmodquery.Event {
	var events []kmodquery.Event
	for n := range n {
		id := fmt.Sprint(n)
		events = append(events, fileRead(id, "x"), returned(id, "x", kmodquery.SourceEBPF, 0, ""))
	}
	return events
}

func TestALoadWithoutAnEndDelaysNoOther(t *testing.T) {
	c := openCloser(t)
	c.add(t, fileRead("hung", "x"), live("hung", "x"))
	require.Empty(t, c.closed(t, 0))
	c.add(t, finished(1200)...)
	require.Empty(t, c.closed(t, 0))
	require.Len(t, c.closed(t, otherSourcesTime), 1200)
	require.Len(t, c.loads.byKey, 1, "what is closed is not kept")
	require.Equal(t, c.loads.examined, c.state.LastEID-1200, "each event is examined once")

	c.restart(t) // the next recorder reads from the hung load on, and closes nothing twice
	require.Len(t, c.closed(t, 0), 1200)
	rows := c.closed(t, runningAfter)
	require.Len(t, rows, 1201)
	require.Equal(t, "hung running ebpf", rows[1200])
}

func TestTheLoadsThatAreRememberedAreBounded(t *testing.T) {
	c := openCloser(t)
	const most = 50
	c.mostLoads = most
	var events []kmodquery.Event
	for n := range most + 5 {
		events = append(events, fileRead(fmt.Sprint(n), "x"))
	}
	events = append(events, returned("0", "x", kmodquery.SourceEBPF, 0, ""))
	c.add(t, events...)
	require.Empty(t, c.closed(t, 0))
	require.Len(t, c.loads.byKey, most)
	require.Len(t, c.closed(t, runningAfter), most)
	require.Len(t, c.closed(t, runningAfter), most+5)
	require.Equal(t, "0 loaded ebpf", c.rows(t)[0], "an end that was not examined counts")
	require.Empty(t, c.loads.byKey)
}

// One attempt's events, and the rows of one transaction, have bounds in bytes.
func TestLargeEventsOfLoadsAreBounded(t *testing.T) {
	c := openCloser(t)
	large := strings.Repeat("x", maxBytesOfLoad/4)
	first := fileRead("a", "x")
	first.Cmdline = large
	events := []kmodquery.Event{first}
	for range 4 {
		e := returned("a", "x", kmodquery.SourceAudit, 0, "")
		e.Raw = large
		events = append(events, e)
	}
	c.add(t, append(events, returned("a", "x", kmodquery.SourceKmsg, 0, ""))...)
	c.closed(t, 0)
	require.Equal(t, []string{"a loaded ebpf,audit"}, c.closed(t, otherSourcesTime))
	for n := range 9 {
		e := fileRead(fmt.Sprint(n), "x")
		e.Cmdline = large
		c.add(t, e, returned(e.LoadID, "x", kmodquery.SourceEBPF, 0, ""))
	}
	c.closed(t, 0)
	c.now += otherSourcesTime
	more, err := c.closeDue(t.Context(), time.Time{})
	require.NoError(t, err)
	require.True(t, more)
	require.Len(t, c.loads.byKey, 9-maxClosingBytes/len(large))
	require.Len(t, c.closed(t, 0), 10)
}

// What happened later may be unknown to the other sources.
func TestASyncClosesOnlyWhatWasOverWhenItBegan(t *testing.T) {
	c := openCloser(t)
	before, after := returned("a", "x", kmodquery.SourceEBPF, 0, ""), returned("b", "y", kmodquery.SourceEBPF, 0, "")
	before.TimeNanos, after.TimeNanos = 1_700_000_005e9, 1_700_000_005e9+1
	c.add(t, fileRead("a", "x"), before, fileRead("b", "y"), after)
	require.NoError(t, c.CloseLoads(t.Context(), time.Unix(1_700_000_005, 0)))
	require.Equal(t, []string{"a loaded ebpf"}, c.rows(t))
	require.Equal(t, []string{"a loaded ebpf", "b loaded ebpf"}, c.closed(t, otherSourcesTime))
}

func TestARenamedModuleIsNoSecondLoad(t *testing.T) {
	c := openCloser(t)
	unseen := kmodquery.Event{EventName: kmodquery.EventModuleUnwitnessed, Source: kmodquery.SourceProcfs, LoadID: "u", Name: "u", ReportsLoad: new(int64(1))}
	renamed := unseen
	renamed.LoadID, renamed.ParentLoadID = "r", "a"
	c.add(t, fileRead("a", "x"), returned("a", "x", kmodquery.SourceEBPF, 0, ""), renamed, unseen)
	c.closed(t, 0)
	require.Equal(t, []string{"a loaded ebpf", "u loaded procfs"}, c.closed(t, runningAfter))
}

func TestManyLoadsAreClosedInSeveralSteps(t *testing.T) {
	c := openCloser(t)
	c.add(t, finished(maxLoadEvents/2+10)...)
	require.NoError(t, c.CloseLoads(t.Context(), time.Now()))
	require.Len(t, c.rows(t), maxLoadEvents/2+10)
}

func TestAReaderClosesNoLoads(t *testing.T) {
	c := openCloser(t)
	c.add(t, fileRead("a", "x"), returned("a", "x", kmodquery.SourceEBPF, 0, ""))
	reader := openIn(t, c.dir, Options{})
	require.NoError(t, reader.CloseLoads(t.Context(), time.Now()))
	require.Empty(t, c.rows(t))
}
