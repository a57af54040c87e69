//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// A set is attached programs and the maps that they share.
type set struct {
	name     setName
	path     string // of its pins; empty if it is not pinned
	maps     map[string]*ebpf.Map
	counters *[moduleCounterCOUNTERS]atomic.Uint64
	settings *moduleReaderSettings
	owners   *owners
	mapped   [][]byte // the memory of the three above and of arrivals
	records  *ring
	images   *ring
	arrivals *arrivals // of records; nil if they are not numbered
	attached []attached
	partial  bool // a shortage kept some hooks from being attached
}

// open maps the memory that the reader shares with the programs.
func (s *set) open() (err error) {
	if err := s.need(moduleMapCounters, moduleMapSettings, moduleMapDenied, moduleMapOwners); err != nil {
		return err
	}
	if s.counters, err = mapMemory[[moduleCounterCOUNTERS]atomic.Uint64](s, moduleMapCounters); err != nil {
		return err
	}
	if s.settings, err = mapMemory[moduleReaderSettings](s, moduleMapSettings); err != nil {
		return err
	}
	if s.owners, err = mapMemory[owners](s, moduleMapOwners); err != nil {
		return err
	}
	return s.openRings()
}

// openRings opens the rings, and the counts of the records in them.
func (s *set) openRings() (err error) {
	if err := s.need(moduleMapRecords, moduleMapImages); err != nil {
		return err
	}
	if s.records, err = openRing(s.maps[moduleMapRecords]); err != nil {
		return err
	}
	if s.images, err = openRing(s.maps[moduleMapImages]); err != nil || s.name.layout < numberedLayout {
		return err
	}
	if err := s.need(moduleMapSent); err != nil {
		return err
	}
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	// Root can pin another map in its place.
	sent := s.maps[moduleMapSent]
	if sent.Type() != ebpf.Array || uintptr(sent.ValueSize()) != unsafe.Sizeof(recordCounts{}) || int(sent.MaxEntries()) != processors {
		return fmt.Errorf("open BPF maps: %s is not the map that was pinned: %v", moduleMapSent, sent)
	}
	first, err := mapMemory[recordCounts](s, moduleMapSent)
	if err != nil {
		return err
	}
	s.arrivals = newArrivals(unsafe.Slice(first, processors), s.records)
	return nil
}

// need returns an error if the set lacks one of the maps.
func (s *set) need(names ...string) error {
	for _, name := range names {
		if s.maps[name] == nil {
			return fmt.Errorf("open BPF maps: there is none called %s", name)
		}
	}
	return nil
}

// mapMemory maps the content of a map, which programs use at the same time, until Close.
func mapMemory[T any](s *set, name string) (*T, error) {
	m, page := s.maps[name], os.Getpagesize()
	size := (int(m.ValueSize()*m.MaxEntries()) + page - 1) / page * page
	memory, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the memory of BPF map %s: %w", name, err)
	}
	s.mapped = append(s.mapped, memory)
	return (*T)(unsafe.Pointer(&memory[0])), nil
}

// Close closes the set. Programs that are not pinned are detached.
func (s *set) Close() error {
	var errs []error
	for _, a := range s.attached {
		errs = append(errs, a.detach(), a.loaded.Close())
	}
	for _, ring := range []*ring{s.records, s.images} {
		if ring != nil {
			errs = append(errs, ring.Close())
		}
	}
	for _, memory := range s.mapped {
		errs = append(errs, unix.Munmap(memory))
	}
	s.mapped = nil
	for _, m := range s.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// pin pins the set, as a whole or not at all, also if some of its pins were removed.
func (s *set) pin(p *pins) (err error) {
	final := p.of(s.name)
	// Another name each time: a map that was pinned there is not pinned there again.
	folder := filepath.Join(p.path, fmt.Sprintf("%s%x_%s", unfinished, time.Now().UnixNano(), s.name))
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(folder))
		}
	}()
	parts := []string{"", pinnedMaps, pinnedPrograms, pinnedLinks, pinnedProbes}
	if s.partial {
		parts = append(parts, pinnedPartial)
	}
	for _, part := range parts {
		if err := os.Mkdir(filepath.Join(folder, part), 0o700); err != nil {
			return fmt.Errorf("pin programs: %w", err)
		}
	}
	for name, m := range s.maps {
		if err := m.Pin(filepath.Join(folder, pinnedMaps, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	for _, a := range s.attached {
		if err := a.loaded.Pin(filepath.Join(folder, pinnedPrograms, a.program)); err != nil {
			return fmt.Errorf("pin program %s: %w", a.program, err)
		}
		if err := a.pin(folder); err != nil {
			return fmt.Errorf("pin link of %s: %w", a.program, err)
		}
	}
	if err := errors.Join(os.RemoveAll(final), os.Rename(folder, final)); err != nil {
		return fmt.Errorf("pin programs: %w", err)
	}
	s.path = final
	return nil
}

func (a *attached) pin(folder string) error {
	probe := filepath.Join(folder, pinnedProbes, a.program)
	if a.link == nil {
		return a.probe.Pin(probe)
	}
	err := a.link.Pin(filepath.Join(folder, pinnedLinks, a.program))
	if errors.Is(err, link.ErrNotSupported) {
		err = a.keepProbe(probe)
	}
	return err
}

// keepProbe pins a kprobe on kernels before 5.15, which have no kprobe links: the
// kprobe is a perf event, and a pinned array of perf events keeps its elements (5.10,
// BPF_F_PRESERVE_ELEMS).
func (a *attached) keepProbe(path string) error {
	perf, ok := a.link.(link.PerfEvent)
	if !ok {
		return errNotPinnable
	}
	event, err := perf.PerfEvent()
	if err != nil {
		return fmt.Errorf("open a perf event: %w", err)
	}
	defer event.Close()
	probe, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "probe", Type: ebpf.PerfEventArray, KeySize: 4, ValueSize: 4, MaxEntries: 1, Flags: unix.BPF_F_PRESERVE_ELEMS,
	})
	if err != nil {
		return fmt.Errorf("%w: keep kprobe: %w", errNotPinnable, err)
	}
	defer probe.Close()
	if err := probe.Put(uint32(0), uint32(event.Fd())); err != nil {
		return fmt.Errorf("%w: keep kprobe: %w", errNotPinnable, err)
	}
	return probe.Pin(path)
}

