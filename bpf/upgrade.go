//go:build linux

package bpf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
)

// An upgrade replaces a set of programs by another one while calls go on, in the steps
// of docs/recovery.md. Every call has one owner, the set that sends its records
// (owner.h). If the process is killed at any step, there is one owner, and that set is
// pinned and attached. The next Open detaches every other set and starts again.
const (
	// stampAge is STAMP_NS of owner.h.
	stampAge = 500 * time.Millisecond
	// callPatience is how long the calls of the old set may take to return before
	// it is detached, because an init may never end. The new set sends the rest of
	// their records.
	callPatience = 5 * time.Second
	callPoll     = 10 * time.Millisecond
	// freePatience is how long the kernel may take to free the old set's programs.
	freePatience = time.Second
)

// owners are the numbers of sets that all sets share (enum owner_index). Programs read
// them at any time.
type owners struct{ current, oldest atomic.Uint64 }

// sharedMaps are the maps that a set shares with the one that it replaces.
var sharedMaps = []string{moduleMapOwners, moduleMapStamps}

// openShared opens the shared maps that the youngest set with owners has; nil where there
// is none.
func (p *pins) openShared(sets []setName) (map[string]*ebpf.Map, error) {
	i := len(sets) - 1
	for i >= 0 && (sets[i].layout < ownedLayout || sets[i].layout > layout) {
		i--
	}
	if i < 0 {
		return nil, nil
	}
	shared := map[string]*ebpf.Map{}
	for _, name := range sharedMaps {
		m, err := ebpf.LoadPinnedMap(p.of(sets[i], pinnedMaps, name), nil)
		if err != nil {
			closeMaps(shared)
			if isShortage(err) {
				return nil, fmt.Errorf("open pinned map %s: %w", name, err)
			}
			return nil, nil // the set is not complete
		}
		shared[name] = m
	}
	return shared, nil
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}

// ownerOf is the index of the set that owns what begins now; -1 where it is not
// there or not known.
func ownerOf(sets []setName, shared map[string]*ebpf.Map) (int, error) {
	var owner uint64
	if m := shared[moduleMapOwners]; m != nil {
		if err := m.Lookup(uint32(moduleOwnerIndexOWNER_CURRENT), &owner); err != nil {
			return -1, fmt.Errorf("read the owner of calls: %w", err)
		}
	}
	return slices.IndexFunc(sets, func(name setName) bool { return name.id == owner }), nil
}

// own makes this set, which is attached, the owner of what begins now, and
// detaches the others.
func (p *Programs) own(ctx context.Context, sets []setName) error {
	if p.owners.current.Load() != p.name.id {
		if len(sets) > 0 {
			if err := sleep(ctx, stampAge); err != nil {
				return err
			}
		}
		p.owners.current.Store(p.name.id)
	}
	if err := p.pins.detach(ctx, sets); err != nil {
		return err
	}
	p.owners.oldest.Store(p.name.id)
	return nil
}

// detach detaches sets that own nothing that begins now, when their calls have
// returned.
func (p *pins) detach(ctx context.Context, sets []setName) error {
	sets = slices.DeleteFunc(slices.Clone(sets), func(name setName) bool { return !p.isAttached(name) })
	if len(sets) == 0 {
		return nil
	}
	if err := sleep(ctx, stampAge); err != nil {
		return err
	}
	for _, name := range sets {
		if err := p.awaitCalls(ctx, name); err != nil {
			return err
		}
		programs := p.programIDs(name)
		if err := p.unlink(name); err != nil {
			return err
		}
		if err := awaitFree(ctx, programs); err != nil {
			return err
		}
	}
	return nil
}

// unlink removes all pins of a set but its maps.
func (p *pins) unlink(name setName) error {
	for _, part := range []string{pinnedLinks, pinnedProbes, pinnedPrograms} {
		if err := os.RemoveAll(p.of(name, part)); err != nil {
			return fmt.Errorf("detach pinned programs: %w", err)
		}
	}
	return nil
}

// programIDs returns the kernel's IDs of the programs of a set, as far as they can be
// opened.
func (p *pins) programIDs(name setName) (ids []ebpf.ProgramID) {
	entries, _ := os.ReadDir(p.of(name, pinnedPrograms))
	for _, entry := range entries {
		program, err := ebpf.LoadPinnedProgram(p.of(name, pinnedPrograms, entry.Name()), nil)
		if err != nil {
			continue
		}
		ids = appendID(ids, program)
		program.Close()
	}
	return ids
}

