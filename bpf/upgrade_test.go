//go:build linux

package bpf

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/stretchr/testify/require"
)

func TestCallsUnderWay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may make BPF maps")
	}
	require.NoError(t, rlimit.RemoveMemlock())
	threads, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 40, MaxEntries: 8})
	require.NoError(t, err)
	defer threads.Close()
	put := func(tid uint32, depth, begin uint64) {
		thread := make([]byte, 40)
		binary.NativeEndian.PutUint64(thread[8:], depth)
		binary.NativeEndian.PutUint64(thread[16:], begin)
		require.NoError(t, threads.Put(tid, thread))
	}
	put(1, 1, 100)
	put(2, 0, 200)
	put(3, 2, 300)
	calls := callsUnderWay(threads)
	require.Len(t, calls, 2, "one has returned")
	put(1, 1, 101)
	put(3, 1, 300)
	now := callsUnderWay(threads)
	require.NotEqual(t, calls[1], now[1], "it is another call")
	require.Equal(t, calls[3], now[3], "it is the same, though one inside it has returned")
}

// upgradable are sets of one program that can replace each other.
type upgradable struct {
	t      *testing.T
	path   string
	kernel *btf.Spec
}

func newUpgradable(t *testing.T) *upgradable {
	t.Helper()
	path := onBPFFS(t)
	require.NoError(t, openHere(t, path).Close()) // it skips the test where nothing can be attached
	_, err := Detach(path)
	require.NoError(t, err)
	kernel, err := btf.LoadKernelSpec()
	require.NoError(t, err)
	return &upgradable{t, path, kernel}
}

func (u *upgradable) choice() choice {
	return choice{u.kernel, _ModuleBytes, []hook{at("sched_process_exit", asRawTracepoint)}}
}

// open opens a set of a build.
func (u *upgradable) open(of string, o Options) *Programs {
	u.t.Helper()
	was := build
	build = of
	defer func() { build = was }()
	p := &Programs{}
	u.t.Cleanup(func() { p.Close() })
	o.PinDir = u.path
	require.NoError(u.t, p.openSet(u.t.Context(), o, u.choice()))
	require.NoError(u.t, p.Unpinned())
	return p
}

func (u *upgradable) sets() (ids []uint64) {
	u.t.Helper()
	entries, err := os.ReadDir(u.path)
	require.NoError(u.t, err)
	for _, entry := range entries {
		name, ok := parseSetName(entry.Name())
		require.True(u.t, ok)
		ids = append(ids, name.id)
	}
	return ids
}

// drain reads older sets to their end.
func drain(t *testing.T, p *Programs) {
	t.Helper()
	p.SetDeadline(time.Now().Add(2 * afterRetirement))
	_, _, err := p.Read()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	p.Release(Position{}, Position{}, Position{})
}

func TestAnUpgradeChangesTheOwner(t *testing.T) {
	u := newUpgradable(t)
	first := u.open("one", Options{})
	require.False(t, first.WereThere())
	require.Equal(t, first.name.id, first.owners.current.Load())
	require.NoError(t, first.maps[moduleMapCounters].Put(uint32(moduleCounterCOUNTER_LOST), uint64(7)))
	programs := first.pins.programIDs(first.name)
	require.Len(t, programs, 1)
	require.NoError(t, first.Close())

	second := u.open("two", Options{ImageLimit: MaxImage})
	_, err := ebpf.NewProgramFromID(programs[0])
	require.ErrorIs(t, err, os.ErrNotExist, "the older program does not run any more")
	require.True(t, second.WereThere())
	require.Equal(t, second.name.id, second.owners.current.Load())
	require.False(t, second.pins.isAttached(first.name))
	require.Len(t, u.sets(), 2)
	lost, err := second.Lost()
	require.NoError(t, err)
	require.Equal(t, map[uint64]uint64{first.name.id: 7, second.name.id: 0}, lost)
	drain(t, second)
	require.Equal(t, []uint64{second.name.id}, u.sets())
	require.NoError(t, second.Close())

	third := u.open("two", Options{})
	require.True(t, third.WereThere())
	require.Equal(t, second.name, third.name, "it is taken over")
	require.NoError(t, third.Close())
	fourth := u.open("two", Options{Anew: true})
	require.Greater(t, fourth.name.id, third.name.id)
	require.Len(t, fourth.older, 1)
	require.NoError(t, fourth.Close())
}

