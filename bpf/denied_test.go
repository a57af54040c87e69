//go:build linux

package bpf

import (
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// newCounting is a set whose programs are not attached.
func newCounting(t *testing.T, id uint64) *Programs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may make BPF maps")
	}
	require.NoError(t, rlimit.RemoveMemlock())
	spec, err := loadModule()
	require.NoError(t, err)
	p := &Programs{set: &set{name: setName{id: id}}}
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	require.NoError(t, p.loadMaps(spec))
	require.NoError(t, p.open())
	return p
}

func TestReportedCallsAreThoseOfAPeriod(t *testing.T) {
	p := newCounting(t, 7)
	one, other := DeniedCalls{moduleDeniedKey{Uid: 1}}, DeniedCalls{moduleDeniedKey{Uid: 2}}
	reported := func(d DeniedCalls) uint64 {
		t.Helper()
		count, err := p.Reported(d)
		require.NoError(t, err)
		return count
	}
	require.NoError(t, p.maps[moduleMapDenied].Put(one.key, moduleDeniedCalls{Count: 5}))
	require.NoError(t, p.maps[moduleMapDenied].Put(other.key, moduleDeniedCalls{Count: 9}))
	former := p.Period()
	require.NoError(t, p.NextEpoch())
	require.Equal(t, former, p.Period(), "calls are counted on")
	require.NoError(t, p.SetReported(ReportedCalls{one, former, 5}))
	require.NoError(t, p.SetReported(ReportedCalls{one, former, 4}))
	require.EqualValues(t, 5, reported(one), "a former row is stored later")

	forgotten, err := p.ForgetDenied(one)
	require.NoError(t, err)
	require.EqualValues(t, 5, forgotten)
	require.NotEqual(t, former, p.Period())
	require.NoError(t, p.SetReported(ReportedCalls{one, former, 5}))
	require.Zero(t, reported(one), "it begins anew")
	require.NoError(t, p.SetReported(ReportedCalls{other, p.Period(), 9}))
	require.EqualValues(t, 9, reported(other))

	// The next process goes on with the period.
	period := p.Period()
	p.wanted = moduleReaderSettings{}
	require.NoError(t, p.readSettings())
	require.Equal(t, period, p.Period())

	// One that ended while it forgot.
	require.NoError(t, p.maps[moduleMapReported].Put(one.key, uint64(5)))
	others := OtherDeniedCalls()[0]
	require.NoError(t, p.SetReported(ReportedCalls{others, p.Period(), 3}))
	require.NoError(t, p.forgetUncounted())
	require.Zero(t, reported(one))
	require.EqualValues(t, 3, reported(others), "they are counted elsewhere")
	require.EqualValues(t, 9, reported(other))

	require.NotEqual(t, newCounting(t, 8).Period(), newCounting(t, 9).Period())
}

// What a process reported as it ended, and another build takes over.
func TestReportedCallsOfAnOlderSet(t *testing.T) {
	older, p := newCounting(t, 7), newCounting(t, 8)
	kind, other := DeniedCalls{moduleDeniedKey{Uid: 1}}, DeniedCalls{moduleDeniedKey{Uid: 2}}
	require.NoError(t, older.maps[moduleMapDenied].Put(kind.key, moduleDeniedCalls{Count: 100}))
	require.NoError(t, older.maps[moduleMapDenied].Put(other.key, moduleDeniedCalls{Count: 9}))
	require.NoError(t, older.SetReported(ReportedCalls{kind, older.Period(), 90}))
	load, unload := OtherDeniedCalls()[0], OtherDeniedCalls()[2]
	require.NoError(t, older.maps[moduleMapCounters].Put(load.counter(), uint64(50)))
	require.NoError(t, older.maps[moduleMapCounters].Put(unload.counter(), uint64(6)))
	require.NoError(t, p.maps[moduleMapCounters].Put(load.counter(), uint64(1))) // that the older set has counted too
	stored := []ReportedCalls{
		{kind, older.Period(), 97}, {kind, older.Period(), 95}, {other, p.Period(), 9}, {unload, older.Period(), 6},
	}
	for range 2 { // whoever ends before the turn begins is followed by one that begins anew
		require.NoError(t, p.inheritCounts(*older.set, older.Period(), stored))
		for kind, want := range map[DeniedCalls]uint64{kind: 3, other: 9, load: 50, unload: 0} {
			count, err := p.CountDenied(kind)
			require.NoError(t, err)
			require.Equal(t, want, count)
		}
	}
}

