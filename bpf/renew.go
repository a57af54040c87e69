//go:build linux

package bpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
)

// maxOlder bounds the sets whose records are not all stored yet. Beyond it no programs are
// renewed: each set has rings of 32 MiB.
const maxOlder = 4

// Renew attaches new programs while these go on recording, as in an upgrade (upgrade.go).
// It then makes the new ones the owner of what begins, and detaches these. Meanwhile they
// are read as before, and Check must not be called. Inherit makes the new programs read what is
// left. After an error these own what begins, as before.
func (p *Programs) Renew(ctx context.Context, o Options) (*Programs, error) {
	next := &Programs{found: true}
	c, err := next.prepare(o)
	if err == nil {
		err = p.renew(ctx, o, next, c)
	}
	if err != nil {
		return nil, fmt.Errorf("attach the hooks again: %w", errors.Join(err, next.Close()))
	}
	next.cache = nil
	return next, nil
}

func (p *Programs) renew(ctx context.Context, o Options, next *Programs, c choice) error {
	// Root can remove their pins before a process adopts the set.
	if err := p.need(sharedMaps...); err != nil {
		return err
	}
	if err := p.need(moduleMapThreads); err != nil {
		return err
	}
	pins := p.pins
	isWanted := o.PinDir != "" && (!o.OnlyPinned || p.path != "")
	if isWanted && (pins == nil || !pins.isThere()) {
		pins, next.unpinned = openPins(o.PinDir)
		next.pins = pins
	} else if !isWanted {
		next.unpinned = errNotAsked
	}
	sets, err := p.names(pins)
	if err != nil {
		return err
	}
	next.set = &set{name: setName{layout: layout, digest: digest(c.object, c.list), id: newSetID(sets)}}
	c.list = upgradeOrder(c.list)
	shared := map[string]*ebpf.Map{}
	for _, name := range sharedMaps {
		shared[name] = p.maps[name]
	}
	if err := next.attachAll(ctx, c, shared, false); err != nil {
		return err
	}
	if len(next.unattached) > 0 && (next.partial || len(next.attached) < p.running()) {
		return errors.Join(next.unattached...)
	}
	if next.unpinned == nil {
		next.unpinned = next.pin(pins)
	}
	if next.unpinned != nil && p.path != "" {
		return next.unpinned
	}
	if err := sleep(ctx, stampAge); err != nil {
		return err
	}
	next.owners.current.Store(next.name.id)
	if err := p.retire(ctx); err != nil && ctx.Err() == nil {
		next.leftovers = append(next.leftovers, fmt.Errorf("detach the hooks that were replaced: %w", err))
	}
	return nil
}

// running returns the number of programs that run.
func (p *Programs) running() (n int) {
	isOff := kprobes.isOff()
	for _, a := range p.attached {
		if !a.isGone() && (!isOff || !a.as.isKprobe()) {
			n++
		}
	}
	return n
}

// names returns the names of all sets that there are.
func (p *Programs) names(pins *pins) (names []setName, err error) {
	if pins != nil {
		if names, err = pins.sets(); err != nil {
			return nil, err
		}
	}
	p.dropping.Lock()
	defer p.dropping.Unlock()
	if len(p.older) >= maxOlder {
		return nil, fmt.Errorf("the records of %d earlier sets of hooks are not stored yet", len(p.older))
	}
	names = append(names, p.name)
	for _, older := range p.older {
		names = append(names, older.name)
	}
	return names, nil
}

