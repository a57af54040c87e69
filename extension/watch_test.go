package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/collectors/crossview"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// A sentSource emits the events that a test sends it.
type sentSource struct {
	*source.Health
	events chan kmodquery.Event
}

func (s *sentSource) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error {
	s.Started([]string{"module_load"}, "", nil)
	ready()
	defer s.Stopped(nil)
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-s.events:
			emit(kmodquery.Delivery{Event: e})
		}
	}
}

func (s *sentSource) Sync(context.Context) error { return nil }

// watchSettings are those of a command line on a host whose only source is s.
func watchSettings(t *testing.T, s *sentSource, args ...string) *config {
	t.Helper()
	p := hostPlatform()
	p.hasModules = func() bool { return true }
	p.openViews = func() crossview.Views { return nil }
	p.sourceNames = []string{kmodquery.SourceEBPF}
	p.openSource = func(string, *config, *sqlite.Store) collectors.Source { return s }
	c, err := parse(p, append(args, "--interval", "1", "--retention-age", "0"))
	require.NoError(t, err)
	return c
}

// loadEvents are those of a load that eBPF sees.
func loadEvents(id, name string) []kmodquery.Event {
	read := kmodquery.Event{
		Time: 1_700_000_000, EventName: kmodquery.EventSecurityKernelReadFile, Source: kmodquery.SourceEBPF, Type: kmodquery.TypeKernelModule, BootID: "boot",
		LoadID: id, ReportsLoad: new(int64(1)), Name: name, Path: "/tmp/" + name + ".ko", Origin: kmodquery.OriginFile, SHA256: "aa", SignatureStatus: kmodquery.SignatureUnsigned,
		UID: new(int64(0)), Pid: new(int64(7)), ProcessName: "insmod", ProcessPath: "/usr/bin/kmod",
	}
	live, call := read, read
	live.EventName, live.ReportsLoad = kmodquery.EventModuleLoad, new(int64(0))
	call.EventName, call.ReportsLoad, call.Result = kmodquery.EventFinitModule, new(int64(0)), new(int64(0))
	return []kmodquery.Event{read, live, call}
}

// hidden is a finding that belongs to no load.
func hiddenEvent(name string) kmodquery.Event {
	return kmodquery.Event{Time: 1_700_000_001, EventName: kmodquery.EventModuleHidden, Source: kmodquery.SourceProcfs, BootID: "boot", Name: name, Reason: "two observations"}
}

// A lockedBuffer is a buffer for two goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func awaitLines(t *testing.T, out *lockedBuffer, count int) []string {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Count(out.String(), "\n") >= count }, 30*time.Second, 20*time.Millisecond, "%s", out)
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

func send(s *sentSource, events ...kmodquery.Event) {
	for _, e := range events {
		s.events <- e
	}
}

// The recorder ends and another one begins; so does the watch, which goes on at its position.
func TestWatchPrintsEachRowOnceWhicheverProcessRecords(t *testing.T) {
	dir := shortDir(t)
	position := filepath.Join(dir, "position")
	s := &sentSource{Health: source.New(kmodquery.SourceEBPF), events: make(chan kmodquery.Event)}
	out, report := &lockedBuffer{}, &reportLines{}
	recorder := watchSettings(t, s, "record", "--state-dir", dir)
	watching := watchSettings(t, s, "watch", "--no-record", "--position", position, "--state-dir", dir)
	startWatch := func() (func(), <-chan error) {
		return inBackground(t, func(ctx context.Context) error {
			return watch(ctx, watching, files{stdout: out, report: newReport(report)})
		})
	}
	startRecord := func() (func(), <-chan error) {
		return inBackground(t, func(ctx context.Context) error { return record(ctx, recorder, discard()) })
	}
	stopWatch, watchEnded := startWatch()
	stop, ended := startRecord()
	require.Eventually(t, func() bool { _, err := os.Stat(position); return err == nil }, 30*time.Second, 10*time.Millisecond, "it has a position before the first event")
	var want []string
	for round := range 3 {
		name := fmt.Sprint("round", round)
		send(s, loadEvents(name, name)...)
		send(s, hiddenEvent(name))
		want = append(want, name, name)
		got := awaitLines(t, out, len(want))
		require.Len(t, got, len(want), out)
		stop()
		require.NoError(t, <-ended)
		if round == 1 {
			stopWatch()
			require.NoError(t, <-watchEnded)
		}
		stop, ended = startRecord()
		if round == 1 {
			send(s, loadEvents("unwatched", "unwatched")...)
			stopWatch, watchEnded = startWatch()
			want = append(want, "unwatched")
		}
	}
	time.Sleep(2 * watchEvery) // for rows that are written again
	lines := awaitLines(t, out, len(want))
	require.Len(t, lines, len(want), out)
	var names []string
	for _, line := range lines {
		names = append(names, strings.Fields(line)[3])
	}
	require.ElementsMatch(t, want, names)
	stopWatch()
	require.NoError(t, <-watchEnded)
	stop()
	require.NoError(t, <-ended)
}

