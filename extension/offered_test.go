package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/collectors/crossview"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/tables/sqlite"
	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

// A slowSource stores an event of the past once it is released, and then watches.
type slowSource struct {
	*source.Health
	release chan struct{}
	began   chan struct{} // closed when Run is called
}

func newSlowSource() *slowSource {
	return &slowSource{source.New(kmodquery.SourceEBPF), make(chan struct{}), make(chan struct{})}
}

func (s *slowSource) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error {
	close(s.began)
	select {
	case <-s.release:
	case <-ctx.Done():
		return nil
	}
	emit(kmodquery.Delivery{Event: kmodquery.Event{Time: 2, EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF, Name: "waited"}})
	s.Started([]string{"module_load"}, "", nil)
	ready()
	<-ctx.Done()
	s.Stopped(nil)
	return nil
}

func (s *slowSource) Sync(context.Context) error { return nil }

// slowSettings are those of an extension whose only source is slow.
func slowSettings(t *testing.T, host *osqueryhost.Host, s *slowSource, settings ...string) *config {
	t.Helper()
	p := hostPlatform()
	p.hasModules = func() bool { return true }
	p.openViews = func() crossview.Views { return nil }
	p.sourceNames = []string{kmodquery.SourceEBPF}
	p.openSource = func(string, *config, *sqlite.Store) collectors.Source { return s }
	c, err := parse(p, append([]string{"--socket", host.Socket(), "--interval", "1", "--retention-age", "0", "--state-dir", t.TempDir()}, settings...))
	require.NoError(t, err)
	return c
}

// storeEvent stores one event as an earlier recorder.
func storeEvent(t *testing.T, stateDir string) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), stateDir, sqlite.Options{})
	require.NoError(t, err)
	require.NoError(t, store.Append(t.Context(), []kmodquery.Delivery{{Event: kmodquery.Event{Time: 1, EventName: kmodquery.EventModuleLoad, Name: "stored"}}}))
	require.NoError(t, store.Close())
}

// awaitClosed waits until a channel is closed.
func awaitClosed(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		require.Fail(t, "it does not happen")
	}
}

func TestTablesAnswerFromTheStoreWhileTheSourcesStart(t *testing.T) {
	host, s := startHost(t), newSlowSource()
	c := slowSettings(t, host, s, "--query-timeout", "2s")
	storeEvent(t, c.stateDir)
	report, lines := reporting()
	stop, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, report) })
	awaitClosed(t, s.began)
	require.Len(t, host.Extensions(), 1, "the tables are registered before a source starts")
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_events"))

	const sql = "SELECT group_concat(name, ' ') AS names FROM (SELECT name FROM kernel_module_events ORDER BY eid)"
	rows, err := host.Query(t.Context(), sql)
	require.NoError(t, err)
	require.Equal(t, []map[string]string{{"names": "stored"}}, rows)
	rows, err = host.Query(t.Context(), "SELECT role, state, reason FROM kernel_module_sensors")
	require.NoError(t, err)
	require.Equal(t, []map[string]string{{"role": "recorder", "state": "standby", "reason": "it is starting; queries wait for it, and then answer from the store"}}, rows)

	// A query that waits gets what the source stores at its start.
	c.queryTimeout = time.Hour
	answered := make(chan error, 1)
	go func() {
		var err error
		rows, err = host.Query(t.Context(), sql)
		answered <- err
	}()
	close(s.release)
	require.NoError(t, <-answered)
	await(t, host, sql, map[string]string{"names": "stored waited"})
	await(t, host, "SELECT state, reason FROM kernel_module_sensors", map[string]string{"state": "active", "reason": ""})
	stop()
	require.NoError(t, <-ended)
	require.Empty(t, host.Extensions())
	require.Equal(t, []string{""}, lines.lines())
}

// lockStore holds the lock of a store without creating one, so that its opening waits.
func lockStore(t *testing.T, stateDir string) (unlock func()) {
	t.Helper()
	lock, err := os.OpenFile(filepath.Join(stateDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	require.NoError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	t.Cleanup(func() { lock.Close() })
	return func() { require.NoError(t, lock.Close()) }
}

func TestTablesAreRegisteredBeforeTheStoreIsOpen(t *testing.T) {
	host, s := startHost(t), newSlowSource()
	close(s.release)
	c := slowSettings(t, host, s, "--query-timeout", "500ms")
	unlock := lockStore(t, c.stateDir)
	report, lines := reporting()
	stop, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, report) })
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_events"))
	_, err := host.Query(t.Context(), "SELECT * FROM kernel_module_sensors")
	require.ErrorContains(t, err, "error generating table: the event store is not open yet; ask again, and see the output of kmodquery if it stays so")

	unlock()
	awaitClosed(t, s.began)
	await(t, host, "SELECT role, state FROM kernel_module_sensors", map[string]string{"role": "recorder", "state": "active"})
	stop()
	require.NoError(t, <-ended)
	require.Equal(t, []string{""}, lines.lines())
}

// osqueryi ends its extensions as soon as its one statement is over.
func TestAStopWhileTheStoreOpensIsNoError(t *testing.T) {
	host := startHost(t)
	c := slowSettings(t, host, newSlowSource())
	lockStore(t, c.stateDir)
	report, lines := reporting()
	stop, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, report) })
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_events"))
	stop()
	require.NoError(t, <-ended)
	require.Empty(t, host.Extensions())

	_, ended = inBackground(t, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		return record(ctx, c, report)
	})
	require.NoError(t, <-ended)
	require.Equal(t, []string{""}, lines.lines())
}

