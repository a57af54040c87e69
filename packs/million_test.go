package packs_test

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
	"github.com/kmodquery/kmodquery/test/leak"
	"github.com/kmodquery/kmodquery/test/osqueryhost"
	"github.com/kmodquery/kmodquery/test/suite"
)

// replyMemory is the most that a reply may cost osquery's worker, and the extension.
const replyMemory = 60_000_000

// A scale is how much TestAMillionEventsAreShippedOnce does.
type scale struct {
	history int           // events that are stored before it begins
	storm   int           // loads in the storm, each with three events
	flood   int           // denied calls meanwhile
	burst   int           // loads before each restart
	phase   time.Duration // of the eight phases in which queries run at their intervals
	slow    time.Duration // of the seven phases in which they run at ten times those
}

var (
	// A day and a week.
	whole = scale{history: 1_000_000, storm: 4_000, flood: 20_000, burst: 100, phase: 3 * time.Hour, slow: 24 * time.Hour}
	// Not much more than one page of a cursor.
	part = scale{history: 21_000, storm: 600, flood: 600, burst: 20, phase: 30 * time.Minute, slow: 2 * time.Hour}
)

// The real pack runs against the real tables and a store of a million events, through a
// storm of loads with a flood of denied calls, sleeps, and restarts of the recorder and of
// osqueryd, with its database and without it.
//
// What the budget buys: make test-all builds the million and runs a day of all queries at
// their intervals and a week at ten times those, within three minutes on two processors
// that have nothing else to do. The other suites take 21,000 events through the same
// phases, which are shorter, in some seconds. The history is copied in SQL, without
// checksums, as if an earlier version had stored it: Store.Append would take two minutes
// more. Its last hours and all later events pass through the recorder.
func TestAMillionEventsAreShippedOnce(t *testing.T) {
	leak.Check(t)
	s := part
	if suite.All() && !testing.Short() {
		s = whole
	}
	start := time.Now()
	m := newMillion(t, s)
	t.Logf("%v: the store has %d events", time.Since(start), s.history)
	m.startRecorder(t)
	m.load(t, s.burst, s.burst/10) // a new cursor begins a day back
	m.pass(20 * time.Hour)
	m.startOsquery(t)

	// A storm of loads, and meanwhile a flood of denied calls.
	const minutes = 10
	for range minutes {
		m.load(t, s.storm/minutes, s.storm/minutes/10)
		m.deny(t, s.flood/minutes)
		m.run(t, time.Minute)
	}
	m.unload(t)
	m.hide(t)
	m.measureReplies(t)
	m.run(t, s.phase-minutes*time.Minute)

	// The recorder restarts. What happens meanwhile waits in the kernel.
	m.endExtension()
	m.endRecorder(t)
	m.load(t, s.burst, s.burst/10)
	m.pass(10 * time.Minute)
	m.startRecorder(t)
	m.startExtension(t)
	m.run(t, s.phase)

	// osqueryd restarts.
	m.load(t, s.burst, s.burst/10)
	m.run(t, 2*time.Minute)
	m.restartOsquery(t)
	m.run(t, s.phase)

	// osqueryd is killed, and the next one runs discovery before the extension has
	// registered: its packs are silent for an hour.
	m.load(t, s.burst, s.burst/10)
	m.run(t, time.Minute)
	m.killOsquery(t)
	m.startHost(t)
	m.host.Schedule(t.Context(), m.pack)
	m.startExtension(t)
	m.hide(t)
	m.run(t, max(s.phase, 70*time.Minute))

	// osqueryd loses its database while the cursors hold rows.
	m.load(t, s.burst, s.burst/10)
	m.deny(t, s.burst)
	m.run(t, 5*time.Minute)
	m.endOsquery(t)
	m.resetDatabase(t)
	m.startOsquery(t)
	m.run(t, s.phase)

	// The host sleeps for a weekend. An event of before is stored afterwards.
	m.load(t, s.burst, s.burst/10)
	m.run(t, time.Minute)
	m.sleep(60 * time.Hour)
	m.loadAt(t, m.clock.get().Add(-70*time.Hour), 10, 1)
	m.unload(t)
	m.run(t, s.phase)

	// Both restart at once, and the host sleeps in between.
	m.load(t, s.burst, s.burst/10)
	m.run(t, time.Minute)
	m.endOsquery(t)
	m.endRecorder(t)
	m.load(t, s.burst/2, s.burst/10)
	m.sleep(9 * time.Hour)
	m.startRecorder(t)
	m.startOsquery(t)
	m.run(t, 2*s.phase)

	// The queries run at ten times their intervals.
	m.endOsquery(t)
	for name, query := range m.pack.Queries {
		*query.Interval *= 10
		m.pack.Queries[name] = query
	}
	m.startOsquery(t)
	for day := range 7 {
		m.load(t, 2*s.burst, s.burst/10)
		m.deny(t, s.burst)
		m.unload(t)
		m.hide(t)
		m.run(t, s.slow/3)
		m.load(t, s.burst/2, s.burst/10)
		m.run(t, 10*time.Minute)
		switch day {
		case 0:
			m.endExtension()
			m.endRecorder(t)
			m.load(t, s.burst/2, s.burst/10)
			m.pass(time.Hour)
			m.startRecorder(t)
			m.startExtension(t)
		case 1:
			m.restartOsquery(t)
		case 2:
			m.sleep(48 * time.Hour)
		case 3:
			m.endOsquery(t)
			m.resetDatabase(t)
			m.startOsquery(t)
		case 4:
			m.killOsquery(t)
			m.startOsquery(t)
		case 5:
			m.restartOsquery(t)
			m.sleep(12 * time.Hour)
		}
		m.run(t, s.slow-s.slow/3-10*time.Minute)
	}
	m.endOsquery(t)

	require.LessOrEqual(t, m.peak, int64(replyMemory), "600 bytes times the cells that osquery held")
	status, err := m.store.Status(t.Context())
	require.NoError(t, err)
	require.Zero(t, status.Skipped, "events that expired before they were shipped")
	if s == whole {
		require.Greater(t, status.Rows, int64(s.history), "as many as are kept")
	}
	m.checkShipped(t)
	m.endRecorder(t)
	t.Logf("%v in all; osquery's worker held at most %d bytes", time.Since(start), m.peak)
	for _, name := range slices.Sorted(maps.Keys(m.calls.slowest)) {
		t.Logf("slowest call of %s: %v", name, m.calls.slowest[name])
	}
}

