//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// A settlement says that everything which the sets before one saw is safe, and
// what that one saw up to these positions. Sets that have seen the same are
// compared as long as both are there, so the older ones must go, and what is
// safe of the younger one, in one step, at whatever instruction a process ends:
// a settlement is a folder's name, and whoever finds it finishes it.
type settlement struct {
	set             uint64
	records, images uint64 // positions
}

func (s settlement) String() string {
	return fmt.Sprintf("%s%016x_%016x_%016x", settled, s.set, s.records, s.images)
}

func parseSettlement(text string) (s settlement, ok bool) {
	_, err := fmt.Sscanf(text, settled+"%16x_%16x_%16x", &s.set, &s.records, &s.images)
	return s, err == nil && s.String() == text
}

// begin makes a settlement hold.
func (p *pins) begin(s settlement) error {
	if err := os.Mkdir(filepath.Join(p.path, s.String()), 0o700); err != nil {
		return fmt.Errorf("settle older sets of programs: %w", err)
	}
	return nil
}

// finish does what a settlement says.
func (p *pins) finish(s settlement) error {
	entries, err := os.ReadDir(p.path)
	if err != nil {
		return fmt.Errorf("settle older sets of programs: %w", err)
	}
	for _, entry := range entries {
		name, ok := parseSetName(entry.Name())
		switch {
		case !ok || name.id > s.set:
			continue
		case name.id == s.set:
			err = errors.Join(p.skip(name, moduleMapRecords, s.records), p.skip(name, moduleMapImages, s.images))
		default:
			err = os.RemoveAll(p.of(name))
		}
		if err != nil {
			return fmt.Errorf("settle older sets of programs: %w", err)
		}
	}
	if err := os.Remove(filepath.Join(p.path, s.String())); err != nil {
		return fmt.Errorf("settle older sets of programs: %w", err)
	}
	return nil
}

// skip releases the beginning of one of a set's rings.
func (p *pins) skip(name setName, ring string, position uint64) error {
	m, err := ebpf.LoadPinnedMap(p.of(name, pinnedMaps, ring), nil)
	if err != nil {
		return fmt.Errorf("open pinned map %s: %w", ring, err)
	}
	defer m.Close()
	r, err := openRing(m)
	if err != nil {
		return err
	}
	r.skip(position)
	return r.Close()
}

// retire detaches other sets, now that this one sees everything, and opens what
// is left in them.
func (p *Programs) retire(sets []setName) error {
	p.olderLost = map[uint64]uint64{}
	for _, name := range sets {
		older, err := retire(p.pins, name)
		var turn Turn
		if err == nil {
			if turn, err = older.turn(); err != nil {
				err = errors.Join(err, older.Close())
			}
		}
		if isShortage(err) {
			return fmt.Errorf("read what waits in pinned programs: %w", err) // the next Open may
		}
		if err != nil {
			// Nothing more can be had of it.
			p.unattached = append(p.unattached, errors.Join(err, os.RemoveAll(p.pins.of(name))))
			continue
		}
		p.older = append(p.older, older)
		p.olderLost[name.id] = older.lost()
		p.turns = append(p.turns, turn)
		older.images.SetDeadline(time.Unix(1, 0)) // it gives what it has
		p.olderImages = append(p.olderImages, older.images)
	}
	p.turns = append(p.turns, Turn{Set: p.name.id, Begin: time.Duration(p.wanted.BeginNs)})
	if len(p.older) > 0 {
		p.draining, p.retired, p.overlap = slices.Clone(p.older), time.Now(), p.records.end()
	}
	return nil
}
