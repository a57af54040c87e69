//go:build linux

package ebpf

import (
	"encoding/binary"
	"errors"
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
	const kind, callRecord = 48, 136
	raw := make([]byte, 1288)
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

// fakeCounts count as the programs do.
type fakeCounts struct {
	calls    map[bpf.DeniedCalls]uint64
	reported map[bpf.DeniedCalls]uint64
	late     uint64 // calls that are made between CountDenied and ForgetDenied
	epochs   int
	period   string
	// inherited is how many calls of each kind were reported of another period, in
	// which the others were counted first.
	inherited map[string]uint64
	fails     string // the method that fails
}

var errCounts = errors.New("no counts")

func newFakeCounts() *fakeCounts {
	return &fakeCounts{calls: map[bpf.DeniedCalls]uint64{}, reported: map[bpf.DeniedCalls]uint64{}}
}

func (f *fakeCounts) fail(method string) error {
	if f.fails == method {
		return errCounts
	}
	return nil
}

func (f *fakeCounts) CountDenied(d bpf.DeniedCalls) (uint64, error) {
	if err := f.fail("CountDenied"); err != nil {
		return 0, err
	}
	return f.calls[d], nil
}

func (f *fakeCounts) ForgetDenied(d bpf.DeniedCalls) (uint64, error) {
	if err := f.fail("ForgetDenied"); err != nil {
		return 0, err
	}
	count := f.calls[d] + f.late
	delete(f.calls, d)
	delete(f.reported, d)
	f.late = 0
	f.period += "+"
	return count, nil
}

func (f *fakeCounts) DeniedKinds() ([]bpf.DeniedCalls, error) {
	kinds := bpf.OtherDeniedCalls()
	for kind := range f.calls {
		if !kind.IsOther() {
			kinds = append(kinds, kind)
		}
	}
	return kinds, f.fail("DeniedKinds")
}

func (f *fakeCounts) Reported(d bpf.DeniedCalls) (uint64, error) {
	return f.reported[d], f.fail("Reported")
}

func (f *fakeCounts) Period() string { return f.period }

func (f *fakeCounts) CountOf(r bpf.ReportedCalls) (uint64, bool) {
	return r.Count - min(r.Count, f.inherited[r.Period]), r.Period == f.period || f.inherited[r.Period] > 0
}

func (f *fakeCounts) SetReported(r bpf.ReportedCalls) error {
	if count, ok := f.CountOf(r); ok {
		f.reported[r.DeniedCalls] = max(f.reported[r.DeniedCalls], count)
	}
	return f.fail("SetReported")
}

func (f *fakeCounts) NextEpoch() error {
	if err := f.fail("NextEpoch"); err != nil {
		return err
	}
	f.epochs++
	return nil
}

// folded are denials with what they have emitted since the last report.
type folded struct {
	*denials
	counts   *fakeCounts
	events   []kmodquery.Event
	receipts []string // of all events
	total    int64    // calls that rows stand for
	unsafe   bool     // no row is stored
	now      time.Time
}

func newFolded() *folded {
	counts := newFakeCounts()
	return &folded{denials: newDenials(counts, start), counts: counts, now: start}
}

// blankAt is the event without a process of a report.
var blankAt = kmodquery.Event{Time: 900, TimeNanos: 900_000, Uptime: new(int64(90)), BootID: "b0", Source: "ebpf", Count: new(int64(1))}

func (f *folded) report() error {
	f.events = nil
	f.now = f.now.Add(foldFor)
	told := len(f.receipts)
	err := f.denials.report(f.now, blankAt, func(d kmodquery.Delivery) {
		f.receipts = append(f.receipts, d.Key)
		f.events = append(f.events, d.Event)
		f.total += *d.Event.Count
	})
	if !f.unsafe {
		for _, receipt := range f.receipts[told:] {
			err = errors.Join(err, keepReported(f.counts, receipt))
		}
	}
	return err
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

// A call that was told of after it was counted is not counted again.
func TestDenialsToldOfLate(t *testing.T) {
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

func TestDenialsWhoseRecordWasLost(t *testing.T) {
	f := newFolded()
	kind := deniedKind(t, 1)
	f.add(kind, deniedAt(1))
	f.counts.calls[kind] = 1
	require.NoError(t, f.report())
	f.counts.calls[kind] = 8
	require.NoError(t, f.report())
	want := counted(deniedAt(1), 7)
	want.Time, want.TimeNanos, want.Uptime = blankAt.Time, blankAt.TimeNanos, blankAt.Uptime
	require.Equal(t, []kmodquery.Event{want}, f.events, "like the last, at the time of the report")
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

func TestDenialsAreForgotten(t *testing.T) {
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

	// They begin anew.
	f.counts.calls[idle] = 2
	f.add(idle, deniedAt(9))
	require.NoError(t, f.report())
	require.Equal(t, []kmodquery.Event{counted(deniedAt(9), 2)}, f.events)

	for range idleReports + 1 {
		require.NoError(t, f.report())
	}
	require.Empty(t, f.kinds)
	require.Empty(t, f.counts.calls)
}

// While a row is on its way nothing is forgotten: of its receipt nothing would be
// kept, and the next process would tell of the same calls.
func TestDenialsAreForgottenWhenAllRowsAreSafe(t *testing.T) {
	f := newFolded()
	idle, late := deniedKind(t, 1), deniedKind(t, 2)
	f.counts.calls[idle] = 1
	f.add(idle, deniedAt(1))
	require.NoError(t, f.report())
	f.unsafe = true
	f.counts.calls[late] = 7
	f.add(late, deniedAt(2))
	for range 2 * idleReports {
		require.NoError(t, f.report())
		require.Contains(t, f.kinds, idle)
	}
	require.EqualValues(t, 8, f.total)
	require.NoError(t, keepReported(f.counts, f.receipts[1]))
	f.counts.calls[late]++
	require.NoError(t, f.report())
	require.NotContains(t, f.kinds, idle)
	require.EqualValues(t, 7, f.counts.reported[late])
	require.NoError(t, keepReported(f.counts, f.receipts[2]))
	require.EqualValues(t, 8, f.counts.reported[late])

	// Of a kind that was called meanwhile there is news.
	f.unsafe = false
	for f.kinds[late].idle < idleReports {
		require.NoError(t, f.report())
	}
	f.counts.calls[late] = 20
	require.NoError(t, f.report())
	require.Len(t, f.events, 1)
	require.NotEmpty(t, f.receipts[3])
	require.Contains(t, f.kinds, late)
}

// A row that another Run told of is stored while this one counts on.
func TestDenialsThatAreStoredLate(t *testing.T) {
	f, kind := newFolded(), deniedKind(t, 1)
	f.counts.calls[kind] = 5
	f.unsafe = true
	require.NoError(t, f.recall(blankAt, nil))
	require.NoError(t, f.report())
	f.denials = newDenials(f.counts, start)
	require.NoError(t, f.recall(blankAt, nil))
	require.NoError(t, keepReported(f.counts, f.receipts[0]))
	f.counts.calls[kind] = 6
	require.NoError(t, f.report())
	require.EqualValues(t, 6, f.total)
}

// The record was in the ring when its kind was forgotten, with its count.
func TestDenialsToldOfAfterTheyWereForgotten(t *testing.T) {
	f := newFolded()
	kind := deniedKind(t, 1)
	f.add(kind, deniedAt(1))
	for range idleReports + 1 {
		require.NoError(t, f.report())
		require.Empty(t, f.events, "another row stands for it")
	}
	require.Empty(t, f.kinds)

	t.Run("and the next one is lost", func(t *testing.T) {
		f := newFolded()
		f.add(kind, deniedAt(1))
		require.NoError(t, f.report())
		f.counts.calls[kind] = 6
		require.NoError(t, f.report())
		require.Len(t, f.events, 1)
		require.Equal(t, "init_module", f.events[0].EventName)
		require.Equal(t, "EPERM", f.events[0].Error)
		require.EqualValues(t, 6, *f.events[0].Count)
	})
}

// otherDenied are the denied calls by this name that found no place.
func otherDenied(call string) bpf.DeniedCalls {
	others := bpf.OtherDeniedCalls()
	return others[slices.IndexFunc(others, func(d bpf.DeniedCalls) bool { return d.Call() == call })]
}

func TestDenialsThatFoundNoPlace(t *testing.T) {
	f := newFolded()
	require.NoError(t, f.recall(blankAt, nil))
	load, loadFile, unload := otherDenied("init_module"), otherDenied("finit_module"), otherDenied("delete_module")
	row := func(call string, count int64) kmodquery.Event {
		e := counted(blankAt, count)
		e.EventName, e.Result, e.Error, e.Missing = call, new(int64(-1)), "EPERM", "pid,uid,process_path,cmdline"
		return e
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
	f.denials = newDenials(f.counts, start)
	require.NoError(t, f.recall(blankAt, nil))
	require.NoError(t, f.report())
	require.Equal(t, []kmodquery.Event{row("init_module", 10)}, f.events)
}

// An error ends the source; a report after it, as at its end, loses nothing.
func TestDenialsWithoutCounts(t *testing.T) {
	for _, method := range []string{"NextEpoch", "CountDenied", "ForgetDenied", "Reported"} {
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

func TestDenialsAfterARestart(t *testing.T) {
	f, kind := newFolded(), deniedKind(t, 1)
	f.counts.calls[kind] = 5
	f.add(kind, kmodquery.Event{EventName: kmodquery.EventInitModule})
	require.NoError(t, f.report())
	require.Len(t, f.events, 1)
	for range 2 { // the second time it is told already
		require.NoError(t, keepReported(f.counts, f.receipts[0]))
	}
	require.NoError(t, keepReported(f.counts, keyOf(at(1))))
	require.NoError(t, keepReported(f.counts, "~00_1"), "it is of a former version")
	require.NoError(t, keepReported(f.counts, "~_zz_1"), "nobody knows what it is")
	require.NoError(t, keepReported(f.counts, deniedMark+"_"+kind.String()+"_x"))
	require.EqualValues(t, 5, f.counts.reported[kind])

	f.counts.calls[kind] = 7
	f.denials = newDenials(f.counts, start)
	require.NoError(t, f.recall(blankAt, nil))
	require.NoError(t, f.report())
	require.Len(t, f.events, 1, "nobody knows who made them, but that they were made")
	require.EqualValues(t, 2, *f.events[0].Count)
	require.Equal(t, kmodquery.EventInitModule, f.events[0].EventName)
	require.EqualValues(t, 0, *f.events[0].EUID)
	require.Equal(t, "pid,process_path,cmdline", f.events[0].Missing.String())
}

// The same source runs again while what it told waits for a full disk.
func TestDenialsThatWaitToBeStored(t *testing.T) {
	f, kind := newFolded(), deniedKind(t, 1)
	f.unsafe = true
	f.counts.calls[kind] = 5
	f.add(kind, deniedAt(1))
	require.NoError(t, f.report())
	f.counts.calls[kind] = 7
	f.denials = newDenials(f.counts, start)
	underway := append(f.receipts, keyOf(at(1)), "~_zz_1", deniedReceipt("another", kind, 99))
	require.NoError(t, f.recall(blankAt, underway))
	require.NoError(t, f.report())
	require.EqualValues(t, 7, f.total)
	require.Zero(t, f.counts.reported[kind], "none of it is safe")
}

// So it does when other programs have taken over what was counted.
func TestDenialsThatWaitWhileTheProgramsAreReplaced(t *testing.T) {
	f, kind := newFolded(), deniedKind(t, 1)
	f.counts.calls[kind] = 5
	f.add(kind, deniedAt(1))
	require.NoError(t, f.report())
	f.unsafe = true
	f.counts.calls[kind] = 8
	require.NoError(t, f.report())
	require.EqualValues(t, 8, f.total)

	later := newFakeCounts()
	later.period, later.inherited = "later", map[string]uint64{"": 5}
	later.calls[kind] = 3 + 2 // those that wait, and two that were made meanwhile
	f.counts, f.denials = later, newDenials(later, start)
	require.NoError(t, f.recall(blankAt, f.receipts))
	require.NoError(t, f.report())
	require.EqualValues(t, 10, f.total)
	require.NoError(t, keepReported(later, f.receipts[1]))
	require.EqualValues(t, 3, later.reported[kind])
}

// The row of an earlier run is stored while the next one begins.
func TestDenialsThatAreStoredMeanwhile(t *testing.T) {
	f, kind := newFolded(), deniedKind(t, 1)
	f.unsafe = true
	f.counts.calls[kind] = 5
	f.add(kind, deniedAt(1))
	require.NoError(t, f.report())
	stored := kmodquery.Delivery{Event: kmodquery.Event{Source: kmodquery.SourceEBPF}, Key: f.receipts[0]}

	s := New(Options{})
	s.Acked([]kmodquery.Delivery{stored})
	require.NoError(t, s.count(f.counts))
	require.EqualValues(t, 5, f.counts.reported[kind])
}
