//go:build linux

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// A set is programs, where they are attached, and the maps that they share.
type set struct {
	name     setName
	path     string // of its pins; "" where there are none
	maps     map[string]*ebpf.Map
	counters *ebpf.Memory
	settings *ebpf.Memory
	records  *ring
	images   *ring
	attached []attached
	partial  bool // there was too little of something to attach all hooks
}

type attached struct {
	candidate
	loaded *ebpf.Program
	link   link.Link // nil for a pinned kprobe of a kernel that has no links of them
	id     uint64    // of the link
}

// open maps what the reader shares with the programs.
func (s *set) open() (err error) {
	for _, name := range []string{moduleMapCounters, moduleMapSettings, moduleMapRecords, moduleMapImages, moduleMapDenied} {
		if s.maps[name] == nil {
			return fmt.Errorf("open BPF maps: there is none called %s", name)
		}
	}
	if s.counters, err = s.maps[moduleMapCounters].Memory(); err != nil {
		return fmt.Errorf("map the programs' counters: %w", err)
	}
	if s.settings, err = s.maps[moduleMapSettings].Memory(); err != nil {
		return fmt.Errorf("map the programs' settings: %w", err)
	}
	if s.records, err = openRing(s.maps[moduleMapRecords]); err != nil {
		return err
	}
	s.images, err = openRing(s.maps[moduleMapImages])
	return err
}

// Close lets go of the set; what is not pinned is detached.
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
	for _, m := range s.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