// A million is an extension with a recorder and a source, and the osqueryd that asks it.
// Each of them can restart.
type million struct {
	*extension
	stateDir, osqueryDir string
	slept                time.Duration
	source               *pinned
	recording            *collectors.Recorder
	server               *osquery.ExtensionManagerServer
	host                 *osqueryhost.Host
	generation           uint64 // of osquery's database
	pack                 osqueryhost.Pack
	calls                *calls
	peak                 int64
	n                    int                        // events made
	made                 map[string]map[string]bool // keys of the rows that must be shipped, by kind
}

func newMillion(t *testing.T, s scale) *million {
	t.Helper()
	m := &million{
		extension: &extension{clock: &clock{now: noon.Add(-46 * time.Hour)}},
		stateDir:  t.TempDir(), osqueryDir: t.TempDir(), source: &pinned{}, pack: readPack(t),
		calls: &calls{slowest: map[string]time.Duration{}, request: map[string]gen.ExtensionPluginRequest{}},
		made:  map[string]map[string]bool{},
	}
	m.open(t)
	load := m.attempt(m.clock.get(), "history", false)
	m.append(t, load...)
	require.NoError(t, m.store.Close())
	copyEvents(t, filepath.Join(m.stateDir, "events.db"), s.history)
	m.clock.set(noon.Add(-20 * time.Hour))
	return m
}