// adopt opens a pinned set. It returns an error if a hook that the kernel has is
// without a program.
func adopt(p *pins, name setName, list []hook) (_ *set, err error) {
	s := &set{name: name, path: p.of(name)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if exists(p.of(name, pinnedPartial)) {
		return nil, errors.New("open pinned programs: not all hooks could be attached then")
	}
	if err := s.loadPinnedMaps(); err != nil {
		return nil, err
	}
	for _, h := range list {
		found := false
		for _, c := range h.programs {
			a, err := s.loadPinned(c)
			if errors.Is(err, os.ErrNotExist) {
				continue
			} else if err != nil {
				return nil, err
			}
			s.attached = append(s.attached, a)
			found = true
			break
		}
		if !found && !h.optional {
			return nil, fmt.Errorf("open pinned programs: there is none for %s", h.name)
		}
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *set) loadPinnedMaps() error {
	entries, err := os.ReadDir(filepath.Join(s.path, pinnedMaps))
	if err != nil {
		return fmt.Errorf("open pinned maps: %w", err)
	}
	s.maps = map[string]*ebpf.Map{}
	for _, entry := range entries {
		m, err := ebpf.LoadPinnedMap(filepath.Join(s.path, pinnedMaps, entry.Name()), nil)
		if err != nil {
			return fmt.Errorf("open pinned map %s: %w", entry.Name(), err)
		}
		s.maps[entry.Name()] = m
	}
	return nil
}

func (s *set) loadPinned(c candidate) (a attached, err error) {
	a.candidate = c
	if a.loaded, err = ebpf.LoadPinnedProgram(filepath.Join(s.path, pinnedPrograms, c.program), nil); err != nil {
		return a, fmt.Errorf("open pinned program %s: %w", c.program, err)
	}
	a.link, err = link.LoadPinnedLink(filepath.Join(s.path, pinnedLinks, c.program), nil)
	if errors.Is(err, os.ErrNotExist) {
		a.probe, err = ebpf.LoadPinnedMap(filepath.Join(s.path, pinnedProbes, c.program), nil)
	}
	switch {
	case err != nil:
		return a, errors.Join(fmt.Errorf("open pinned link of %s: %w", c.program, err), a.loaded.Close())
	case a.link == nil:
		return a, nil
	}
	if a.id, err = identify(a.link); err != nil {
		return a, errors.Join(err, a.link.Close(), a.loaded.Close())
	}
	return a, nil
}

// An olderSet is a detached set with records that are still to be read.
type olderSet struct {
	set
	denied map[DeniedCalls]DeniedCount // not acked yet; nil until the records were read
}

// openOlder opens the rings of a detached set.
func openOlder(p *pins, name setName) (*olderSet, error) {
	if name.layout < oldestLayout || name.layout > layout {
		return nil, fmt.Errorf("%s is of a version that this program cannot read: what waits there is lost", name)
	}
	o := &olderSet{set: set{name: name, path: p.of(name)}}
	err := o.loadPinnedMaps()
	if err == nil {
		err = o.openRings()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read what waits in %s: %w", name, err), o.Close())
	}
	return o, nil
}

// counted returns a counter of the set, or 0 if its version does not have it.
func (o *olderSet) counted(counter moduleCounter) (n uint64) {
	if m := o.maps[moduleMapCounters]; m != nil {
		_ = m.Lookup(uint32(counter), &n)
	}
	return n
}