// A row that was on its way is stored when another set counts on.
func TestCallsThatAreReportedWhenTheyWereInherited(t *testing.T) {
	older, p := newCounting(t, 7), newCounting(t, 8)
	kind := DeniedCalls{moduleDeniedKey{Uid: 1}}
	require.NoError(t, older.maps[moduleMapDenied].Put(kind.key, moduleDeniedCalls{Count: 100}))
	require.NoError(t, older.SetReported(ReportedCalls{kind, older.Period(), 90}))
	require.NoError(t, p.inheritCounts(*older.set, older.Period(), nil))
	late := ReportedCalls{kind, older.Period(), 97}
	count, ok := p.CountOf(late)
	require.True(t, ok)
	require.EqualValues(t, 7, count)
	require.NoError(t, p.SetReported(late))
	reported, err := p.Reported(kind)
	require.NoError(t, err)
	require.EqualValues(t, 7, reported)

	_, err = p.ForgetDenied(DeniedCalls{moduleDeniedKey{Uid: 2}})
	require.NoError(t, err)
	_, ok = p.CountOf(late)
	require.False(t, ok, "every row was safe then")
}

// Only the set whose turn it is has counts that no other has told of.
func TestDeniedCallsOfTheSetWhoseTurnItIs(t *testing.T) {
	kind := DeniedCalls{moduleDeniedKey{Uid: 1}}
	pins, err := openPins(onBPFFS(t))
	require.NoError(t, err)
	p := newCounting(t, 9)
	p.pins = pins
	var sets []setName
	for id, begin := range []uint64{always, 5000, 0} {
		older := newCounting(t, uint64(id+1))
		older.wanted.BeginNs = begin
		require.NoError(t, older.writeSettings())
		require.NoError(t, older.maps[moduleMapDenied].Put(kind.key, moduleDeniedCalls{Count: uint64(id + 1)}))
		require.NoError(t, older.pin(p.pins))
		sets = append(sets, older.name)
	}
	require.NoError(t, p.maps[moduleMapDenied].Put(kind.key, moduleDeniedCalls{Count: 7}))
	for range 2 {
		require.NoError(t, p.inheritDenied(sets, nil))
		count, err := p.CountDenied(kind)
		require.NoError(t, err)
		require.EqualValues(t, 2, count)
		require.Zero(t, p.wanted.BeginNs, "its turn has not begun")
	}
	require.Empty(t, p.unattached)
}

// Others fill the map of denied calls meanwhile.
func TestDeniedCallsThatFindNoPlaceAnyMore(t *testing.T) {
	older, p := newCounting(t, 7), newCounting(t, 8)
	const kinds, others = 1024, 30
	for i := range uint32(kinds) {
		require.NoError(t, older.maps[moduleMapDenied].Put(moduleDeniedKey{Uid: i, Call: moduleSystemCallCALL_INIT_MODULE}, moduleDeniedCalls{Count: 2}))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := uint32(0); ; i = (i + 1) % others {
			select {
			case <-stop:
				return
			default:
				_ = p.maps[moduleMapDenied].Update(moduleDeniedKey{Uid: kinds + i, Call: moduleSystemCallCALL_INIT_MODULE}, moduleDeniedCalls{}, ebpf.UpdateNoExist)
			}
		}
	}()
	require.Eventually(t, func() bool {
		var calls moduleDeniedCalls
		return p.maps[moduleMapDenied].Lookup(moduleDeniedKey{Uid: kinds + others - 1, Call: moduleSystemCallCALL_INIT_MODULE}, &calls) == nil
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, p.inheritCounts(*older.set, older.Period(), nil))
	close(stop)
	<-stopped
	listed, err := p.DeniedKinds()
	require.NoError(t, err)
	sum := uint64(0)
	for _, kind := range listed {
		count, err := p.CountDenied(kind)
		require.NoError(t, err)
		sum += count
	}
	require.EqualValues(t, 2*kinds, sum)
}

// A set that cannot be read now can be later, before the turn of the next one
// begins; of one that never can, nothing is known, nor of those before it.
func TestDeniedCallsOfASetThatCannotBeRead(t *testing.T) {
	pins, err := openPins(onBPFFS(t))
	require.NoError(t, err)
	kind := DeniedCalls{moduleDeniedKey{Uid: 1}}
	first := newCounting(t, 1)
	first.wanted.BeginNs = always
	require.NoError(t, first.writeSettings())
	require.NoError(t, first.maps[moduleMapDenied].Put(kind.key, moduleDeniedCalls{Count: 5}))
	require.NoError(t, first.pin(pins))
	broken := setName{id: 2}
	require.NoError(t, os.MkdirAll(pins.of(broken, pinnedMaps, "x"), 0o700))
	p := newCounting(t, 9)
	p.pins = pins

	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: limit.Max}))
	err = p.inheritDenied([]setName{first.name}, nil)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	require.ErrorIs(t, err, unix.EMFILE)
	require.Empty(t, p.unattached)

	require.NoError(t, p.inheritDenied([]setName{first.name, broken}, nil))
	require.Len(t, p.unattached, 1)
	count, err := p.CountDenied(kind)
	require.NoError(t, err)
	require.Zero(t, count, "the broken one may have told of them")
	require.NoError(t, p.inheritDenied([]setName{first.name}, nil))
	count, err = p.CountDenied(kind)
	require.NoError(t, err)
	require.EqualValues(t, 5, count)
}
