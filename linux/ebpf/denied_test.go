//go:build linux

package ebpf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

// deniedKind is the kind of denied init_module calls by a program with this
// inode, from a record as bpf/record.h lays it out.
func deniedKind(t *testing.T, inode uint64) bpf.DeniedCalls {
	t.Helper()
	const kind, callRecord = 48, 152
	raw := make([]byte, 1304)
	binary.NativeEndian.PutUint32(raw[kind:], uint32(bpf.SystemCall))
	binary.NativeEndian.PutUint64(raw[callRecord+24:], inode)
	binary.NativeEndian.PutUint32(raw[callRecord+32:], 1) // init_module
	binary.NativeEndian.PutUint32(raw[callRecord+48:], 1) // denied
	r, err := bpf.Decode(raw)
	require.NoError(t, err)
	require.Equal(t, bpf.InitModule, r.Call.Name)
	require.NotNil(t, r.Call.Denied)
	return *r.Call.Denied
}

// otherDenied are the calls that are counted by system call alone.
func otherDenied(t *testing.T, call string) bpf.DeniedCalls {
	t.Helper()
	number := slices.Index([]string{"", bpf.InitModule, bpf.FinitModule, bpf.DeleteModule}, call)
	c, err := bpf.ParseDeniedCount(fmt.Sprintf("%016x%016x%016x%08x%08x%08x%08x%016x", 0, 0, 0, 0, number, math.MaxUint32, math.MaxUint32, 0))
	require.NoError(t, err)
	require.True(t, c.IsOther())
	require.Equal(t, call, c.Call())
	return c.DeniedCalls
}

// fakeCounts count as the programs do.
type fakeCounts struct {
	calls  map[bpf.DeniedCalls]uint64
	since  map[bpf.DeniedCalls]time.Duration
	clock  time.Duration
	late   uint64 // calls that are made between DeniedCounts and ForgetDenied
	acked  []bpf.DeniedCount
	epochs int
	fails  string // the method that fails
}

var errCounts = errors.New("no counts")

func newFakeCounts() *fakeCounts {
	return &fakeCounts{calls: map[bpf.DeniedCalls]uint64{}, since: map[bpf.DeniedCalls]time.Duration{}}
}

func (f *fakeCounts) fail(method string) error {
	if f.fails == method {
		return errCounts
	}
	return nil
}

func (f *fakeCounts) DeniedCounts() (counts []bpf.DeniedCount, err error) {
	for kind, n := range f.calls {
		if f.since[kind] == 0 && !kind.IsOther() {
			f.clock++
			f.since[kind] = f.clock
		}
		counts = append(counts, bpf.DeniedCount{DeniedCalls: kind, Since: f.since[kind], Count: n})
	}
	slices.SortFunc(counts, func(a, b bpf.DeniedCount) int { return cmp.Compare(a.String(), b.String()) })
	return counts, f.fail("DeniedCounts")
}

func (f *fakeCounts) AckDenied(c bpf.DeniedCount) { f.acked = append(f.acked, c) }

func (f *fakeCounts) ForgetDenied(d bpf.DeniedCalls) (uint64, error) {
	if err := f.fail("ForgetDenied"); err != nil {
		return 0, err
	}
	count := f.calls[d] + f.late
	delete(f.calls, d)
	delete(f.since, d)
	f.late = 0
	return count, nil
}

func (f *fakeCounts) NextEpoch() { f.epochs++ }

// folded are denials with what they have emitted since the last report.
type folded struct {
	*denials
	counts   *fakeCounts
	events   []kmodquery.Event
	keys     []string // of all events
	stored   []string // of those that are stored
	total    int64    // calls that rows cover
	unstored bool     // no row is stored
	now      time.Time
}

func newFolded() *folded {
	f := &folded{counts: newFakeCounts(), now: start}
	f.restart()
	return f
}

// restart has another process go on with what is counted.
func (f *folded) restart() {
	f.denials = newDenials()
	f.begin(f.counts, f.stored, start)
}

// blankAt is the event without a process of a report.
var blankAt = kmodquery.Event{Time: 900, TimeNanos: 900_000, Uptime: new(int64(90)), BootID: "b0", Source: "ebpf", Count: new(int64(1))}

