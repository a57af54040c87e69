package main

import (
	"context"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/extension/shell"
	"github.com/kmodquery/kmodquery/extension/virtualtable"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// A testSocket is a reader socket that answers readers with one letter.
type testSocket struct {
	*readerSocket
	records atomic.Bool

	mu     sync.Mutex
	errors []string // that were reported
}

func newTestSocket(t *testing.T, stateDir string) *testSocket {
	t.Helper()
	p := &testSocket{}
	p.records.Store(true)
	p.readerSocket = openReaderSocket(stateDir, p.records.Load, func(err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.errors = append(p.errors, err.Error())
	}, func(listener net.Listener) {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("k"))
			conn.Close()
		}
	})
	t.Cleanup(p.close)
	return p
}

func (p *testSocket) reports() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.errors
}

// requireAnswer requires that a reader is answered within startPatience.
func requireAnswer(t *testing.T, stateDir string) {
	t.Helper()
	conn, err := dialRecorder(stateDir)(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "k", string(answer))
}

func TestReaderSocketIsCreatedAgain(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, recorderSocket)
	p := newTestSocket(t, dir)
	requireAnswer(t, dir)
	gone := path + " was removed; it is created again for readers of the event store"

	require.NoError(t, os.Remove(path))
	requireAnswer(t, dir)
	require.Equal(t, []string{gone}, p.reports())

	require.NoError(t, os.Remove(path))
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	requireAnswer(t, dir)
	require.Equal(t, []string{gone, gone}, p.reports())

	// Another process listens at the path.
	require.NoError(t, os.Remove(path))
	other, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer other.Close()
	others, err := os.Lstat(path)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		found, err := os.Lstat(path)
		return err == nil && !os.SameFile(found, others)
	}, 10*time.Second, 10*time.Millisecond)
	requireAnswer(t, dir)
	require.Equal(t, []string{gone, gone, gone}, p.reports())
}

func TestOnlyTheOwnerOpensTheReaderSocket(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	for _, dir := range []string{shortDir(t), filepath.Join(shortDir(t), strings.Repeat("long", 30))} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
		listener, err := listenForReaders(dir)
		require.NoError(t, err)
		defer listener.Close()
		info, err := os.Lstat(filepath.Join(dir, recorderSocket))
		require.NoError(t, err)
		require.Equal(t, "Srw-------", info.Mode().String())
	}
}

// A process that lost the store's lock does not create the socket again.
func TestReaderSocketIsLeftToTheNewRecorder(t *testing.T) {
	dir := shortDir(t)
	p := newTestSocket(t, dir)
	p.records.Store(false)
	require.NoError(t, os.Remove(filepath.Join(dir, recorderSocket)))
	require.Eventually(t, func() bool { return len(p.reports()) == 1 }, 10*time.Second, 10*time.Millisecond)
	time.Sleep(socketInterval + socketInterval/2)
	require.NoFileExists(t, filepath.Join(dir, recorderSocket))
	p.records.Store(true)
	requireAnswer(t, dir)
}

func TestReaderSocketInAFolderWithALongPath(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a short path to every open folder")
	}
	dir := filepath.Join(shortDir(t), strings.Repeat("long", 30), strings.Repeat("name", 30))
	require.NoError(t, os.MkdirAll(dir, 0o700))
	newTestSocket(t, dir)
	requireAnswer(t, dir)
	require.NoError(t, os.Remove(filepath.Join(dir, recorderSocket)))
	requireAnswer(t, dir)
}

