//go:build linux

package bpf

import (
	"math"
	"slices"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// An arriving has the counts of two processors, and a ring that the test fills.
type arriving struct {
	*arrivals
	t      *testing.T
	counts []recordCounts
	ring   *writtenRing
}

func newArriving(t *testing.T) *arriving {
	counts, ring := make([]recordCounts, 2), newWrittenRing(t, 0)
	return &arriving{newArrivals(counts, ring.ring), t, counts, ring}
}

// restart continues as another process.
func (a *arriving) restart() { a.arrivals = newArrivals(a.counts, a.ring.ring) }

// send has a processor send the records with these numbers of a kind.
func (a *arriving) send(cpu int, kind Kind, numbers ...uint64) {
	for _, n := range numbers {
		a.ring.put(0, filled(1, 8))
		a.counts[cpu].sent[kind].Store(n)
	}
}

// filter has a processor send records that do not get into the ring.
func (a *arriving) filter(cpu int, kind Kind, last uint64) { a.counts[cpu].sent[kind].Store(last) }

// read reads a record, which has this number.
func (a *arriving) read(cpu int, kind Kind, numbers ...uint64) {
	for _, n := range numbers {
		_, _, err := a.ring.next(nil)
		require.NoError(a.t, err)
		a.add(&moduleRecordHeader{Kind: moduleRecordKind(kind), Cpu: uint64(cpu), Number: n})
	}
}

func hole(cpu int, kind Kind, first, last uint64) Filtered {
	return Filtered{CPU: cpu, Kind: kind, First: first, Last: last}
}

func TestArrivalsAreComplete(t *testing.T) {
	a := newArriving(t)
	a.send(0, ModuleLoad, 1, 2)
	a.send(1, ModuleLoad, 1)
	a.send(0, ModuleFree, 1)
	a.read(0, ModuleLoad, 1, 2)
	a.read(1, ModuleLoad, 1)
	a.read(0, ModuleFree, 1)
	require.Empty(t, a.missing())
	require.Empty(t, a.holes)
}

func TestMissingRecordsAreFound(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(*arriving)
		want []Filtered
	}{
		{"the first", func(a *arriving) { a.filter(0, ModuleLoad, 1); a.send(0, ModuleLoad, 2); a.read(0, ModuleLoad, 2) },
			[]Filtered{hole(0, ModuleLoad, 1, 1)}},
		{"some in between", func(a *arriving) { a.send(1, ModuleLoad, 1, 5); a.read(1, ModuleLoad, 1, 5) },
			[]Filtered{hole(1, ModuleLoad, 2, 4)}},
		{"the last", func(a *arriving) { a.send(0, ModuleLoad, 1); a.read(0, ModuleLoad, 1); a.filter(0, ModuleLoad, 3) },
			[]Filtered{hole(0, ModuleLoad, 2, 3)}},
		{"all of a kind", func(a *arriving) { a.filter(0, SystemCall, 2) }, []Filtered{hole(0, SystemCall, 1, 2)}},
		{"what a restart leaves", func(a *arriving) {
			a.send(0, ModuleLoad, 1)
			a.read(0, ModuleLoad, 1)
			a.restart()
			a.filter(0, ModuleLoad, 2)
		}, []Filtered{hole(0, ModuleLoad, 2, 2)}},
		{"root says that all were read", func(a *arriving) {
			a.counts[0].seen[ModuleLoad].Store(math.MaxUint64)
			a.filter(0, ModuleLoad, 2)
		}, []Filtered{hole(0, ModuleLoad, 1, 2)}},
		{"root says so between two processes", func(a *arriving) {
			a.counts[0].seen[ModuleLoad].Store(math.MaxUint64)
			a.restart()
			a.filter(0, ModuleLoad, 2)
		}, []Filtered{hole(0, ModuleLoad, 1, 2)}},
		{"one of several that are late", func(a *arriving) {
			a.send(0, ModuleLoad, 5, 2, 4)
			a.filter(0, ModuleLoad, 5)
			a.read(0, ModuleLoad, 5, 2, 4)
		},
			[]Filtered{hole(0, ModuleLoad, 1, 1), hole(0, ModuleLoad, 3, 3)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newArriving(t)
			test.do(a)
			require.Equal(t, test.want, a.missing())
			require.Empty(t, a.missing(), "each is found once")
		})
	}
}