// TestABrokenUpgradeIsFinished ends the process after each step of an upgrade.
func TestABrokenUpgradeIsFinished(t *testing.T) {
	u := newUpgradable(t)
	for name, steps := range map[string]func(first, second *Programs){
		"pinned":       func(*Programs, *Programs) {},
		"owner is new": func(_, second *Programs) { second.owners.current.Store(second.name.id) },
		"older detached": func(first, second *Programs) {
			second.owners.current.Store(second.name.id)
			require.NoError(t, second.pins.detach(t.Context(), []setName{first.name}))
		},
	} {
		for _, next := range []string{"one", "two"} {
			t.Run(name+", then "+next, func(t *testing.T) {
				first := u.open("one", Options{})
				require.NoError(t, first.Close())
				second := u.begin("two", first)
				require.Equal(t, first.name.id, second.owners.current.Load(), "until it is attached")
				steps(first, second)
				isNew := second.owners.current.Load() == second.name.id
				require.NoError(t, second.Close())

				p := u.open(next, Options{})
				require.Equal(t, p.name.id, p.owners.current.Load())
				switch {
				case isNew && next == "two":
					require.Equal(t, second.name, p.name)
				case !isNew && next == "one":
					require.Equal(t, first.name, p.name, "the other has never sent anything")
				default:
					require.Greater(t, p.name.id, second.name.id)
				}
				for _, name := range []setName{first.name, second.name} {
					require.Equal(t, name == p.name, p.pins.isAttached(name))
				}
				drain(t, p)
				require.Equal(t, []uint64{p.name.id}, u.sets())
				require.NoError(t, p.Close())
				_, err := Detach(u.path)
				require.NoError(t, err)
			})
		}
	}
}

// begin attaches and pins a set that replaces another, and leaves it at that.
func (u *upgradable) begin(of string, older *Programs) *Programs {
	u.t.Helper()
	was := build
	build = of
	digest := digest(u.choice().object, u.choice().list)
	build = was
	p := &Programs{set: &set{name: setName{layout: layout, digest: digest, id: older.name.id + 1}}}
	u.t.Cleanup(func() { p.Close() })
	var sets []setName
	var err error
	p.pins, sets, err = listPins(u.path)
	require.NoError(u.t, err)
	shared, err := p.pins.openShared(sets)
	require.NoError(u.t, err)
	defer closeMaps(shared)
	require.NoError(u.t, p.attachAll(u.t.Context(), u.choice(), shared, false))
	require.NoError(u.t, p.pin(p.pins))
	return p
}

// A set of layout 1 shares nothing, and owns what it sees until it is detached.
func TestAnUpgradeFromTheFormerLayout(t *testing.T) {
	u := newUpgradable(t)
	first := u.open("one", Options{})
	former := first.name
	former.layout = oldestLayout
	require.NoError(t, os.Rename(first.pins.of(first.name), first.pins.of(former)))
	for _, name := range sharedMaps {
		require.NoError(t, os.Remove(first.pins.of(former, pinnedMaps, name)))
	}
	require.NoError(t, os.Mkdir(u.path+"/"+retiring+"0_0_0", 0o700))
	require.NoError(t, first.Close())

	second := u.open("one", Options{})
	require.Greater(t, second.name.id, former.id)
	require.Equal(t, second.name.id, second.owners.current.Load())
	require.False(t, second.pins.isAttached(former))
	require.Len(t, second.older, 1)
	drain(t, second)
	require.Equal(t, []uint64{second.name.id}, u.sets())
	require.NoError(t, second.Close())
}

// A set without numbered records shares the owners, so no call is sent twice.
func TestAnUpgradeFromALayoutWithoutNumbers(t *testing.T) {
	u := newUpgradable(t)
	first := u.open("one", Options{})
	former := first.name
	former.layout = numberedLayout - 1
	require.NoError(t, os.Rename(first.pins.of(first.name), first.pins.of(former)))
	require.NoError(t, os.Remove(first.pins.of(former, pinnedMaps, moduleMapSent)))
	shared, err := first.pins.openShared([]setName{former})
	require.NoError(t, err)
	defer closeMaps(shared)
	require.NoError(t, first.Close())

	second := u.open("one", Options{})
	var owner uint64
	require.NoError(t, shared[moduleMapOwners].Lookup(uint32(moduleOwnerIndexOWNER_CURRENT), &owner))
	require.Equal(t, second.name.id, owner)
	require.Len(t, second.older, 1)
	require.Nil(t, second.older[0].arrivals)
	require.Empty(t, second.Filtered())
	drain(t, second)
	require.Empty(t, second.Filtered())
	require.Equal(t, []uint64{second.name.id}, u.sets())
	require.NoError(t, second.Close())
}