func TestProcessRecordsWithoutAReaderSocket(t *testing.T) {
	c, err := parse(hostPlatform(), []string{"record", "--state-dir", shortDir(t), "--sources", "kmsg"})
	require.NoError(t, err)
	inTheWay := filepath.Join(c.stateDir, recorderSocket, "anything")
	require.NoError(t, os.MkdirAll(inTheWay, 0o700))
	var reports strings.Builder
	a, err := open(t.Context(), c, log.New(&reports, "", 0))
	require.NoError(t, err)
	status, err := a.store.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, kmodquery.RoleRecorder, status.Role)
	time.Sleep(2 * socketInterval) // it fails again, with the same error

	require.NoError(t, os.Remove(inTheWay))
	conn, err := dialRecorder(c.stateDir)(t.Context())
	require.NoError(t, err)
	conn.Close()
	require.NoError(t, a.Close())
	require.Equal(t, 1, strings.Count(reports.String(), "this process records, but others cannot read its latest events"), "%s", &reports)
}

// Only the recorder knows that its key cannot be kept.
func TestReadersShowWhatTheRecorderSaysOfTheStore(t *testing.T) {
	c, err := parse(hostPlatform(), []string{"record", "--state-dir", shortDir(t), "--sources", "kmsg"})
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(c.stateDir, "events.key", "x"), 0o700))

	a, err := open(t.Context(), c, log.New(io.Discard, "", 0))
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Close()) }()
	a.awaitStart(c, nil)
	reason := a.store.Loss()
	require.Contains(t, reason, "the key of the event store cannot be kept")
	var stdout, stderr strings.Builder
	args := []string{"query", "--state-dir", c.stateDir, "--sources", "kmsg", "--format", "csv", "SELECT DISTINCT role, store_reason FROM kernel_module_sensors"}
	require.Zero(t, run(t.Context(), c.platform, args, input(t, ""), &stdout, &stderr))
	require.Equal(t, "role,store_reason\nreader,\""+reason+"\"\n", stdout.String())
	require.Empty(t, stderr.String())
	require.Equal(t, reason, a.recorder.Sensors(t.Context())[0].StoreReason)
}

// A countingListener counts the readers that it accepts.
type countingListener struct {
	net.Listener
	accepted atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return conn, err
}

// eventsOnly is an inventory of the modules that the events show.
type eventsOnly struct{ recorder }

func (i eventsOnly) Modules(ctx context.Context) ([]kmodquery.Module, error) {
	return withEvents(ctx, i.recorder, nil)
}

func (eventsOnly) File(context.Context, kmodquery.Module) kmodquery.ModuleFile {
	return kmodquery.ModuleFile{}
}