func appendID(ids []ebpf.ProgramID, program *ebpf.Program) []ebpf.ProgramID {
	if info, err := program.Info(); err == nil {
		if id, ok := info.ID(); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// awaitFree waits, for at most freePatience, until no program has one of the IDs. The
// kernel defers the release of a link (bpf_link_put), and its program runs until then.
// Without CAP_SYS_ADMIN, which opening by ID needs, it does not wait.
func awaitFree(ctx context.Context, ids []ebpf.ProgramID) error {
	for deadline := time.Now().Add(freePatience); len(ids) > 0 && time.Now().Before(deadline); {
		if err := sleep(ctx, callPoll); err != nil {
			return err
		}
		ids = slices.DeleteFunc(ids, func(id ebpf.ProgramID) bool {
			program, err := ebpf.NewProgramFromID(id)
			if err == nil {
				program.Close()
			}
			return err != nil
		})
	}
	return nil
}

func (p *pins) isAttached(name setName) bool {
	return exists(p.of(name, pinnedLinks)) || exists(p.of(name, pinnedProbes))
}

// hasLinks reports whether each program of a set has its link.
func (p *pins) hasLinks(name setName) bool {
	programs, err := os.ReadDir(p.of(name, pinnedPrograms))
	if isShortage(err) {
		return true // it is unknown
	}
	return err == nil && len(programs) > 0 && !slices.ContainsFunc(programs, func(program os.DirEntry) bool {
		return !exists(p.of(name, pinnedLinks, program.Name())) && !exists(p.of(name, pinnedProbes, program.Name()))
	})
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (p *pins) awaitCalls(ctx context.Context, name setName) error {
	threads, err := ebpf.LoadPinnedMap(p.of(name, pinnedMaps, moduleMapThreads), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil // the set is not complete
	}
	defer threads.Close()
	return awaitCalls(ctx, threads)
}

// awaitCalls waits, for at most callPatience, until the calls that a set has under
// way have returned.
func awaitCalls(ctx context.Context, threads *ebpf.Map) error {
	waiting := callsUnderWay(threads)
	for deadline := time.Now().Add(callPatience); len(waiting) > 0 && time.Now().Before(deadline); {
		if err := sleep(ctx, callPoll); err != nil {
			return err
		}
		underWay := callsUnderWay(threads)
		maps.DeleteFunc(waiting, func(tid uint32, call string) bool { return underWay[tid] != call })
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// callsUnderWay returns, by thread, what identifies its outermost attempt: identity
// and begin_ns (struct thread of common.h, and the first field of struct attempt).
func callsUnderWay(threads *ebpf.Map) map[uint32]string {
	const identity, depth, begin = 0, 8, 16
	calls := map[uint32]string{}
	var tid uint32
	var thread []byte
	for entries := threads.Iterate(); entries.Next(&tid, &thread); {
		if len(thread) >= begin+8 && binary.NativeEndian.Uint64(thread[depth:]) > 0 {
			calls[tid] = string(thread[identity:depth]) + string(thread[begin:begin+8])
		}
	}
	return calls
}

// openOlder opens the rings of the other sets, which are detached.
func (p *Programs) openOlder(sets []setName) error {
	p.olderCounts = map[moduleCounter]map[uint64]uint64{moduleCounterCOUNTER_LOST: {}, moduleCounterCOUNTER_SHED: {}}
	for _, name := range sets {
		older, err := openOlder(p.pins, name)
		if isShortage(err) {
			return fmt.Errorf("open older programs: %w", err) // the next Open may succeed
		}
		if err != nil {
			// Its records cannot be read.
			p.leftovers = append(p.leftovers, errors.Join(err, p.pins.remove(name)))
			continue
		}
		for counter, values := range p.olderCounts {
			values[name.id] = older.counted(counter)
		}
		p.addOlder(older)
	}
	return nil
}

// addOlder makes the records of a detached set those that are read next.
func (p *Programs) addOlder(older *olderSet) {
	older.images.SetDeadline(time.Unix(1, 0)) // ReadImage does not wait for more
	p.older = append(p.older, older)
	p.olderImages = append(p.olderImages, older)
	p.draining, p.retired = append(p.draining, older), time.Now()
}

// remove removes a set.
func (p *pins) remove(name setName) error {
	if p == nil {
		return nil
	}
	// First, so that a set that is half removed is not taken for a complete one.
	gone := filepath.Join(p.path, unfinished+name.String())
	if err := os.Rename(p.of(name), gone); err != nil {
		return fmt.Errorf("remove pinned programs: %w", err)
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove pinned programs: %w", err)
	}
	return nil
}