func (f *folded) report() error {
	f.events = nil
	f.now = f.now.Add(foldFor)
	emitted := len(f.keys)
	err := f.denials.report(f.now, time.Hour, blankAt, func(d kmodquery.Delivery) {
		f.keys = append(f.keys, d.Key)
		f.events = append(f.events, d.Event)
		f.total += *d.Event.Count
	})
	if !f.unstored {
		f.store(f.keys[emitted:]...)
	}
	return err
}

func (f *folded) store(keys ...string) {
	for _, key := range keys {
		f.stored = append(f.stored, key)
		f.ack(key)
	}
}

// deniedAt is the event of a denied call.
func deniedAt(nanos int64) kmodquery.Event {
	return kmodquery.Event{
		EventName: "init_module", Time: nanos / 1000, TimeNanos: nanos, Uptime: new(nanos), Pid: new(nanos), Count: new(int64(1)),
		Result: new(int64(-1)), Error: "EPERM",
	}
}

func counted(e kmodquery.Event, count int64) kmodquery.Event {
	e.Count = &count
	return e
}

// withoutCaller is the row of calls whose record was lost.
func withoutCaller(call, missing string, count int64) kmodquery.Event {
	e := counted(blankAt, count)
	e.EventName, e.Result, e.Error, e.Missing = call, new(int64(-1)), "EPERM", kmodquery.Columns(missing)
	return e
}

func TestDenialsAddUp(t *testing.T) {
	f := newFolded()
	kind := deniedKind(t, 1)
	require.Equal(t, start.Add(foldFor), f.due)
	require.NoError(t, f.report())
	require.Empty(t, f.events)
	require.Equal(t, f.now.Add(foldFor), f.due)
	require.Equal(t, 1, f.counts.epochs)

	f.add(kind, deniedAt(1))
	f.counts.calls[kind] = 3
	require.NoError(t, f.report())
	require.Equal(t, []kmodquery.Event{counted(deniedAt(1), 3)}, f.events)

	require.NoError(t, f.report())
	require.Empty(t, f.events, "there were no more")

	f.add(kind, deniedAt(2))
	f.add(kind, deniedAt(3))
	f.counts.calls[kind] = 500_000
	require.NoError(t, f.report())
	require.Equal(t, []kmodquery.Event{counted(deniedAt(2), 499_997)}, f.events, "the first since the last report stands for all")

	f.counts.calls[kind]++
	f.add(kind, deniedAt(4))
	require.NoError(t, f.report())
	require.Equal(t, []kmodquery.Event{counted(deniedAt(4), 1)}, f.events)
	require.EqualValues(t, 500_001, f.total)
	require.Equal(t, 5, f.counts.epochs)
}

func TestDenialsCountALateRecordOnce(t *testing.T) {
	f := newFolded()
	kind := deniedKind(t, 1)
	f.add(kind, deniedAt(1))
	f.counts.calls[kind] = 2
	require.NoError(t, f.report())
	f.add(kind, deniedAt(2))
	require.NoError(t, f.report())
	require.Empty(t, f.events)

	f.counts.calls[kind] = 3
	f.add(kind, deniedAt(3))
	require.NoError(t, f.report())
	require.Equal(t, []kmodquery.Event{counted(deniedAt(3), 1)}, f.events)
}

func TestDenialsWithoutARecordAreLikeTheLast(t *testing.T) {
	f := newFolded()
	kind := deniedKind(t, 1)
	f.add(kind, deniedAt(1))
	f.counts.calls[kind] = 1
	require.NoError(t, f.report())
	f.counts.calls[kind] = 8
	require.NoError(t, f.report())
	want := counted(deniedAt(1), 7)
	want.Time, want.TimeNanos, want.Uptime = blankAt.Time, blankAt.TimeNanos, blankAt.Uptime
	require.Equal(t, []kmodquery.Event{want}, f.events, "at the time of the report")
}

func TestDenialsOfWhichNoRecordCameNameTheUser(t *testing.T) {
	f := newFolded()
	kind := deniedKind(t, 1)
	f.counts.calls[kind] = 8
	// What was made after the last record that was read may have its record in the ring.
	f.counts.since[kind] = time.Hour + 1
	require.NoError(t, f.report())
	require.Empty(t, f.events)
	f.counts.since[kind] = time.Hour
	require.NoError(t, f.report())
	want := withoutCaller("init_module", "pid,process_path,cmdline,container_id", 8)
	want.UID, want.EUID = new(int64(0)), new(int64(0))
	require.Equal(t, []kmodquery.Event{want}, f.events)

	for range idleReports + 1 {
		require.NoError(t, f.report())
		require.Empty(t, f.events)
	}
	require.NotContains(t, f.counts.calls, kind, "there is room for others")
}