func TestRecordsAreNotMissingTooEarly(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(*arriving)
	}{
		{"they are in the ring", func(a *arriving) { a.send(0, ModuleLoad, 1, 2); a.read(0, ModuleLoad, 1) }},
		{"they were in the ring when the look began", func(a *arriving) {
			a.send(0, ModuleLoad, 1)
			require.Empty(t, a.missing())
			a.send(0, ModuleLoad, 2)
			a.read(0, ModuleLoad, 1)
		}},
		{"a preempted program sends an earlier number later", func(a *arriving) {
			a.send(0, ModuleLoad, 2, 1)
			a.filter(0, ModuleLoad, 2)
			a.read(0, ModuleLoad, 2)
			require.Empty(t, a.missing())
			a.read(0, ModuleLoad, 1)
		}},
		{"a preempted program repeats a number", func(a *arriving) { a.send(0, ModuleLoad, 1, 2, 1, 2, 3); a.read(0, ModuleLoad, 1, 2, 1, 2, 3) }},
		{"its program has not counted it yet", func(a *arriving) { a.send(0, ModuleLoad, 1); a.filter(0, ModuleLoad, 0); a.read(0, ModuleLoad, 1) }},
		{"an earlier process has read them", func(a *arriving) {
			a.send(0, ModuleLoad, 1, 2)
			a.read(0, ModuleLoad, 1, 2)
			a.restart()
			a.send(0, ModuleLoad, 3)
			a.read(0, ModuleLoad, 3)
		}},
		{"another process reads them again", func(a *arriving) {
			a.send(0, ModuleLoad, 1, 2)
			a.read(0, ModuleLoad, 1, 2)
			a.ring.read.Store(0)
			a.restart()
			a.read(0, ModuleLoad, 1, 2)
		}},
		{"they have no number", func(a *arriving) { a.send(0, ModuleLoad, 0); a.read(0, ModuleLoad, 0) }},
		{"the number is forged", func(a *arriving) { a.send(0, ModuleLoad, 0); a.read(0, ModuleLoad, 1<<60) }},
		{"the processor or the kind does not exist", func(a *arriving) {
			a.send(0, ModuleLoad, 0, 0)
			a.read(2, ModuleLoad, 9)
			a.read(0, recordKinds, 9)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newArriving(t)
			test.do(a)
			require.Empty(t, a.missing())
			require.Empty(t, a.missing())
		})
	}
}

func TestHolesAreBounded(t *testing.T) {
	a := newArriving(t)
	for n := uint64(2); len(a.holes) < maxHoles; n += 2 {
		a.send(0, ModuleLoad, n)
		a.read(0, ModuleLoad, n)
		a.ring.Release(a.ring.end())
	}
	first := a.holes[0].First
	a.send(0, ModuleLoad, 2*maxHoles+2)
	a.read(0, ModuleLoad, 2*maxHoles+2)
	require.Len(t, a.holes, maxHoles)
	require.Greater(t, a.holes[0].First, first)
}

func TestCountsHaveTheLayoutOfTheMap(t *testing.T) {
	require.Equal(t, unsafe.Sizeof(moduleRecordCounts{}), unsafe.Sizeof(recordCounts{}))
	require.Len(t, moduleRecordCounts{}.Sent, recordKinds)
	for kind := range kindNames {
		require.Less(t, kind, Kind(recordKinds))
	}
}

// Records of a former layout have no numbers.
func TestFormerRecordsAreDecoded(t *testing.T) {
	end := int(unsafe.Offsetof(moduleRecordHeader{}.Number))
	record := moduleImageRecord{Header: moduleRecordHeader{Kind: moduleRecordKindRECORD_IMAGE, Pid: 7, BootNs: 5}, Size: 9}
	raw := slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&record)), unsafe.Sizeof(record)))
	former := slices.Delete(slices.Clone(raw), end, int(unsafe.Sizeof(record.Header)))
	want, err := Decode(raw)
	require.NoError(t, err)
	p := &Programs{set: &set{name: setName{layout: layout, id: 2}, arrivals: newArriving(t).arrivals}, draining: []*olderSet{
		{set: set{name: setName{layout: ownedLayout, id: 1}}},
	}}
	got, err := p.Decode(former, Position{Set: 1})
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.EqualValues(t, 9, got.Image.Size)
	_, err = p.Decode(former[:8], Position{Set: 1})
	require.Error(t, err)
	got, err = p.Decode(raw, Position{Set: 2})
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// Root can pin another map in the place of the counts.
func TestCountsOfAnotherSizeAreNotMapped(t *testing.T) {
	for _, spec := range []ebpf.MapSpec{
		{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 4096, Flags: unix.BPF_F_MMAPABLE},
		{Type: ebpf.Array, KeySize: 4, ValueSize: 256, MaxEntries: 1 << 16, Flags: unix.BPF_F_MMAPABLE},
		{Type: ebpf.Hash, KeySize: 4, ValueSize: 256, MaxEntries: 2},
	} {
		p := newCounting(t, 2)
		other, err := ebpf.NewMap(&spec)
		require.NoError(t, err)
		require.NoError(t, p.maps[moduleMapSent].Close())
		p.maps[moduleMapSent] = other
		s := &set{name: setName{layout: layout}, maps: p.maps}
		require.ErrorContains(t, s.openRings(), "sent is not the map that was pinned")
		require.NoError(t, s.records.Close())
		require.NoError(t, s.images.Close())
	}
}

// Root can remove the pins of maps that no reader needs.
func TestASetThatLacksASharedMapIsNotRenewed(t *testing.T) {
	for _, name := range append([]string{moduleMapThreads}, sharedMaps...) {
		p := newCounting(t, 2)
		removed := p.maps[name]
		delete(p.maps, name)
		err := p.renew(t.Context(), Options{}, &Programs{}, choice{})
		require.EqualError(t, err, "open BPF maps: there is none called "+name)
		p.maps[name] = removed
	}
}
