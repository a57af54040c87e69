package packs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/signatures"
	"github.com/kmodquery/kmodquery/tables/sqlite"
	"github.com/kmodquery/kmodquery/test/leak"
	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

// noon is a multiple of every interval of the packs.
var noon = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

// A recorder returns the sensors that a test sets. Its events are always stored.
type recorder struct {
	mu      sync.Mutex
	sensors []kmodquery.Sensor
}

func (r *recorder) Sync(context.Context) error { return nil }

func (r *recorder) Sensors(context.Context) []kmodquery.Sensor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sensors
}

func (r *recorder) set(sensors ...kmodquery.Sensor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sensors = sensors
}

// An extension is the real tables with a store on disk.
type extension struct {
	clock    *clock
	store    *sqlite.Store
	recorder *recorder
	requests *requests
	plugins  []osquery.OsqueryPlugin
}

// A clock is the time of an extension's store. It passes with that of the host.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

func (c *clock) get() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// advance lets d pass for the host and the store, minute by minute.
func (e *extension) advance(t *testing.T, host *osqueryhost.Host, d time.Duration) error {
	t.Helper()
	var errs []error
	for ; d > 0; d -= time.Minute {
		step := min(d, time.Minute)
		e.clock.set(e.clock.get().Add(step))
		errs = append(errs, host.Advance(t.Context(), step))
	}
	return errors.Join(errs...)
}

// replyBytes bounds a reply. It is smaller than the extension's bound.
const replyBytes = 1 << 20