func TestDenialsOfSeveralKinds(t *testing.T) {
	f := newFolded()
	for i := range uint64(50) {
		kind := deniedKind(t, i)
		f.counts.calls[kind] = i + 1
		f.add(kind, deniedAt(int64(100-i)))
	}
	require.NoError(t, f.report())
	require.Len(t, f.events, 50)
	for i, e := range f.events {
		require.EqualValues(t, 51+i, e.TimeNanos, "in the order of time")
		require.EqualValues(t, 50-i, *e.Count)
	}
	require.EqualValues(t, 50*51/2, f.total)
}

func TestIdleDenialsAreForgotten(t *testing.T) {
	f := newFolded()
	idle, busy := deniedKind(t, 1), deniedKind(t, 2)
	for _, kind := range []bpf.DeniedCalls{idle, busy} {
		f.add(kind, deniedAt(1))
		f.counts.calls[kind] = 1
	}
	require.NoError(t, f.report())
	for i := range idleReports + 1 {
		require.Contains(t, f.kinds, idle, i)
		f.counts.calls[busy]++
		if i == idleReports {
			f.counts.late = 4
		}
		require.NoError(t, f.report())
	}
	require.NotContains(t, f.kinds, idle)
	require.NotContains(t, f.counts.calls, idle, "there is room for others")
	require.Contains(t, f.kinds, busy)
	require.Len(t, f.events, 2, "calls that were made meanwhile are not lost")
	require.EqualValues(t, 2+idleReports+1+4, f.total)

	// A new count begins, of which the stored keys of the former say nothing.
	f.counts.calls[idle] = 2
	f.add(idle, deniedAt(9))
	f.restart()
	f.add(idle, deniedAt(9))
	require.NoError(t, f.report())
	require.Equal(t, []kmodquery.Event{counted(deniedAt(9), 2)}, f.events)

	// So are those that an earlier process has reported.
	f.restart()
	for range idleReports + 1 {
		require.NoError(t, f.report())
		require.Empty(t, f.events)
	}
	require.Empty(t, f.kinds)
	require.Empty(t, f.counts.calls)
}

func TestDenialsAreKeptUntilTheirRowIsStored(t *testing.T) {
	f, kind := newFolded(), deniedKind(t, 1)
	f.unstored = true
	f.counts.calls[kind] = 7
	f.add(kind, deniedAt(1))
	for range 2 * idleReports {
		require.NoError(t, f.report())
	}
	require.Contains(t, f.counts.calls, kind)
	require.EqualValues(t, 7, f.total)
	f.store(f.keys[0])
	require.NoError(t, f.report())
	require.NotContains(t, f.counts.calls, kind)
	require.EqualValues(t, 7, f.total)
}

// The record was in the ring when the count of its kind was ended.
func TestDenialsIgnoreARecordWithoutACount(t *testing.T) {
	f := newFolded()
	kind := deniedKind(t, 1)
	f.add(kind, deniedAt(1))
	for range idleReports + 1 {
		require.NoError(t, f.report())
		require.Empty(t, f.events, "another row covers it")
	}
	require.Empty(t, f.kinds)
}

func TestDenialsThatFoundNoRoom(t *testing.T) {
	f := newFolded()
	load, loadFile, unload := otherDenied(t, "init_module"), otherDenied(t, "finit_module"), otherDenied(t, "delete_module")
	row := func(call string, count int64) kmodquery.Event {
		return withoutCaller(call, "pid,uid,process_path,cmdline,container_id", count)
	}
	f.counts.calls = map[bpf.DeniedCalls]uint64{load: 4, loadFile: 2}
	require.NoError(t, f.report())
	require.Equal(t, []kmodquery.Event{row("init_module", 4), row("finit_module", 2)}, f.events)
	for range idleReports + 1 {
		require.NoError(t, f.report())
		require.Empty(t, f.events)
	}
	f.counts.calls = map[bpf.DeniedCalls]uint64{load: 1004, loadFile: 2, unload: 1}
	require.NoError(t, f.report())
	require.Equal(t, []kmodquery.Event{row("init_module", 1000), row("delete_module", 1)}, f.events)
	require.EqualValues(t, 1007, f.total)
	require.True(t, f.events[0].IsUnprivileged(), "any user can cause it")

	// Those that are made while nothing records, after what is stored.
	f.counts.calls[load] += 10
	f.restart()
	require.NoError(t, f.report())
	require.Equal(t, []kmodquery.Event{row("init_module", 10)}, f.events)
}