// The records of an older set are released as they are stored, before those of
// this one.
func TestOlderRecordsAreReleased(t *testing.T) {
	pins, _, err := listPins(onBPFFS(t))
	require.NoError(t, err)
	require.NoError(t, rlimit.RemoveMemlock())
	name := setName{layout: ownedLayout, digest: "0", id: 1}
	require.NoError(t, os.Mkdir(pins.of(name), 0o700))
	require.NoError(t, os.Mkdir(pins.of(name, pinnedMaps), 0o700))
	for _, ring := range []string{moduleMapRecords, moduleMapImages} {
		m, put := newProducer(t)
		for n := range uint64(5) {
			put(n, 16)
		}
		require.NoError(t, m.Pin(pins.of(name, pinnedMaps, ring)))
	}
	left := func(ring string) int {
		m, err := ebpf.LoadPinnedMap(pins.of(name, pinnedMaps, ring), nil)
		require.NoError(t, err)
		defer m.Close()
		list, _ := numbers(t, open(t, m))
		return len(list)
	}
	p := newCounting(t, 2)
	p.pins = pins
	require.NoError(t, p.openOlder([]setName{name}))
	var c Chunk
	var record Position
	for range 3 {
		_, record, err = p.Read()
		require.NoError(t, err)
		require.EqualValues(t, 1, record.Set)
		_ = p.ReadImage(&c) // a number is no chunk
		require.EqualValues(t, 1, c.Position.Set)
	}
	p.Release(record, c.Position, Position{1, record.Offset + 24})
	require.Equal(t, 2, left(moduleMapRecords))
	require.Equal(t, 2, left(moduleMapImages))

	// Denied calls keep the set, whose records are not needed once later ones are not.
	for range 2 {
		_, record, err = p.Read()
		require.NoError(t, err)
		_ = p.ReadImage(&c)
		require.EqualValues(t, 1, c.Position.Set)
	}
	p.older[0].denied = map[DeniedCalls]DeniedCount{{}: {}}
	later := Position{p.name.id, 24}
	p.Release(later, later, later)
	require.Len(t, p.older, 1)
	require.Zero(t, left(moduleMapRecords))
	require.Zero(t, left(moduleMapImages))
}

// runner runs a program of a set, in the calling thread, as at its hook.
func runner(t *testing.T, p *Programs, name string) func() {
	t.Helper()
	spec, err := loadModule()
	require.NoError(t, err)
	loaded, err := p.load(spec, nil, map[string]string{name: ""})
	if err != nil {
		t.Skip("this kernel takes no programs: ", err)
	}
	t.Cleanup(func() { loaded[name].Close() })
	return func() {
		_, err := loaded[name].Run(&ebpf.RunOptions{Context: make([]byte, 8)})
		require.NoError(t, err)
	}
}

// requests are the beginnings of the requests that a set has sent since the last call.
func requests(t *testing.T, p *Programs) (begins []time.Duration) {
	t.Helper()
	for {
		raw, _, err := p.records.next(nil)
		if errors.Is(err, errEmpty) {
			return begins
		}
		require.NoError(t, err)
		r, err := Decode(raw)
		require.NoError(t, err)
		if r.Kind == ModuleRequest {
			begins = append(begins, r.Attempt)
		}
	}
}

