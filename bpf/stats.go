//go:build linux

package bpf

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
)

// Hooks returns the attached hooks, each as "symbol (how)".
func (p *Programs) Hooks() []string {
	names := make([]string, len(p.attached))
	for i, a := range p.attached {
		names[i] = a.String()
	}
	return names
}

// Unattached returns an error for each hook that could not be attached.
func (p *Programs) Unattached() []error { return p.unattached }

// Counters are statistics since the programs were attached.
type Counters struct {
	// Lost counts, by set of programs, the records for which the ring had no room,
	// the returns of system calls that were missed, and, not in older sets, the
	// runs of programs that the kernel skipped because the program already ran on
	// that processor.
	Lost map[uint64]uint64
}

// Counters reads the counters of the programs.
func (p *Programs) Counters() (Counters, error) {
	var c Counters
	var raw [moduleCounterCOUNTERS]uint64
	if err := binary.Read(io.NewSectionReader(p.counters, 0, int64(binary.Size(raw))), binary.NativeEndian, &raw); err != nil {
		return Counters{}, fmt.Errorf("read the programs' counters: %w", err)
	}
	c.Lost = maps.Clone(p.olderLost)
	c.Lost[p.name.id] = raw[moduleCounterCOUNTER_LOST]
	for _, a := range p.attached {
		if a.sendsNothing() {
			continue
		}
		stats, err := a.loaded.Stats()
		if err != nil {
			return Counters{}, fmt.Errorf("read statistics of %s: %w", a.symbol, err)
		}
		c.Lost[p.name.id] += stats.RecursionMisses
	}
	return c, nil
}