// copyEvents copies the events of one load until the store has n, spread over the sixty
// days before it. The copies have no checksums.
func copyEvents(t *testing.T, path string, n int) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=cache_size(-262144)&_pragma=synchronous(OFF)")
	require.NoError(t, err)
	defer db.Close()
	var columns []string
	rows, err := db.QueryContext(t.Context(), "SELECT name FROM pragma_table_info('events')")
	require.NoError(t, err)
	for rows.Next() {
		var name string
		require.NoError(t, rows.Scan(&name))
		columns = append(columns, name)
	}
	require.NoError(t, errors.Join(rows.Err(), rows.Close()))
	values := slices.Clone(columns)
	for i, column := range columns {
		switch column {
		case "eid":
			values[i] = "eid + k * 3"
		case "time", "stored_time":
			values[i] = fmt.Sprintf("time - 60 * 86400 + k * (60 * 86400 * 3) / %d", n)
		case "time_nanos":
			values[i] = fmt.Sprintf("(time - 60 * 86400 + k * (60 * 86400 * 3) / %d) * 1000000000", n)
		case "load_id":
			values[i] = "load_id || k"
		case "name":
			values[i] = "name || k % 200"
		case "sums", "mac":
			values[i] = "NULL"
		}
	}
	var drop, create []string // the indexes are built afterwards, which is faster
	rows, err = db.QueryContext(t.Context(), "SELECT 'DROP INDEX ' || name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'events' AND sql <> ''")
	require.NoError(t, err)
	for rows.Next() {
		drop, create = append(drop, ""), append(create, "")
		require.NoError(t, rows.Scan(&drop[len(drop)-1], &create[len(create)-1]))
	}
	require.NoError(t, errors.Join(rows.Err(), rows.Close()))
	for _, statement := range slices.Concat([]string{"PRAGMA journal_mode = OFF"}, drop, []string{
		fmt.Sprintf(`INSERT INTO events (%s) WITH RECURSIVE copies(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM copies WHERE k < %d)
			SELECT %s FROM copies CROSS JOIN (SELECT * FROM events)`, strings.Join(columns, ", "), n/3-1, strings.Join(values, ", ")),
		"UPDATE unsummed SET eid = (SELECT max(eid) FROM events)",
		"UPDATE totals SET state = '', mac = x''", // they begin as after an upgrade
	}, create) {
		_, err = db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	lock := filepath.Join(filepath.Dir(path), "lock")
	state, err := os.ReadFile(lock)
	require.NoError(t, err)
	begun := []byte(`"begun":true`)
	require.Contains(t, string(state), string(begun))
	require.NoError(t, os.WriteFile(lock, bytes.Replace(state, begun, []byte(`"begun":false`), 1), 0o600))
}

// open opens the store.
func (m *million) open(t *testing.T) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), m.stateDir, sqlite.Options{
		MaxAge: sqlite.DefaultMaxAge, MaxEvents: sqlite.DefaultMaxEvents, MaxUnprivileged: sqlite.DefaultMaxUnprivileged,
		Now:     m.clock.get,
		Elapsed: func() time.Duration { return 1000*time.Hour + m.clock.get().Sub(noon) - m.slept },
		Report:  func(err error) { t.Error(err) },
	})
	require.NoError(t, err)
	m.store = store
}

// startRecorder starts a recorder and creates its tables.
func (m *million) startRecorder(t *testing.T) {
	t.Helper()
	m.open(t)
	m.recording = collectors.NewRecorder(m.store, func(err error) { t.Error(err) }, collectors.Options{Sources: []collectors.Source{m.source}})
	m.recording.Start(t.Context())
	m.plugins = nil
	for _, plugin := range tables.Plugins(tables.Config{
		Store: m.store, Cursors: m.store, Recorder: m.recording, Signatures: trc1017(t), Kernel: "6.1.0", Autostart: &autostart{},
		Worker: func() int64 { return 200 << 20 * 3 / 10 }, // as the extension bounds it under osquery's watchdog
	}) {
		m.plugins = append(m.plugins, timed{plugin, m})
	}
}

func (m *million) endRecorder(t *testing.T) {
	t.Helper()
	require.NoError(t, m.recording.Close())
	require.NoError(t, m.store.Close())
}

// startExtension registers the tables.
func (m *million) startExtension(t *testing.T) {
	t.Helper()
	server, err := osquery.NewExtensionManagerServer("kmodquery", m.host.Socket(), osquery.ServerTimeout(10*time.Second),
		osquery.WithTransportFactory(thrift.NewTBufferedTransportFactory(64<<10))) // as the extension does
	require.NoError(t, err)
	server.RegisterPlugin(m.plugins...)
	m.store.Registered("")
	go server.Start()
	for _, plugin := range m.plugins {
		require.NoError(t, m.host.WaitForTable(t.Context(), plugin.Name()))
	}
	m.server = server
}