func newExtension(t *testing.T, inventory ...tables.Inventory) *extension {
	t.Helper()
	leak.Check(t)
	now := &clock{now: noon}
	store, err := sqlite.Open(t.Context(), t.TempDir(), sqlite.Options{
		Now: now.get, Elapsed: func() time.Duration { return time.Hour + now.get().Sub(noon) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { store.Close() })
	e := &extension{clock: now, store: store, recorder: &recorder{}, requests: &requests{}}
	e.recorder.set(kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateActive})
	config := tables.Config{Store: store, Cursors: store, Recorder: e.recorder, Signatures: trc1017(t), Kernel: "6.1.0", ReplyBytes: replyBytes}
	if len(inventory) > 0 {
		config.Inventory = inventory[0]
	}
	for _, plugin := range tables.Plugins(config) {
		e.plugins = append(e.plugins, watched{plugin, e.requests})
	}
	return e
}

// trc1017 is the one signature of these tests: what they expect must not depend on how
// many there are.
func trc1017(t *testing.T) []kmodquery.Signature {
	t.Helper()
	one := slices.DeleteFunc(signatures.All(), func(s kmodquery.Signature) bool { return s.ID != "TRC-1017" })
	require.Len(t, one, 1)
	return one
}

// requests are the contexts of the generate calls, by table.
type requests struct {
	mu   sync.Mutex
	list map[string][]string
}

type watched struct {
	osquery.OsqueryPlugin
	requests *requests
}

func (w watched) Call(ctx context.Context, request gen.ExtensionPluginRequest) gen.ExtensionResponse {
	w.requests.mu.Lock()
	if w.requests.list == nil {
		w.requests.list = map[string][]string{}
	}
	w.requests.list[w.Name()] = append(w.requests.list[w.Name()], request["context"])
	w.requests.mu.Unlock()
	return w.OsqueryPlugin.Call(ctx, request)
}

// serve runs the extension until the returned function is called.
func (e *extension) serve(t *testing.T, host *osqueryhost.Host) (end func()) {
	t.Helper()
	server, err := osquery.NewExtensionManagerServer("kmodquery", host.Socket(), osquery.ServerTimeout(10*time.Second))
	require.NoError(t, err)
	server.RegisterPlugin(e.plugins...)
	go server.Start()
	for _, plugin := range e.plugins {
		require.NoError(t, host.WaitForTable(t.Context(), plugin.Name()))
	}
	return func() { require.NoError(t, server.Shutdown(context.Background())) }
}

// load stores the events of the eBPF source for one load by finit_module.
func (e *extension) load(t *testing.T, at time.Time, name string, result int64) {
	t.Helper()
	event := func(eventName string) kmodquery.Event {
		return kmodquery.Event{
			Time: at.Unix(), TimeNanos: at.UnixNano(), EventName: eventName, Source: kmodquery.SourceEBPF,
			LoadID: fmt.Sprintf("%s-%d", name, at.Unix()), Name: name, Path: "/tmp/" + name + ".ko", Origin: kmodquery.OriginFile,
		}
	}
	read := event(kmodquery.EventSecurityKernelReadFile)
	read.Type = kmodquery.TypeKernelModule
	load := event(kmodquery.EventModuleLoad)
	returned := event(kmodquery.EventFinitModule)
	returned.Result = &result
	if result == 0 {
		e.append(t, read, load, returned)
	} else {
		e.append(t, read, returned)
	}
}

func (e *extension) append(t *testing.T, events ...kmodquery.Event) {
	t.Helper()
	deliveries := make([]kmodquery.Delivery, len(events))
	for i := range events {
		deliveries[i].Event = events[i]
	}
	require.NoError(t, e.store.Append(t.Context(), deliveries))
}

func start(t *testing.T, dir string) *osqueryhost.Host { return startOn(t, "linux", dir) }

func startOn(t *testing.T, platform, dir string) *osqueryhost.Host {
	t.Helper()
	leak.Check(t)
	host, err := osqueryhost.Start(t.Context(), osqueryhost.Options{Dir: dir, Interval: -1, Platform: platform, HostIdentifier: "host"})
	require.NoError(t, err)
	t.Cleanup(func() { host.Close() })
	return host
}

// lines returns the results of one query of the pack: the action and a column.
func lines(t *testing.T, host *osqueryhost.Host, query, column string) (lines []string) {
	t.Helper()
	results, err := host.ResultsLog()
	require.NoError(t, err)
	for _, result := range results {
		if result.Name == "pack_kernel-modules_"+query {
			lines = append(lines, result.Action+" "+result.Columns[column])
		}
	}
	return lines
}

// Every query runs on the real tables, which have all of its columns.
func TestQueriesMatchTheTables(t *testing.T) {
	host := start(t, t.TempDir())
	defer newExtension(t).serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	for name, query := range readPack(t).Queries {
		_, err := host.Query(t.Context(), query.Query)
		require.NoError(t, err, name)
	}
}

// The cursor and the separation of what any user can cause reach the tables, so that a call
// reads no more than it gives.
func TestCursorsArePushedDown(t *testing.T) {
	host := start(t, t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	for name, query := range readPack(t).Queries {
		if removed(query) {
			continue
		}
		e.requests.list = nil
		_, err := host.Query(t.Context(), query.Query)
		require.NoError(t, err)
		require.Len(t, e.requests.list, 1, name)
		for _, requests := range e.requests.list {
			for _, request := range requests {
				require.JSONEq(t, `{"op":2,"expr":"`+name+`"}`, constraint(t, request, "cursor"), name)
				require.Contains(t, []string{`{"op":2,"expr":"0"}`, `{"op":2,"expr":"1"}`}, constraint(t, request, "unprivileged"), name)
			}
		}
	}
}

// constraint returns the only constraint on a column in a request's context.
func constraint(t *testing.T, request, column string) string {
	t.Helper()
	var asked struct {
		Constraints []struct {
			Name string
			List json.RawMessage
		}
	}
	require.NoError(t, json.Unmarshal([]byte(request), &asked))
	for _, c := range asked.Constraints {
		var list []json.RawMessage
		if c.Name == column && json.Unmarshal(c.List, &list) == nil && len(list) == 1 {
			return string(list[0])
		}
	}
	return ""
}

// Each finding, load and unload is shipped once in fifty intervals, with a restart of the
// extension and one of osquery, and in the two days after them.
func TestEachRowIsShippedOnce(t *testing.T) {
	dir, e := t.TempDir(), newExtension(t)
	host := start(t, dir)
	end := e.serve(t, host)
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))

	e.load(t, noon, "early", 0)
	require.NoError(t, e.advance(t, host, 10*time.Minute))
	e.load(t, noon.Add(10*time.Minute), "refused", -22)
	zero := int64(0)
	e.append(t, kmodquery.Event{
		Time: noon.Add(15 * time.Minute).Unix(), EventName: kmodquery.EventDeleteModule, Source: kmodquery.SourceEBPF,
		Name: "early", Result: &zero,
	})
	require.NoError(t, e.advance(t, host, 10*time.Minute))

	end()
	e.load(t, noon.Add(20*time.Minute), "meanwhile", 0)
	require.Error(t, e.advance(t, host, 5*time.Minute), "the tables are gone")
	end = e.serve(t, host)
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	end()
	require.NoError(t, host.Close())

	e.load(t, noon.Add(30*time.Minute), "between hosts", 0)
	host = start(t, dir)
	end = e.serve(t, host)
	defer end()
	e.clock.set(noon.Add(35 * time.Minute))
	require.NoError(t, host.Tick(t.Context(), e.clock.get()))
	host.Schedule(t.Context(), readPack(t))
	require.NoError(t, e.advance(t, host, 15*time.Minute))
	for day := range 2 {
		e.clock.set(noon.Add(time.Duration(day+1) * 24 * time.Hour))
		require.NoError(t, host.Tick(t.Context(), e.clock.get()))
	}

	all := []string{"added early", "added refused", "added meanwhile", "added between hosts"}
	require.Equal(t, all, lines(t, host, "kernel_module_findings", "name"))
	require.Equal(t, []string{"added early", "added meanwhile", "added between hosts"}, lines(t, host, "kernel_module_loaded", "name"))
	require.Equal(t, []string{"added refused"}, lines(t, host, "kernel_module_attempts", "name"))
	require.Equal(t, []string{"added early"}, lines(t, host, "kernel_module_unloads", "name"))
	require.Empty(t, lines(t, host, "kernel_module_sensor_health", "source"))
}