// An error ends the source; a report after it, as at its end, loses nothing.
func TestDenialsWithoutCounts(t *testing.T) {
	for _, method := range []string{"DeniedCounts", "ForgetDenied"} {
		t.Run(method, func(t *testing.T) {
			f := newFolded()
			kind := deniedKind(t, 1)
			f.add(kind, deniedAt(1))
			f.counts.calls[kind] = 2
			f.counts.fails = method
			if method == "ForgetDenied" {
				for range idleReports + 1 {
					require.NoError(t, f.report())
				}
				f.counts.late = 7
			}
			require.ErrorIs(t, f.report(), errCounts)
			require.Equal(t, f.now.Add(foldFor), f.due, "it is not tried without a pause")
			f.counts.fails = ""
			require.NoError(t, f.report())
			require.EqualValues(t, 2+map[bool]int64{true: 7}[method == "ForgetDenied"], f.total)
		})
	}
}

func TestDenialsAreCountedOnAfterARestart(t *testing.T) {
	f, kind := newFolded(), deniedKind(t, 1)
	f.counts.calls[kind] = 5
	f.add(kind, deniedAt(1))
	require.NoError(t, f.report())
	require.Len(t, f.events, 1)
	f.stored = append(f.stored, keyOf(at(1)), "~00_1", "~zz", f.stored[0][:30], f.stored[0]+"00")

	f.counts.calls[kind] = 7
	f.restart()
	require.NoError(t, f.report())
	require.Len(t, f.events, 1)
	require.EqualValues(t, 2, *f.events[0].Count)
	require.Equal(t, "pid,process_path,cmdline,container_id", f.events[0].Missing.String())

	// One that is not stored is emitted again by the next process.
	f.unstored = true
	f.counts.calls[kind] = 8
	require.NoError(t, f.report())
	require.EqualValues(t, 8, f.total)
	f.restart()
	require.NoError(t, f.report())
	require.EqualValues(t, 9, f.total)
}

// The source runs again while its rows wait for a full disk.
func TestDenialsAreCountedOnInTheNextRun(t *testing.T) {
	f, kind := newFolded(), deniedKind(t, 1)
	f.unstored = true
	f.counts.calls[kind] = 5
	f.add(kind, deniedAt(1))
	require.NoError(t, f.report())
	f.end()
	f.store(f.keys[0]) // while no programs are open
	f.counts.calls[kind] = 7
	f.begin(f.counts, f.stored, start)
	require.NoError(t, f.report())
	require.EqualValues(t, 7, f.total)
}

// An older set of programs is kept until all that it counted is in stored rows.
func TestDenialsAckCounts(t *testing.T) {
	f, kind := newFolded(), deniedKind(t, 1).In(bpf.Position{Set: 9})
	f.unstored = true
	f.counts.calls[kind] = 5
	require.NoError(t, f.report())
	require.Empty(t, f.counts.acked)
	f.store(f.keys...)
	want := []bpf.DeniedCount{{DeniedCalls: kind, Since: 1, Count: 5}}
	require.Equal(t, want, f.counts.acked)

	f.counts.acked = nil
	f.restart()
	require.NoError(t, f.report())
	require.Empty(t, f.events)
	require.Contains(t, f.counts.acked, want[0], "it is stored already")
}

// emit waits while the queue is full, until something is stored.
func TestDenialsAreAckedWhileTheyAreEmitted(t *testing.T) {
	f := newFolded()
	for i := range uint64(2) {
		f.counts.calls[deniedKind(t, i)] = 1
	}
	require.NoError(t, f.denials.report(start, time.Hour, blankAt, func(d kmodquery.Delivery) { f.ack(d.Key) }))
	for _, known := range f.kinds {
		require.EqualValues(t, 1, known.acked)
	}
}

// Hooks that are attached again and again delay no report.
func TestAttachingHooksAgainDelaysNoReport(t *testing.T) {
	d := newDenials()
	d.begin(newFakeCounts(), nil, start)
	d.end()
	d.begin(newFakeCounts(), nil, start.Add(foldFor/2))
	require.Equal(t, start.Add(foldFor), d.due)
}