// endExtension ends it. An osqueryd that was killed does not respond.
func (m *million) endExtension() { _ = m.server.Shutdown(context.Background()) }

func (m *million) startHost(t *testing.T) {
	t.Helper()
	host, err := osqueryhost.Start(t.Context(), osqueryhost.Options{
		Dir: m.osqueryDir, Interval: -1, Platform: "linux", HostIdentifier: "host", Epoch: m.generation,
		Flags: map[string]string{"disable_watchdog": "false"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { host.Close() })
	require.NoError(t, host.Tick(t.Context(), m.clock.get()))
	m.host = host
}

// startOsquery starts osqueryd and the extension, and then loads the pack.
func (m *million) startOsquery(t *testing.T) {
	t.Helper()
	m.startHost(t)
	m.startExtension(t)
	m.host.Schedule(t.Context(), m.pack)
}

func (m *million) endOsquery(t *testing.T) {
	t.Helper()
	m.endExtension()
	require.NoError(t, m.host.Close())
	m.checkWatchdog(t)
}

func (m *million) killOsquery(t *testing.T) {
	t.Helper()
	require.NoError(t, m.host.Vanish())
	m.endExtension()
	m.checkWatchdog(t)
	m.pass(5 * time.Minute)
}

func (m *million) restartOsquery(t *testing.T) {
	t.Helper()
	m.endOsquery(t)
	m.pass(5 * time.Minute)
	m.startOsquery(t)
}

// resetDatabase deletes osquery's database. The lines of the next one have its number.
func (m *million) resetDatabase(t *testing.T) {
	t.Helper()
	require.NoError(t, os.RemoveAll(filepath.Join(m.osqueryDir, "osquery.db")))
	m.generation++
}

func (m *million) checkWatchdog(t *testing.T) {
	t.Helper()
	report := m.host.Watchdog()
	require.Empty(t, report.Kills)
	m.peak = max(m.peak, report.Peak)
}

// run lets time pass while osquery runs its schedule.
func (m *million) run(t *testing.T, d time.Duration) {
	t.Helper()
	require.NoError(t, m.host.Tick(t.Context(), m.clock.get()))
	require.NoError(t, m.advance(t, m.host, d))
}

// pass lets time pass while osquery or the recorder is down.
func (m *million) pass(d time.Duration) { m.clock.set(m.clock.get().Add(d)) }

// sleep lets time pass in which nothing runs, and which the monotonic clock leaves out.
func (m *million) sleep(d time.Duration) {
	m.slept += d
	m.pass(d)
}

// A pinned source keeps what happens while no recorder runs, as pinned hooks do.
type pinned struct {
	mu      sync.Mutex
	emit    func(kmodquery.Delivery) // nil while no recorder runs
	waiting []kmodquery.Event
}

func (p *pinned) happen(events ...kmodquery.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = append(p.waiting, events...)
	p.flush()
}

func (p *pinned) flush() {
	for p.emit != nil && len(p.waiting) > 0 {
		p.emit(kmodquery.Delivery{Event: p.waiting[0]})
		p.waiting = p.waiting[1:]
	}
}

func (p *pinned) set(emit func(kmodquery.Delivery)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.emit = emit
	p.flush()
}

func (p *pinned) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error {
	ready()
	p.set(emit)
	<-ctx.Done()
	p.set(nil)
	return nil
}

func (p *pinned) Name() string                { return kmodquery.SourceEBPF }
func (p *pinned) Sync(context.Context) error  { p.mu.Lock(); defer p.mu.Unlock(); return nil }
func (p *pinned) LastRound() (none time.Time) { return none }
func (p *pinned) Sensor() kmodquery.Sensor {
	return kmodquery.Sensor{Source: p.Name(), State: kmodquery.StateActive}
}

// The kinds of rows that the pack ships, by a part of the query that ships them.
const (
	kindFindings = "FROM kernel_module_findings"
	kindAttempts = "FROM kernel_module_loads"
	kindLoads    = "event_name = 'module_load'"
	kindRefused  = "+result < 0"
	kindDenied   = "unprivileged = 1"
	kindUnloads  = "event_name = 'delete_module'"
	kindHidden   = "source = 'procfs'"
)

// make notes that a row of some kinds must be shipped.
func (m *million) make(key string, kinds ...string) {
	for _, kind := range kinds {
		if m.made[kind] == nil {
			m.made[kind] = map[string]bool{}
		}
		m.made[kind][key] = true
	}
}

// next returns a new identifier.
func (m *million) next(prefix string) string {
	m.n++
	return fmt.Sprintf("%s-%d", prefix, m.n)
}

// attempt returns the events of the eBPF source for one finit_module.
func (m *million) attempt(at time.Time, id string, fails bool) []kmodquery.Event {
	pid, result := int64(1000+m.n), int64(0)
	event := func(eventName string) kmodquery.Event {
		return kmodquery.Event{
			Time: at.Unix(), TimeNanos: at.UnixNano(), EventName: eventName, Source: kmodquery.SourceEBPF, LoadID: id, Name: id,
			Path: "/lib/modules/6.1.0/kernel/drivers/net/" + id + ".ko", Type: kmodquery.TypeKernelModule, Origin: kmodquery.OriginFile,
			SHA256: strings.Repeat("0f", 32), SignatureStatus: "valid", Signer: "Debian Secure Boot CA", Pid: &pid,
			ProcessName: "modprobe", ProcessPath: "/usr/bin/kmod", Cmdline: "modprobe " + id, UID: new(int64(0)), EUID: new(int64(0)),
		}
	}
	read, load, returned := event(kmodquery.EventSecurityKernelReadFile), event(kmodquery.EventModuleLoad), event(kmodquery.EventFinitModule)
	returned.Result = &result
	if fails {
		result, returned.Error = -22, "EINVAL"
		return []kmodquery.Event{read, returned}
	}
	return []kmodquery.Event{read, load, returned}
}

// load makes loads now, of which some fail.
func (m *million) load(t *testing.T, n, fail int) {
	t.Helper()
	m.loadAt(t, m.clock.get(), n, fail)
}

func (m *million) loadAt(t *testing.T, at time.Time, n, fail int) {
	t.Helper()
	for i := range n {
		id := m.next("load")
		if m.make(id, kindFindings, kindAttempts); i < fail {
			m.make(id, kindRefused)
		} else {
			m.make(id, kindLoads)
		}
		m.source.happen(m.attempt(at, id, i < fail)...)
	}
}

// deny makes denied calls, each by another program.
func (m *million) deny(t *testing.T, n int) {
	t.Helper()
	now := m.clock.get()
	for range n {
		path := m.next("/home/user/a path of some length/program")
		m.make(path, kindDenied)
		m.source.happen(kmodquery.Event{
			Time: now.Unix(), TimeNanos: now.UnixNano(), EventName: kmodquery.EventInitModule, Source: kmodquery.SourceEBPF, ProcessPath: path,
			Origin: kmodquery.OriginMemory, Result: new(int64(-1)), Error: "EPERM", UID: new(int64(1000)), EUID: new(int64(1000)), Count: new(int64(7)),
		})
	}
}

func (m *million) unload(t *testing.T) {
	t.Helper()
	name, now := m.next("unload"), m.clock.get()
	m.make(name, kindUnloads)
	m.source.happen(kmodquery.Event{
		Time: now.Unix(), TimeNanos: now.UnixNano(), EventName: kmodquery.EventDeleteModule, Source: kmodquery.SourceEBPF, Name: name, Result: new(int64(0)),
	})
}

func (m *million) hide(t *testing.T) {
	t.Helper()
	id, now := m.next("hidden"), m.clock.get()
	m.make(id, kindHidden)
	m.source.happen(kmodquery.Event{
		Time: now.Unix(), TimeNanos: now.UnixNano(), EventName: kmodquery.EventModuleHidden, Source: kmodquery.SourceProcfs, Name: id, LoadID: id,
	})
}

// checkShipped checks that each row was shipped, once for each database of osquery. A row
// is shipped to a second database only if it was held when the first was lost.
func (m *million) checkShipped(t *testing.T) {
	t.Helper()
	results, err := m.host.ResultsLog()
	require.NoError(t, err)
	type line struct {
		query, key string
		generation uint64
	}
	times := map[line]int{}
	for _, result := range results {
		key := cmp.Or(result.Columns["load_id"], result.Columns["name"], result.Columns["process_path"])
		times[line{result.Name, key, result.Epoch}]++
	}
	checked := map[string]bool{}
	for name, query := range m.pack.Queries {
		if query.Platform == "darwin" {
			continue
		}
		var shipped, again int
		var twice, missing []string
		want := map[string]bool{}
		for kind, made := range m.made {
			if strings.Contains(query.Query, kind) {
				want, checked[kind] = made, true
			}
		}
		for key := range want {
			n := 0
			for generation := range m.generation + 1 {
				of := line{"pack_kernel-modules_" + name, key, generation}
				if n += times[of]; times[of] > 1 {
					twice = append(twice, key)
				}
				delete(times, of)
			}
			switch {
			case n == 0:
				missing = append(missing, key)
			case n > 1:
				again++
			}
			shipped += n
		}
		require.Empty(t, missing, name)
		require.Empty(t, twice, name)
		require.LessOrEqual(t, again, 2000*int(m.generation), "%s: more than a cursor holds", name)
		t.Logf("%s: %d lines, of which %d after a database was lost", name, shipped, again)
	}
	require.Empty(t, times, "lines that nothing caused")
	require.Len(t, checked, len(m.made))
}

// calls are the calls of the tables, by the query that made them.
type calls struct {
	mu      sync.Mutex
	slowest map[string]time.Duration
	request map[string]gen.ExtensionPluginRequest // the last one
}

// timed notes the calls of a plugin.
type timed struct {
	osquery.OsqueryPlugin
	m *million
}

func (c timed) Call(ctx context.Context, request gen.ExtensionPluginRequest) gen.ExtensionResponse {
	start := time.Now()
	response := c.OsqueryPlugin.Call(ctx, request)
	name := c.Name()
	for query := range c.m.pack.Queries {
		if strings.Contains(request["context"], `"expr":"`+query+`"`) {
			name = query
		}
	}
	calls := c.m.calls
	calls.mu.Lock()
	defer calls.mu.Unlock()
	calls.slowest[name] = max(calls.slowest[name], time.Since(start))
	calls.request[name] = request
	return response
}

// measureReplies checks the memory that the extension needs for the reply to the last
// request of each query: all that it allocates meanwhile, whether or not that is still in
// use. The pages that SQLite keeps are not of one reply. It returns what it measured.
func (m *million) measureReplies(t *testing.T) map[string]uint64 {
	t.Helper()
	measured := map[string]uint64{}
	for name, request := range maps.Clone(m.calls.request) {
		for _, plugin := range m.plugins {
			if request["action"] != "generate" || !strings.Contains(m.pack.Queries[name].Query, "FROM "+plugin.Name()) {
				continue
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			response := plugin.Call(t.Context(), request)
			runtime.ReadMemStats(&after)
			require.Zero(t, response.Status.Code, response.Status.Message)
			measured[name] = after.TotalAlloc - before.TotalAlloc
			require.Less(t, measured[name], uint64(replyMemory), name)
			t.Logf("%s: a reply of %d rows allocates %d bytes", name, len(response.Response), measured[name])
		}
	}
	return measured
}

// Text of the greatest length, of which each byte is shown as four, costs neither the
// extension nor osquery's worker more.
func TestRepliesOfLongTextAreBounded(t *testing.T) {
	leak.Check(t)
	m := newMillion(t, scale{history: 6})
	m.clock.set(noon)
	m.startRecorder(t)
	m.startOsquery(t)
	unprintable := strings.Repeat("\xff", 4096)
	for range 200 {
		id := m.next("long")
		events := m.attempt(noon, id, false)
		for i := range events {
			events[i].Path, events[i].Cmdline, events[i].ProcessPath, events[i].Params = unprintable, unprintable, unprintable, new(unprintable[:1024])
		}
		m.source.happen(events...)
	}
	m.deny(t, 2000)
	m.run(t, 14*time.Minute)
	measured := m.measureReplies(t)
	require.Len(t, measured, 9)
	_, err := m.host.Query(t.Context(), "SELECT * FROM kernel_module_events")
	require.ErrorContains(t, err, "more than 60 MiB of osquery's worker")
	m.endOsquery(t)
	require.Less(t, m.peak, int64(replyMemory))
	m.endRecorder(t)
}