// TestTheOwnerSendsTheRecord runs the same program of two sets at once, in both
// orders.
func TestTheOwnerSendsTheRecord(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	older := newCounting(t, 1)
	newer := newSharing(t, 2, map[string]*ebpf.Map{
		moduleMapOwners: older.maps[moduleMapOwners], moduleMapStamps: older.maps[moduleMapStamps],
	})
	runs := map[*Programs]func(){older: runner(t, older, "raw_tp_module_request"), newer: runner(t, newer, "raw_tp_module_request")}
	all := map[time.Duration]bool{}
	request := func(want *Programs, order ...*Programs) {
		t.Helper()
		for _, p := range order {
			runs[p]()
		}
		for _, p := range []*Programs{older, newer} {
			begins := requests(t, p)
			if p != want {
				require.Empty(t, begins)
				continue
			}
			require.Len(t, begins, 1)
			require.NotContains(t, all, begins[0])
			all[begins[0]] = true
		}
	}
	older.owners.current.Store(1)
	older.owners.oldest.Store(1)
	for range 3 {
		request(older, older, newer)
		request(older, older, newer)
		request(older, newer, older)
	}
	// The owner changes between the two.
	for _, order := range [][]*Programs{{newer, older}, {older, newer}} {
		older.owners.current.Store(1)
		runs[order[0]]()
		older.owners.current.Store(2)
		runs[order[1]]()
		require.Len(t, requests(t, older), 1)
		require.Empty(t, requests(t, newer))
	}
	for range 3 {
		request(newer, older, newer)
		request(newer, newer, older)
		request(newer, newer, older)
	}

	// The thread is in a call of a set that is detached in the midst of it.
	var key uint64
	var stamp [6]uint64 // struct stamp of owner.h
	const owner, maker, taker, over = 2, 3, 4, 5
	entries := older.maps[moduleMapStamps].Iterate()
	require.True(t, entries.Next(&key, &stamp))
	stamp[owner], stamp[maker], stamp[taker] = 1, 1, 0
	call := uint64(1)<<32 | key&(1<<32-1)
	require.NoError(t, older.maps[moduleMapStamps].Put(call, &stamp))
	older.owners.current.Store(2)
	request(nil, newer)
	older.owners.oldest.Store(2)
	request(newer, newer)
	request(newer, newer)

	// A call that was made from inside one of the older set has returned. The newer set did not
	// see the outer one begin, and runs first.
	older.owners.current.Store(2)
	older.owners.oldest.Store(1)
	outer := make([]byte, older.maps[moduleMapThreads].ValueSize())
	for i, value := range []uint64{stamp[0], 1, 100, 1, 1} { // identity, depth; begin_ns, owner and regs of the attempt
		binary.NativeEndian.PutUint64(outer[8*i:], value)
	}
	require.NoError(t, older.maps[moduleMapThreads].Put(uint32(call), outer))
	stamp[over] = 2 // resumed
	require.NoError(t, older.maps[moduleMapStamps].Put(call, &stamp))
	request(older, newer, older)
	request(older, older, newer)
	require.NoError(t, older.maps[moduleMapThreads].Delete(uint32(call)))
	older.owners.oldest.Store(2)

	// Root has forged the owner, so that no set would send the record.
	for _, forged := range []uint64{0, 1, 7, 1 << 63} {
		stamp[owner], stamp[over] = forged, 0
		require.NoError(t, older.maps[moduleMapStamps].Put(call, &stamp))
		request(newer, newer)
		require.Empty(t, requests(t, older))
	}
}

func TestACanceledUpgradeLeavesTheOwner(t *testing.T) {
	u := newUpgradable(t)
	first := u.open("one", Options{})
	require.NoError(t, first.Close())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &Programs{}
	err := p.openSet(ctx, Options{PinDir: u.path, Anew: true}, u.choice())
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, p.Close())
	again := u.open("one", Options{})
	require.Equal(t, first.name, again.name)
	require.Equal(t, first.name.id, again.owners.current.Load())
	require.NoError(t, again.Close())
}

// Root can write the maps that are pinned.
func TestCheckFindsChangedMaps(t *testing.T) {
	u := newUpgradable(t)
	p := u.open("one", Options{})
	require.NoError(t, p.Check())

	p.owners.current.Store(0)
	require.EqualError(t, p.Check(), "another process changed the owner of calls: records may not have been sent")
	p.owners.current.Store(p.name.id)
	require.NoError(t, p.Check())

	p.owners.oldest.Store(0)
	require.EqualError(t, p.Check(), "another process changed the owner of calls: records may not have been sent")
	p.Restore()
	require.NoError(t, p.Check())

	require.NoError(t, p.maps[moduleMapSettings].Put(uint32(0), moduleReaderSettings{Epoch: 1}))
	require.EqualError(t, p.Check(), "another process changed the settings of the attached programs: records may not have been sent")
	p.NextEpoch()
	require.NoError(t, p.Check())
	require.NoError(t, p.maps[moduleMapSettings].Put(uint32(0), moduleReaderSettings{Epoch: 1}))
	require.NoError(t, p.Close())

	again := u.open("one", Options{})
	again.NextEpoch()
	require.NoError(t, again.Check(), "the next process restores them")
	require.NoError(t, again.Close())
}