// A reader asks the recorder once for each query of osquery, and once for each statement of
// the shell, however often SQLite calls its tables. A query with a cursor moves it, too.
func TestAReaderAsksTheRecorderOncePerQuery(t *testing.T) {
	dir := shortDir(t)
	store, err := sqlite.Open(t.Context(), dir, sqlite.Options{})
	require.NoError(t, err)
	var events []kmodquery.Delivery
	for _, id := range []string{"1", "2", "3"} {
		events = append(events, kmodquery.Delivery{Event: kmodquery.Event{
			Time: time.Now().Unix(), EventName: kmodquery.EventInitModule, Source: kmodquery.SourceEBPF, Name: "dummy", LoadID: id,
		}})
	}
	require.NoError(t, store.Append(t.Context(), events))
	r := collectors.NewRecorder(store, func(err error) { t.Error(err) }, collectors.Options{Cursors: store})
	r.Start(t.Context())
	socket, err := net.Listen("unix", filepath.Join(dir, recorderSocket))
	require.NoError(t, err)
	listener := &countingListener{Listener: socket}
	shared := make(chan struct{})
	go func() {
		defer close(shared)
		r.Share(listener)
	}()

	p := *hostPlatform()
	p.newInventory = func(r recorder) tables.Inventory { return eventsOnly{r} }
	c, err := parse(&p, []string{"query", "--state-dir", dir})
	require.NoError(t, err)
	a, err := open(t.Context(), c, log.New(io.Discard, "", 0))
	require.NoError(t, err)
	require.Nil(t, a.recorder, "it is a reader")
	db, err := virtualtable.Open(t.Context(), a.plugins...)
	require.NoError(t, err)
	for statement, want := range map[string]int64{
		"SELECT * FROM kernel_module_events":                                                                                            1,
		"SELECT count(*) FROM kernel_module_events":                                                                                     1,
		"SELECT * FROM kernel_module_findings":                                                                                          1,
		"SELECT * FROM kernel_module_sensors":                                                                                           1,
		"SELECT * FROM kernel_module_inventory":                                                                                         1,
		"SELECT eid FROM kernel_module_events WHERE cursor = 'ship'":                                                                    2,
		"SELECT f.reason, e.name FROM kernel_module_findings f JOIN kernel_module_events e USING (load_id)":                             1,
		"SELECT * FROM kernel_module_events WHERE load_id IN (SELECT load_id FROM kernel_module_findings)":                              1,
		"SELECT * FROM kernel_module_events; SELECT * FROM kernel_module_events":                                                        2,
		"SELECT * FROM kernel_module_events WHERE load_id = (SELECT load_id FROM kernel_module_events WHERE name = 'dummy' LIMIT 1)":    1,
		"SELECT (SELECT count(*) FROM kernel_module_events e WHERE e.name = s.source) FROM kernel_module_sensors s WHERE source = 'no'": 1,
	} {
		before := listener.accepted.Load()
		var rows strings.Builder
		require.NoError(t, shell.Query(t.Context(), db, &rows, shell.JSON, statement))
		require.Equal(t, want, listener.accepted.Load()-before, statement)
		if strings.Contains(statement, "cursor") {
			require.Equal(t, 3, strings.Count(rows.String(), "eid"), rows.String())
		}
	}
	// osquery does not say which calls belong to one statement.
	before := listener.accepted.Load()
	for range 2 {
		response := a.plugins[0].Call(t.Context(), map[string]string{"action": "generate", "context": "{}"})
		require.Len(t, response.Response, 3)
	}
	require.EqualValues(t, 2, listener.accepted.Load()-before)

	require.NoError(t, db.Close())
	require.NoError(t, a.Close())
	require.NoError(t, listener.Close())
	<-shared
	require.NoError(t, r.Close())
	require.NoError(t, store.Close())
}

// A recorder that was stopped accepts readers and does not answer them.
func TestACursorGivesTheHeldRowsWhileTheRecorderDoesNotAnswer(t *testing.T) {
	dir := shortDir(t)
	store, err := sqlite.Open(t.Context(), dir, sqlite.Options{})
	require.NoError(t, err)
	defer store.Close()
	event := kmodquery.Event{Time: time.Now().Unix(), EventName: kmodquery.EventInitModule, Name: "dummy"}
	require.NoError(t, store.Append(t.Context(), []kmodquery.Delivery{{Event: event}}))
	c, err := store.Cursor(t.Context(), "ship", kmodquery.NewCursorQuery("kernel_module_events", nil, nil))
	require.NoError(t, err)
	moved, err := store.Advance(t.Context(), c, c.Last, 1)
	require.NoError(t, err)
	require.True(t, moved)
	silent, err := net.Listen("unix", filepath.Join(dir, recorderSocket))
	require.NoError(t, err)
	defer silent.Close()

	reading, err := parse(hostPlatform(), []string{"query", "--state-dir", dir, "--query-timeout", "2s"})
	require.NoError(t, err)
	a, err := open(t.Context(), reading, log.New(io.Discard, "", 0))
	require.NoError(t, err)
	defer a.Close()
	db, err := virtualtable.Open(t.Context(), a.plugins...)
	require.NoError(t, err)
	defer db.Close()
	var rows strings.Builder
	require.NoError(t, shell.Query(t.Context(), db, &rows, shell.CSV, "SELECT eid FROM kernel_module_events WHERE cursor = 'ship'"))
	require.Equal(t, "eid\n1\n", rows.String())
}

// shortDir returns a folder whose path is short enough for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kmodquery")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
