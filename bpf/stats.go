//go:build linux

package bpf

import (
	"fmt"
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

// Lost returns, by set of programs, how many records were lost since it was attached:
// those for which the ring had no room, the returns of system calls that were missed,
// and, not in older sets, the runs of programs that the kernel skipped because the
// program already ran on that processor.
func (p *Programs) Lost() (map[uint64]uint64, error) {
	p.dropping.Lock()
	defer p.dropping.Unlock()
	lost := maps.Clone(p.olderLost)
	lost[p.name.id] = p.counters[moduleCounterCOUNTER_LOST].Load() + p.missed
	for _, a := range p.attached {
		if a.sendsNothing() {
			continue
		}
		stats, err := a.loaded.Stats()
		if err != nil {
			return nil, fmt.Errorf("read statistics of %s: %w", a.symbol, err)
		}
		lost[p.name.id] += stats.RecursionMisses
	}
	return lost, nil
}