// It leaves the programs no room, or has them write over what was not read.
func TestCheckFindsMovedPositions(t *testing.T) {
	u := newUpgradable(t)
	for _, ringOf := range []func(*Programs) *ring{
		func(p *Programs) *ring { return p.records }, func(p *Programs) *ring { return p.images },
	} {
		p := u.open("one", Options{})
		atomic.StoreUintptr(ringOf(p).consumed(), 1<<40)
		require.ErrorIs(t, p.Check(), errMoved)
		require.ErrorIs(t, p.Check(), ErrChanged)
		p.Restore()
		require.NoError(t, p.Check())
		atomic.StoreUintptr(ringOf(p).consumed(), 1<<40)
		require.NoError(t, p.Close())

		again := u.open("one", Options{})
		require.NoError(t, again.Check())
		require.NotEqual(t, p.name.id, again.name.id, "it is replaced")
		require.False(t, again.WereThere())
		require.ErrorContains(t, errors.Join(again.Leftovers()...), "another process moved the position")
		require.Equal(t, []uint64{again.name.id}, u.sets())
		require.NoError(t, again.Close())
	}
}

func TestAnOlderSetThatIsDamagedIsRemoved(t *testing.T) {
	u := newUpgradable(t)
	first := u.open("one", Options{})
	const length = 16<<20 + 1
	reserve(t, first.maps[moduleMapRecords], length, 16, asm.FnRingbufSubmit)
	atomic.StoreUintptr(first.records.consumed(), 8) // the number stands where a length must be
	require.NoError(t, first.Close())

	second := u.open("two", Options{})
	_, _, err := second.Read()
	require.ErrorIs(t, err, ErrDamaged)
	require.NoError(t, second.Close())

	third := u.open("two", Options{})
	require.Equal(t, []uint64{second.name.id}, u.sets())
	drain(t, third)
	require.NoError(t, third.Close())
}

// Somebody removed the links, or an upgrade did and the new programs could not be pinned.
func TestProgramsWithoutLinksWereNotThere(t *testing.T) {
	u := newUpgradable(t)
	for _, of := range []string{"one", "two"} {
		p := u.open("one", Options{})
		require.NoError(t, os.RemoveAll(u.path+"/"+p.name.String()+"/"+pinnedLinks+"/raw_tp_sched_process_exit"))
		require.NoError(t, p.Close())
		again := u.open(of, Options{})
		require.False(t, again.WereThere())
		require.NoError(t, again.Close())
		there := u.open("three", Options{})
		require.True(t, there.WereThere())
		require.NoError(t, there.Close())
		_, err := Detach(u.path)
		require.NoError(t, err)
	}
}

// Programs that did not run, or did not send what they saw, while no process checked them.
func TestProgramsThatSentNothingWereNotThere(t *testing.T) {
	u := newUpgradable(t)
	for name, change := range map[string]func(*Programs){
		"settings": func(p *Programs) { p.settings.Set = 0 },
		"oldest":   func(p *Programs) { p.owners.oldest.Store(1) },
	} {
		p := u.open("one", Options{})
		require.NoError(t, p.Close())
		p = u.open("one", Options{})
		require.True(t, p.WereThere(), name)
		change(p)
		require.NoError(t, p.Close())
		again := u.open("one", Options{})
		require.Equal(t, p.name, again.name)
		require.False(t, again.WereThere(), name)
		again.NextEpoch() // as Open does
		require.NoError(t, again.Close())
	}

	was := build
	build = "two" // other programs, because kprobes are off
	defer func() { build = was }()
	off := &Programs{withoutKprobes: true}
	require.NoError(t, off.openSet(t.Context(), Options{PinDir: u.path}, u.choice()))
	require.False(t, off.WereThere())
	require.NoError(t, off.Close())
	again := &Programs{withoutKprobes: true}
	require.NoError(t, again.openSet(t.Context(), Options{PinDir: u.path}, u.choice()))
	require.True(t, again.WereThere(), "that gap was reported")
	require.NoError(t, again.Close())
}