// On macOS the queries for Linux do not run, and those for both do.
func TestKernelExtensionsAreShippedOnce(t *testing.T) {
	host := startOn(t, "darwin", t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	kext := func(eventName, source string) kmodquery.Event {
		return kmodquery.Event{Time: noon.Unix(), EventName: eventName, Source: source, Name: "com.example.driver", LoadID: "1"}
	}
	e.append(t,
		kext(kmodquery.EventKextload, kmodquery.SourceEndpointSecurity),
		kext(kmodquery.EventKextAllowed, kmodquery.SourceUnifiedLog),
		kext(kmodquery.EventKextload, kmodquery.SourceUnifiedLog),
		kext(kmodquery.EventKextunload, kmodquery.SourceUnifiedLog),
	)
	require.NoError(t, e.advance(t, host, time.Hour))
	require.ElementsMatch(t, []string{"added kextload", "added kext_allowed", "added kextload"}, lines(t, host, "kernel_module_kexts", "event_name"))
	require.ElementsMatch(t, []string{"added endpoint_security", "added unified_log"}, lines(t, host, "kernel_module_findings", "source"))
	require.Equal(t, []string{"added com.example.driver"}, lines(t, host, "kernel_module_kext_unloads", "name"))
	require.Empty(t, lines(t, host, "kernel_module_loaded", "name"))
}

// What Apple's sealed collections hold is loaded at each boot. No name makes a load one of
// these.
func TestBootLoadsOfSealedCollectionsAreLeftOut(t *testing.T) {
	host := startOn(t, "darwin", t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	var want []string
	for _, load := range []struct {
		name, collection string
		boot, root       *int64
		isShipped        bool
	}{
		{"com.apple.boot", "boot", new(int64(1)), new(int64(1)), false},
		{"com.apple.system", "system", new(int64(1)), new(int64(1)), false},
		{"com.apple.auxiliary", "auxiliary", new(int64(1)), new(int64(1)), true},
		{"com.apple.unknown", "unknown", new(int64(1)), new(int64(1)), true},
		{"com.apple.later", "boot", new(int64(0)), new(int64(1)), true},
		{"com.apple.unsealed", "boot", new(int64(1)), new(int64(0)), true},
		{"com.apple.undetermined", "boot", new(int64(1)), nil, true},
		{"com.apple.old", "", nil, nil, true},
	} {
		e.append(t, kmodquery.Event{
			Time: noon.Unix(), EventName: kmodquery.EventKextload, Source: kmodquery.SourceUnifiedLog, Name: load.name,
			Collection: load.collection, BootLoad: load.boot, AuthenticatedRoot: load.root,
		})
		if load.isShipped {
			want = append(want, "added "+load.name)
		}
	}
	require.NoError(t, e.advance(t, host, 10*time.Minute))
	require.ElementsMatch(t, want, lines(t, host, "kernel_module_kexts", "name"))
	require.ElementsMatch(t, want, lines(t, host, "kernel_module_findings", "name"))
}

// Any user can have any number of kernel extensions refused: they are shipped, and delay
// only each other.
func TestRefusedKernelExtensionsAreShippedApart(t *testing.T) {
	host := startOn(t, "darwin", t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	kext := func(eventName, name, failure string) kmodquery.Event {
		return kmodquery.Event{
			Time: noon.Unix(), EventName: eventName, Source: kmodquery.SourceUnifiedLog, Name: name, Error: failure, Missing: "sha256",
		}
	}
	var refused []kmodquery.Event
	var want []string
	for n := range 1000 {
		name := fmt.Sprint("com.example.refused", n)
		refused = append(refused, kext(kmodquery.EventKextBlocked, name, "blocked by the system policy"), kext(kmodquery.EventKextload, name, "not approved to load"))
		want = append(want, "added "+name)
	}
	e.append(t, refused...)
	e.append(t, kext(kmodquery.EventKextload, "com.example.loaded", ""))
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	require.Equal(t, []string{"added com.example.loaded"}, lines(t, host, "kernel_module_kexts", "name"))
	require.Equal(t, []string{"added com.example.loaded"}, lines(t, host, "kernel_module_findings", "name"))
	require.NoError(t, e.advance(t, host, 40*time.Minute))
	require.ElementsMatch(t, want, lines(t, host, "kernel_module_kext_refusal_findings", "name"))
	require.ElementsMatch(t, append(want, want...), lines(t, host, "kernel_module_kext_refusals", "name"))
}

// A flood of denied calls is shipped once, in as many runs as it takes.
func TestDeniedCallsAreShippedOnce(t *testing.T) {
	host := start(t, t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	denied := make([]kmodquery.Event, 3000)
	for i := range denied {
		denied[i] = kmodquery.Event{
			Time: noon.Unix(), EventName: kmodquery.EventInitModule, Source: kmodquery.SourceEBPF, ProcessPath: fmt.Sprint("/bin/", i),
			Result: new(int64(-1)), Error: "EPERM", Origin: kmodquery.OriginMemory,
		}
	}
	e.append(t, denied...)
	require.NoError(t, e.advance(t, host, 45*time.Minute))
	shipped := lines(t, host, "kernel_module_denied", "process_path")
	require.Len(t, shipped, 3000)
	slices.Sort(shipped)
	require.Len(t, slices.Compact(shipped), 3000)
}

// A storm of loads delays loads, and neither hidden modules nor unloads.
func TestAStormOfLoadsDelaysNoHiddenModule(t *testing.T) {
	host := start(t, t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	require.NoError(t, e.advance(t, host, time.Minute))
	storm := make([]kmodquery.Event, 9000)
	for i := range storm {
		storm[i] = kmodquery.Event{
			Time: noon.Unix(), EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF, Name: fmt.Sprint("storm", i),
		}
	}
	e.append(t, storm...)
	e.append(t,
		kmodquery.Event{Time: noon.Unix(), EventName: kmodquery.EventModuleHidden, Source: kmodquery.SourceProcfs, Name: "rootkit"},
		kmodquery.Event{Time: noon.Unix(), EventName: kmodquery.EventDeleteModule, Source: kmodquery.SourceEBPF, Name: "edr"})
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	require.Equal(t, []string{"added rootkit"}, lines(t, host, "kernel_module_discrepancies", "name"))
	require.Equal(t, []string{"added edr"}, lines(t, host, "kernel_module_unloads", "name"))
}

// What is stored long after it happened is shipped as well: a full disk, or a recorder that
// was down while its hooks stayed pinned.
func TestARowThatIsStoredLateIsShipped(t *testing.T) {
	host := start(t, t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	require.NoError(t, e.advance(t, host, time.Hour))
	e.load(t, noon.Add(-3*24*time.Hour), "late", 0)
	require.NoError(t, e.advance(t, host, time.Hour))
	require.Equal(t, []string{"added late"}, lines(t, host, "kernel_module_findings", "name"))
}

// A query that was lost, another one of the same SQL and a second pack cost nothing.
func TestLostAndFurtherQueriesLoseNoRow(t *testing.T) {
	pack := readPack(t)
	host := start(t, t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), pack)
	e.load(t, noon, "one", 0)
	for range 10 { // osquery runs the query and loses its result
		_, err := host.Query(t.Context(), pack.Queries["kernel_module_findings"].Query)
		require.NoError(t, err)
	}
	second := pack
	second.Name = "second"
	host.Schedule(t.Context(), second)
	require.NoError(t, e.advance(t, host, time.Hour))
	require.Equal(t, []string{"added one"}, lines(t, host, "kernel_module_findings", "name"))
	results, err := host.ResultsLog()
	require.NoError(t, err)
	inSecond := 0
	for _, result := range results {
		if result.Name == "pack_second_kernel_module_findings" {
			inSecond++
		}
	}
	require.Equal(t, 1, inSecond)
}

// osqueryd often loads its packs before the extension has registered, and then caches the
// negative discovery for an hour.
func TestNoRowIsLostIfTheExtensionRegistersLate(t *testing.T) {
	host := start(t, t.TempDir())
	e := newExtension(t)
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	defer e.serve(t, host)()
	e.load(t, noon.Add(time.Second), "early", 0)
	require.NoError(t, e.advance(t, host, 59*time.Minute))
	require.Empty(t, lines(t, host, "kernel_module_findings", "name"))
	require.NoError(t, e.advance(t, host, time.Minute))
	require.Equal(t, []string{"added early"}, lines(t, host, "kernel_module_findings", "name"))
}

func TestSensorHealthShipsChangesOnly(t *testing.T) {
	host := start(t, t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	health := func() []string { return lines(t, host, "kernel_module_sensor_health", "has_lost") }

	sensor := kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateActive, Received: 7}
	e.recorder.set(sensor, kmodquery.Sensor{Source: "audit", State: kmodquery.StateStandby})
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	require.Empty(t, health())

	for sensor.Lost = range int64(4) {
		e.recorder.set(sensor)
		require.NoError(t, e.advance(t, host, 5*time.Minute))
	}
	require.Equal(t, []string{"added 1"}, health(), "losses that grow are one line")

	sensor.State, sensor.Lost = kmodquery.StateFailed, 0
	e.recorder.set(sensor)
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	require.Equal(t, []string{"added 1", "removed 1", "added 0"}, health())

	sensor.State = kmodquery.StateActive
	e.recorder.set(sensor)
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	require.Equal(t, []string{"added 1", "removed 1", "added 0", "removed 0"}, health())
}

// A reader does not know of batches that could not be written, and reports the recorder's
// state of the store.
func TestSensorHealthReportsAStoreThatAcceptsNoEvents(t *testing.T) {
	host := start(t, t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	sensor := kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateActive}
	for n := range 3 {
		sensor.StoreReason = fmt.Sprintf("store: disk full; %d events wait in memory", n)
		e.recorder.set(sensor)
		require.NoError(t, e.advance(t, host, 5*time.Minute))
	}
	trouble := func() []string { return lines(t, host, "kernel_module_sensor_health", "has_store_trouble") }
	require.Equal(t, []string{"added 1"}, trouble(), "more that waits is no other trouble")
	sensor.StoreReason, sensor.Shed = "", 5
	e.recorder.set(sensor)
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	require.Equal(t, []string{"added 1", "removed 1", "added 0"}, trouble())
	require.Equal(t, "added 1", lines(t, host, "kernel_module_sensor_health", "has_shed")[2])
}

// An unavailable log is a problem only if no other source watches.
func TestSensorHealthOfLogs(t *testing.T) {
	host := start(t, t.TempDir())
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	health := func() []string { return lines(t, host, "kernel_module_sensor_health", "source") }

	ebpf := kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateActive}
	audit := kmodquery.Sensor{Source: kmodquery.SourceAudit, State: kmodquery.StateStandby}
	journal := kmodquery.Sensor{Source: kmodquery.SourceJournal, State: kmodquery.StateUnavailable}
	views := kmodquery.Sensor{Source: kmodquery.SourceProcfs, State: kmodquery.StateActive}
	e.recorder.set(ebpf, audit, journal, views)
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	require.Empty(t, health())

	ebpf.State, audit.State = kmodquery.StateUnavailable, kmodquery.StateActive
	e.recorder.set(ebpf, audit, journal, views)
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	require.Equal(t, []string{"added ebpf"}, health())

	audit.State = kmodquery.StateUnavailable
	e.recorder.set(ebpf, audit, journal, views)
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	require.ElementsMatch(t, []string{"added ebpf", "added audit", "added journal"}, health())
}