// printed returns what watch prints of stored events.
func printed(t *testing.T, count int, events []kmodquery.Event, args ...string) []string {
	t.Helper()
	dir := shortDir(t)
	store, err := sqlite.Open(t.Context(), dir, sqlite.Options{})
	require.NoError(t, err)
	var deliveries []kmodquery.Delivery
	for _, e := range events {
		deliveries = append(deliveries, kmodquery.Delivery{Event: e})
	}
	require.NoError(t, store.Append(t.Context(), deliveries))
	require.NoError(t, store.CloseLoads(t.Context(), time.Now()))
	require.NoError(t, store.Close())
	s := &sentSource{Health: source.New(kmodquery.SourceEBPF), events: make(chan kmodquery.Event)}
	c := watchSettings(t, s, append([]string{"watch", "--since", "36500d", "--state-dir", dir}, args...)...)
	out := &lockedBuffer{}
	stop, ended := inBackground(t, func(ctx context.Context) error { return watch(ctx, c, files{stdout: out, report: discard()}) })
	lines := awaitLines(t, out, count)
	stop()
	require.NoError(t, <-ended)
	require.Len(t, lines, count)
	return lines
}

func TestWatchPrintsOneReadableLineEach(t *testing.T) {
	events := append(loadEvents("1", "good"), hiddenEvent("bad"))
	require.Equal(t, []string{
		`2023-11-14T22:13:21Z critical module_hidden bad findings=KMQ-1005 reason="module_hidden: \"bad\" is hidden: two observations"`,
		`2023-11-14T22:13:20Z high     loaded      good from=/tmp/good.ko signature=unsigned user=0 by=/usr/bin/kmod pid=7 findings=KMQ-1001,KMQ-1002,TRC-1017`,
	}, printed(t, 2, events))
	require.Len(t, printed(t, 1, events, "--where", "severity >= 4 -- only the worst"), 1)
	lines := printed(t, 2, events, "--priority")
	require.Equal(t, []string{"<3>", "<3>"}, []string{lines[0][:3], lines[1][:3]})

	var row map[string]any
	require.NoError(t, json.Unmarshal([]byte(printed(t, 2, events, "--json")[1]), &row))
	require.Equal(t, "loaded", row["outcome"])
	require.EqualValues(t, 7, row["pid"])
	require.Nil(t, row["container_id"])
}

// The host controls names and paths.
func TestWatchShowsHostileNamesAsOneBoundedWord(t *testing.T) {
	name := "x\n2023-11-14T22:13:20Z critical loaded y signer=\x1b[2J\xff" + strings.Repeat("z", 1000)
	line := printed(t, 1, loadEvents("1", name))[0]
	require.NotContains(t, line, "\x1b")
	require.Contains(t, line, ` loaded      "x\\x0a2023-11-14T22:13:20Z critical loaded y signer=\\x1b[2J`)
	require.Contains(t, line, `…" from="/tmp/x`)
	require.Less(t, len(line), 1000)
}

func TestWatchBoundsWhatAnyUserCanCause(t *testing.T) {
	var events []kmodquery.Event
	for range maxUnprivilegedLines + 5 {
		events = append(events, kmodquery.Event{Time: 1_700_000_000, EventName: kmodquery.EventInitModule, Source: kmodquery.SourceEBPF, Result: new(int64(-1)), Error: "EPERM"})
	}
	lines := printed(t, maxUnprivilegedLines+1, events)
	require.Equal(t, "5 more rows that any user can cause are left out; the tables have them", lines[maxUnprivilegedLines])
}

// More rows than a page has come in the order of storage.
func TestWatchPrintsEveryPage(t *testing.T) {
	var events []kmodquery.Event
	for i := range maxPage + 100 {
		events = append(events, hiddenEvent(fmt.Sprint("m", i)))
	}
	lines := printed(t, len(events), events)
	for i, line := range lines {
		require.Contains(t, line, fmt.Sprintf(" m%d ", i))
	}
}

func TestWatchRefusesAMistake(t *testing.T) {
	s := &sentSource{Health: source.New(kmodquery.SourceEBPF)}
	for _, args := range [][]string{nil, {"--no-record"}} {
		dir := shortDir(t)
		storeEvent(t, dir)
		c := watchSettings(t, s, append([]string{"watch", "--where", "severty > 2", "--state-dir", dir}, args...)...)
		require.EqualError(t, watch(t.Context(), c, files{report: discard()}), "no such column: severty; did you mean severity?")
	}
	path := configFile(t, "eid 5")
	c := watchSettings(t, s, "watch", "--position", path)
	require.EqualError(t, watch(t.Context(), c, files{report: discard()}), path+" holds no position; remove it to begin with new events")
}

// The rows of a store that is gone are not those of the one that took its place.
func TestWatchBeginsAgainWithAnotherStore(t *testing.T) {
	path := configFile(t, `{"eid":1000}`)
	require.Len(t, printed(t, 1, []kmodquery.Event{hiddenEvent("bad")}, "--position", path), 1)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "{\"eid\":1}\n", string(content))
}

// A load whose attempt took long is over before its last finding.
func TestWatchPrintsFindingsThatFollowTheRowOfTheirLoad(t *testing.T) {
	dir := shortDir(t)
	store, err := sqlite.Open(t.Context(), dir, sqlite.Options{})
	require.NoError(t, err)
	defer store.Close()
	add := func(events ...kmodquery.Event) {
		for _, e := range events {
			require.NoError(t, store.Append(t.Context(), []kmodquery.Delivery{{Event: e}}))
		}
		require.NoError(t, store.CloseLoads(t.Context(), time.Now()))
	}
	add(loadEvents("1", "slow")...)
	page, err := nextPage(t.Context(), store, 0)
	require.NoError(t, err)
	require.EqualValues(t, 4, page.to)
	require.Empty(t, page.late)
	add(loadEvents("1", "slow")[2])
	for _, at := range []int64{0, 4} {
		page, err = nextPage(t.Context(), store, at)
		require.NoError(t, err)
		require.Equal(t, map[int64]bool{5: true}, page.late)
	}
}
