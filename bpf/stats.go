//go:build linux

package bpf

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
)

// Hooks names what is attached, each as "symbol (how)".
func (p *Programs) Hooks() []string {
	names := make([]string, len(p.attached))
	for i, a := range p.attached {
		names[i] = a.String()
	}
	return names
}

// Unattached says which hooks are missing and why.
func (p *Programs) Unattached() []error { return p.unattached }

// Counters say what became of the records since the programs were attached.
type Counters struct {
	// Lost is what each set of programs lost: the ring had no room, a system call's
	// return went unseen, or the kernel did not run a program that sends records,
	// because it already ran on that processor. Of older sets, which Open has
	// relieved, the last is not known.
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
