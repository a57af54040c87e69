//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// TurnSlack is how far apart, at most, two sets of programs at the same hooks see
// the same call begin.
const TurnSlack = 250 * time.Millisecond

// callPatience is how long the calls that began in an older set's turn may take
// to return before it is detached: an init may take for ever.
const (
	callPatience = 2 * time.Second
	callPoll     = 10 * time.Millisecond
)

// A Turn is when a set of programs is the one that tells of what happens: of the
// calls that it sees begin from Begin on and before End. A set is attached, hook
// by hook, while an older one still tells of everything. Its turn begins when all
// of its hooks are there, and that of the older one ends TurnSlack later; the
// older one stays for as long again. So both see the whole of every call that
// begins within TurnSlack of that Begin, which one of them might place before and
// the other after it.
type Turn struct {
	Set uint64
	// Begin is a moment of the boot clock; 0 where it never came to it.
	Begin time.Duration
	// End is one too; 0 where it has none.
	End time.Duration
}

// Has reports whether it is the turn in which a call began.
func (t Turn) Has(begin time.Duration) bool {
	return t.Begin != 0 && begin >= t.Begin && (t.End == 0 || begin < t.End)
}

// always is the Begin of a set before which there was none.
const always = 1

// Turns are those of the sets that Read reads, the oldest first; nil where there
// is only one.
func (p *Programs) Turns() []Turn {
	if len(p.turns) < 2 {
		return nil
	}
	turns := make([]Turn, len(p.turns))
	var end time.Duration
	for i := len(p.turns) - 1; i >= 0; i-- {
		turns[i] = Turn{p.turns[i].Set, p.turns[i].Begin, end}
		if begin := turns[i].Begin; begin != 0 {
			end = begin + TurnSlack
		}
	}
	return turns
}

// takeTurn begins this set's turn, and returns when those of the others are over
// and they can be detached. The moment is kept with the set: whoever finds it
// draws the same line.
func (p *Programs) takeTurn(sets []setName) error {
	if p.wanted.BeginNs == 0 {
		begin := time.Duration(always)
		if len(sets) > 0 {
			var err error
			if begin, err = bootTime(); err != nil {
				return err
			}
		}
		p.wanted.BeginNs = uint64(begin)
		if err := p.writeSettings(); err != nil {
			return err
		}
	}
	wasAttached := false
	for _, name := range sets {
		if !p.pins.isAttached(name) {
			continue
		}
		wasAttached = true
		now, err := bootTime()
		if err != nil {
			return err
		}
		time.Sleep(time.Duration(p.wanted.BeginNs) + 2*TurnSlack - now)
		p.pins.awaitCalls(name)
	}
	if wasAttached {
		return p.clearDenied()
	}
	return nil
}

// clearDenied forgets the denied calls that this set has counted so far: the
// older set has counted them too.
func (p *Programs) clearDenied() error {
	counts, err := p.DeniedCounts()
	if err != nil {
		return err
	}
	for _, c := range counts {
		if c.IsOther() {
			err = p.maps[moduleMapCounters].Put(c.counter(), uint64(0))
		} else {
			_, err = p.ForgetDenied(c.DeniedCalls)
		}
		if err != nil {
			return fmt.Errorf("clear denied calls: %w", err)
		}
	}
	return nil
}

func bootTime() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("read the boot clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

func (p *pins) isAttached(name setName) bool {
	for _, part := range []string{pinnedLinks, pinnedProbes} {
		if _, err := os.Lstat(filepath.Join(p.of(name), part)); err == nil {
			return true
		}
	}
	return false
}

// hasFexit reports whether a set has programs at the returns of system calls as
// tracing programs (hook.go).
func (p *pins) hasFexit(name setName) bool {
	found, _ := filepath.Glob(filepath.Join(p.of(name, pinnedLinks), "fexit_sys_*")) // the pattern is no bad one
	return len(found) > 0
}

// awaitCalls waits until the calls have returned that a set sees under way.
func (p *pins) awaitCalls(name setName) {
	threads, err := ebpf.LoadPinnedMap(p.of(name, pinnedMaps, moduleMapThreads), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return // it is no whole set
	}
	defer threads.Close()
	waiting := callsUnderWay(threads)
	for deadline := time.Now().Add(callPatience); len(waiting) > 0 && time.Now().Before(deadline); time.Sleep(callPoll) {
		underWay := callsUnderWay(threads)
		maps.DeleteFunc(waiting, func(tid uint32, call string) bool { return underWay[tid] != call })
	}
}

// callsUnderWay are the outermost attempts of a map of threads: their identity,
// depth and beginning, by thread (struct thread of common.h, and begin_ns, the
// first of struct attempt).
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

// turn is when a set that was left behind began to tell.
func (o *olderSet) turn() (Turn, error) {
	settings, err := settingsOf(o.maps)
	return Turn{Set: o.name.id, Begin: time.Duration(settings.BeginNs)}, err
}

// settingsOf are those of a set that was left behind.
func settingsOf(maps map[string]*ebpf.Map) (settings moduleReaderSettings, err error) {
	m := maps[moduleMapSettings]
	if m == nil {
		return settings, errors.New("read the settings of pinned programs: they have none")
	}
	if err := m.Lookup(uint32(0), &settings); err != nil {
		return settings, fmt.Errorf("read the settings of pinned programs: %w", err)
	}
	return settings, nil
}

// lost is how many records a set that was left behind could not hand over.
func (o *olderSet) lost() (n uint64) {
	if m := o.maps[moduleMapCounters]; m != nil {
		_ = m.Lookup(uint32(moduleCounterCOUNTER_LOST), &n) // an array has it
	}
	return n
}
