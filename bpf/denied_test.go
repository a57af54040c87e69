//go:build linux

package bpf

import (
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/stretchr/testify/require"
)

// newCounting is a set whose programs are not attached.
func newCounting(t *testing.T, id uint64) *Programs {
	t.Helper()
	return newSharing(t, id, nil)
}

// newSharing is one that shares maps with another.
func newSharing(t *testing.T, id uint64, shared map[string]*ebpf.Map) *Programs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may make BPF maps")
	}
	require.NoError(t, rlimit.RemoveMemlock())
	spec, err := loadModule()
	require.NoError(t, err)
	processors, err := ebpf.PossibleCPU()
	require.NoError(t, err)
	spec.Maps[moduleMapSent].MaxEntries = uint32(processors)
	p := &Programs{set: &set{name: setName{id: id}}}
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	require.NoError(t, p.loadMaps(spec, shared))
	require.NoError(t, p.open())
	p.wanted.Set = id
	*p.settings = p.wanted
	return p
}

// deny counts calls as the programs do.
func (s *set) deny(t *testing.T, kind DeniedCalls, since, count uint64) {
	t.Helper()
	if kind.IsOther() {
		require.NoError(t, s.maps[moduleMapCounters].Put(kind.counter(), count))
		return
	}
	require.NoError(t, s.maps[moduleMapDenied].Put(kind.key, moduleDeniedCalls{Count: count, SinceNs: since}))
}

// other are the calls of a set that are counted by system call alone.
func other(set uint64, call moduleSystemCall) DeniedCalls {
	return DeniedCalls{set, moduleDeniedKey{Call: call, Uid: noUser, Euid: noUser}}
}

func TestDeniedCounts(t *testing.T) {
	p := newCounting(t, 7)
	kind, loads := DeniedCalls{7, moduleDeniedKey{Call: moduleSystemCallCALL_INIT_MODULE, Uid: 1, ExeInode: 2}}, other(7, moduleSystemCallCALL_INIT_MODULE)
	requireCounts := func(want ...DeniedCount) {
		t.Helper()
		counts, err := p.DeniedCounts()
		require.NoError(t, err)
		require.ElementsMatch(t, want, counts)
	}
	requireCounts()
	p.deny(t, kind, 100, 5)
	p.deny(t, loads, 0, 3)
	requireCounts(DeniedCount{kind, 100, 5}, DeniedCount{loads, 0, 3})
	p.AckDenied(DeniedCount{kind, 100, 5})
	requireCounts(DeniedCount{kind, 100, 5}, DeniedCount{loads, 0, 3})

	count, err := p.ForgetDenied(kind)
	require.NoError(t, err)
	require.EqualValues(t, 5, count)
	count, err = p.ForgetDenied(kind)
	require.NoError(t, err)
	require.Zero(t, count)
	requireCounts(DeniedCount{loads, 0, 3})

	p.NextEpoch()
	require.EqualValues(t, 1, p.settings.Epoch, "the next process goes on with it")
}

// Root may write to the pinned map what no program does.
func TestForgedDeniedCallsAreLeftOut(t *testing.T) {
	p := newCounting(t, 7)
	for _, key := range []moduleDeniedKey{{Uid: 1}, {Call: 99, Uid: 1}, {Call: moduleSystemCallCALL_INIT_MODULE, Uid: noUser, Euid: noUser}} {
		require.NoError(t, p.maps[moduleMapDenied].Put(key, moduleDeniedCalls{Count: 1}))
	}
	counts, err := p.DeniedCounts()
	require.NoError(t, err)
	require.Empty(t, counts)
}

func TestDeniedCountAsText(t *testing.T) {
	want := DeniedCount{DeniedCalls{1, moduleDeniedKey{ExeInode: 2, ExeDevice: 3, Call: 1, Uid: 5, Euid: 6}}, 7, 8}
	got, err := ParseDeniedCount(want.String())
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.False(t, got.IsOther())
	for _, text := range []string{"", "0", "zz", want.String()[2:], want.String() + "00"} {
		_, err := ParseDeniedCount(text)
		require.Error(t, err, text)
	}
}

// An older set stays until rows of all that it has counted are stored.
func TestAnOlderSetStaysUntilItsDeniedCallsAreAcked(t *testing.T) {
	pins, _, err := listPins(onBPFFS(t))
	require.NoError(t, err)
	older, p := newCounting(t, 1), newCounting(t, 2)
	older.name.layout = layout
	require.NoError(t, older.pin(pins))
	p.pins = pins
	kind, loads := DeniedCalls{1, moduleDeniedKey{Call: moduleSystemCallCALL_INIT_MODULE, Uid: 1}}, other(1, moduleSystemCallCALL_INIT_MODULE)
	older.deny(t, kind, 100, 5)
	older.deny(t, loads, 0, 3)
	require.NoError(t, p.openOlder([]setName{older.name}))
	counts, err := p.DeniedCounts()
	require.NoError(t, err)
	require.Empty(t, counts, "its records, which name the callers, are not read yet")

	p.SetDeadline(time.Now().Add(2 * afterRetirement))
	_, _, err = p.Read()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	counts, err = p.DeniedCounts()
	require.NoError(t, err)
	require.ElementsMatch(t, []DeniedCount{{kind, 100, 5}, {loads, 0, 3}}, counts)
	isThere := func() bool {
		p.Release(Position{}, Position{}, Position{})
		_, err := os.Lstat(pins.of(older.name))
		return err == nil
	}
	require.True(t, isThere())
	p.AckDenied(DeniedCount{kind, 100, 4})
	p.AckDenied(DeniedCount{loads, 0, 3})
	require.True(t, isThere(), "not all are acked")
	p.AckDenied(DeniedCount{kind, 100, 5})
	require.False(t, isThere())
}

// A set of the former layout kept other counts.
func TestDeniedCallsOfTheFormerLayoutAreNotRead(t *testing.T) {
	p := newCounting(t, 2)
	older := &olderSet{set: set{name: setName{layout: oldestLayout, id: 1}}}
	require.NoError(t, p.countDeniedIn(older))
	require.Empty(t, older.denied)
	older.name.layout = layout
	require.ErrorContains(t, p.countDeniedIn(older), "there is none called denied")
}
