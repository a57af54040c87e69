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

// Leftovers returns what went wrong with programs that these have replaced, and with their
// records.
func (p *Programs) Leftovers() []error { return p.leftovers }

// Shed returns, by set of programs, how many records that any user can cause were not
// sent since it was attached, most of them to keep half of the ring for loads.
func (p *Programs) Shed() map[uint64]uint64 { return p.counted(moduleCounterCOUNTER_SHED) }

// counted returns a counter of each set of programs.
func (p *Programs) counted(counter moduleCounter) map[uint64]uint64 {
	values := maps.Clone(p.olderCounts[counter])
	values[p.name.id] = p.counters[counter].Load()
	return values
}

// Lost returns, by set of programs, how many records were lost since it was attached:
// those for which the ring had no room, the returns of system calls that were missed,
// and, not in older sets, the runs of programs that the kernel skipped because the
// program already ran on that processor.
func (p *Programs) Lost() (map[uint64]uint64, error) {
	p.dropping.Lock()
	defer p.dropping.Unlock()
	lost := p.counted(moduleCounterCOUNTER_LOST)
	lost[p.name.id] += p.missed
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