// retire detaches the programs, which own nothing that begins now, when their calls have
// returned.
func (p *Programs) retire(ctx context.Context) error {
	if err := sleep(ctx, stampAge); err != nil {
		return err
	}
	if err := awaitCalls(ctx, p.maps[moduleMapThreads]); err != nil {
		return err
	}
	p.dropping.Lock()
	gone := p.attached
	p.attached = nil
	for _, a := range gone {
		if stats, err := a.loaded.Stats(); err == nil && !a.sendsNothing() {
			p.missed += stats.RecursionMisses
		}
	}
	p.dropping.Unlock()
	// Each kprobe that is detached takes the kernel a grace period.
	var ids []ebpf.ProgramID
	var closing sync.WaitGroup
	errs := make([]error, len(gone), len(gone)+2)
	for i, a := range gone {
		ids = appendID(ids, a.loaded)
		closing.Go(func() { errs[i] = errors.Join(a.detach(), a.loaded.Close()) })
	}
	closing.Wait()
	if p.path != "" {
		errs = append(errs, p.pins.unlink(p.name))
	}
	errs = append(errs, awaitFree(ctx, ids))
	p.owners.oldest.Store(p.owners.current.Load())
	return errors.Join(errs...)
}

// Inherit makes p read what the programs that it has renewed have recorded and not
// released, and closes them, and counts the losses of no set before those. None of their methods may be called meanwhile or afterwards.
func (p *Programs) Inherit(from *Programs) error {
	lost, err := from.Lost()
	if err != nil {
		return err
	}
	isLeft := func(id uint64) bool {
		return id == from.name.id || slices.ContainsFunc(from.older, func(s *olderSet) bool { return s.name.id == id })
	}
	maps.DeleteFunc(lost, func(id, _ uint64) bool { return !isLeft(id) })
	shed := from.Shed()
	maps.DeleteFunc(shed, func(id, _ uint64) bool { return !isLeft(id) })
	p.olderCounts = map[moduleCounter]map[uint64]uint64{moduleCounterCOUNTER_LOST: lost, moduleCounterCOUNTER_SHED: shed}
	if p.pins == nil {
		p.pins, from.pins = from.pins, nil
	}
	sets := []*set{from.set}
	for i := len(from.older) - 1; i >= 0; i-- {
		sets = append([]*set{&from.older[i].set}, sets...)
	}
	var errs []error
	for _, s := range sets {
		older := &olderSet{set: set{name: s.name, path: s.path, maps: s.maps}}
		s.maps = nil
		errs = append(errs, s.Close())
		if err := older.openRings(); err != nil {
			return errors.Join(fmt.Errorf("read what earlier programs have recorded: %w", err), older.Close())
		}
		if s.arrivals != nil {
			older.arrivals.holes, older.arrivals.seen = s.arrivals.holes, s.arrivals.seen
		}
		p.addOlder(older)
	}
	from.older, p.filtered = nil, from.filtered
	return errors.Join(append(errs, from.Close())...)
}

// Restore sets again what another process has changed in the memory with which the programs
// decide what to send. It and NextEpoch must not run concurrently.
func (p *Programs) Restore() {
	*p.settings = p.wanted
	p.owners.current.Store(p.name.id)
	p.owners.oldest.Store(p.name.id)
	p.records.restore()
	p.images.restore()
}

// isWhole reports whether all pins of the set are there.
func (p *Programs) isWhole() bool {
	has := func(part string, n int) bool {
		entries, err := os.ReadDir(p.pins.of(p.name, part))
		return err == nil && len(entries) == n || err != nil && !errors.Is(err, fs.ErrNotExist) // what cannot be read may be there
	}
	return p.pins.isThere() && p.pins.hasLinks(p.name) &&
		has(pinnedMaps, len(p.maps)) && has(pinnedPrograms, len(p.attached))
}

// Repin pins programs again whose pins were removed. They run meanwhile, because this process
// has them open. Check must not be called meanwhile.
func (p *Programs) Repin() (err error) {
	pins := p.pins
	if !pins.isThere() {
		if pins, err = openPins(pins.path); err != nil {
			return err
		}
	}
	err = p.pin(pins)
	p.dropping.Lock()
	p.pins, pins = pins, p.pins
	p.dropping.Unlock()
	if pins != p.pins {
		err = errors.Join(err, pins.Close())
	}
	return err
}