// A call that waits for the store does not hold up the end.
func TestCallsEndWithTheExtension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		o := newOfferedTables(ctx, &config{queryTimeout: time.Minute})
		var message string
		go func() {
			message = o.plugins[0].Call(t.Context(), map[string]string{"action": "generate", "context": "{}"}).Status.Message
		}()
		time.Sleep(time.Minute - time.Second)
		stop()
		synctest.Wait()
		require.Equal(t, "error generating table: kmodquery is ending", message)
	})
}

func TestAStoreThatCannotBeOpenedEndsTheExtension(t *testing.T) {
	host := startHost(t)
	c := slowSettings(t, host, newSlowSource())
	require.NoError(t, os.WriteFile(filepath.Join(c.stateDir, "events.db"), []byte(strings.Repeat("no database ", 100)), 0o600))
	report, lines := reporting()
	require.ErrorContains(t, serve(t.Context(), c, report), "events.db is no SQLite database; move it away or choose another state folder")
	require.Empty(t, host.Extensions(), "it is deregistered")
	require.Equal(t, []string{""}, lines.lines())
}

// A second extension of the same osquery says at once what to do, and takes over.
func TestASecondExtensionOfAnOsqueryWaits(t *testing.T) {
	host := startHost(t)
	c := settings(t, host)
	stopFirst, firstEnded := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, discard()) })
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
	extensions := host.Extensions()

	report, lines := reporting()
	stop, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, report) })
	const line = "another process serves these tables to this osquery: use that one, or end it (SELECT * FROM osquery_extensions; extensions.load may name it); waiting until it ends"
	require.Eventually(t, func() bool { return lines.lines()[0] == line }, time.Minute, 10*time.Millisecond)
	require.Equal(t, extensions, host.Extensions())

	stopFirst()
	require.NoError(t, <-firstEnded)
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_sensors"))
	await(t, host, "SELECT DISTINCT role FROM kernel_module_sensors", map[string]string{"role": "recorder"})
	stop()
	require.NoError(t, <-ended)
	require.Equal(t, 1, strings.Count(strings.Join(lines.lines(), "\n"), line), "it is reported once")
}

// osqueryi reads what osqueryd's extension records, and keeps its tables when it takes
// over.
func TestAReaderStaysRegisteredWhenItTakesOver(t *testing.T) {
	osqueryd, osqueryi := startHost(t), startHost(t)
	recording := slowSettings(t, osqueryd, newSlowSource())
	stopRecorder, recorderEnded := inBackground(t, func(ctx context.Context) error { return serve(ctx, recording, discard()) })
	require.NoError(t, osqueryd.WaitForTable(t.Context(), "kernel_module_sensors"))
	await(t, osqueryd, "SELECT role FROM kernel_module_sensors", map[string]string{"role": "recorder"})

	s := newSlowSource()
	close(s.release)
	reading := slowSettings(t, osqueryi, s)
	reading.stateDir = recording.stateDir
	report, lines := reporting()
	stop, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, reading, report) })
	require.NoError(t, osqueryi.WaitForTable(t.Context(), "kernel_module_sensors"))
	await(t, osqueryi, "SELECT role, reason LIKE 'it is starting%' AS is_starting FROM kernel_module_sensors", map[string]string{"role": "reader", "is_starting": "1"})
	extensions := osqueryi.Extensions()

	stopRecorder()
	require.NoError(t, <-recorderEnded)
	await(t, osqueryi, "SELECT role, state FROM kernel_module_sensors", map[string]string{"role": "recorder", "state": "active"})
	require.Equal(t, extensions, osqueryi.Extensions())
	stop()
	require.NoError(t, <-ended)
	require.Equal(t, []string{"the process that recorded has ended; taking over"}, lines.lines())
}

// An idle extension, of which nobody asks anything, keeps its place as the recorder.
func TestServeCreatesARemovedFolderAgain(t *testing.T) {
	host, s := startHost(t), newSlowSource()
	close(s.release)
	c := slowSettings(t, host, s, "--state-dir", filepath.Join(t.TempDir(), "state"))
	stop, ended := inBackground(t, func(ctx context.Context) error { return serve(ctx, c, discard()) })
	require.NoError(t, host.WaitForTable(t.Context(), "kernel_module_events"))
	await(t, host, "SELECT name FROM kernel_module_events", map[string]string{"name": "waited"})
	require.NoError(t, os.RemoveAll(c.stateDir))
	require.Eventually(t, func() bool {
		free, err := sqlite.IsFree(c.stateDir)
		return err == nil && !free
	}, time.Minute, 20*time.Millisecond)
	stop()
	require.NoError(t, awaitEnd(t, ended))
}

// A countingKeeper counts what the cursors are told.
type countingKeeper struct {
	cursorKeeper
	told atomic.Int64
}

func (k *countingKeeper) registered() { k.told.Add(1) }

func TestCursorsAreToldOfEachRegistrationOnce(t *testing.T) {
	o := newOfferedTables(t.Context(), &config{queryTimeout: time.Minute})
	first, second := &countingKeeper{}, &countingKeeper{}
	o.accepted()
	end := o.use(&app{cursors: first})
	require.EqualValues(t, 1, first.told.Load(), "the tables were registered before the store was open")
	o.accepted()
	require.EqualValues(t, 2, first.told.Load())
	end()
	o.use(&app{cursors: second})()
	require.Zero(t, second.told.Load(), "osquery keeps the tables while this process takes over")
}
