//go:build linux

package bpf

import (
	"slices"
	"sync/atomic"
	"unsafe"
)

const (
	recordKinds = 16 // RECORD_KINDS of record.h
	// maxHoles bounds the holes that are not judged yet. Beyond it the oldest is
	// forgotten.
	maxHoles = 1024
	// maxAhead is how far the number of a record may be ahead of the count of its
	// processor. Only a forged one is farther.
	maxAhead = 4096
)

// recordCounts are struct record_counts of record.h: by kind, the number of the last
// record that a processor has sent, and the highest that a reader has read. The latter
// is for the next process: root can change it, so a reader does not read its own again.
type recordCounts struct{ sent, seen [recordKinds]atomic.Uint64 }

// Filtered are numbered records that programs have sent and the ring buffer does not
// have, though it had room: code in the kernel keeps them from it.
type Filtered struct {
	CPU         int // each processor numbers its records of each kind from 1 on, in each set of programs
	Kind        Kind
	First, Last uint64
}

// Arrivals are the numbers of the records that were read from a ring. A number that was
// given and did not arrive is a hole. It is judged when all records are read that
// were in the ring after the number was given. The programs count a record when it is
// in the ring, so no hole is judged too early, and one for which the ring has no room
// gets no number. One goroutine may use it.
type arrivals struct {
	counts []recordCounts // by processor; in the memory of a map
	ring   *ring
	seen   [][recordKinds]uint64 // the highest numbers that were read
	holes  []Filtered            // below seen
	sent   [][recordKinds]uint64 // counts.sent when the last look began; nil if that has ended
	end    uint64                // end of the ring then
}

func newArrivals(counts []recordCounts, r *ring) *arrivals {
	a := &arrivals{counts: counts, seen: make([][recordKinds]uint64, len(counts)), ring: r}
	for cpu := range a.seen {
		for kind := range a.seen[cpu] {
			a.seen[cpu][kind] = min(counts[cpu].seen[kind].Load(), counts[cpu].sent[kind].Load())
		}
	}
	return a
}

// see notes the highest number that was read.
func (a *arrivals) see(cpu, kind int, number uint64) {
	a.seen[cpu][kind] = number
	a.counts[cpu].seen[kind].Store(number)
}

// add notes the arrival of a record.
func (a *arrivals) add(h *moduleRecordHeader) {
	if h.Cpu >= uint64(len(a.counts)) || h.Kind >= recordKinds || h.Number == 0 {
		return
	}
	seen := a.seen[h.Cpu][h.Kind]
	switch {
	case h.Number > a.counts[h.Cpu].sent[h.Kind].Load()+maxAhead:
		return
	case h.Number <= seen:
		a.fill(h)
		return
	case h.Number > seen+1:
		if len(a.holes) >= maxHoles {
			a.holes = slices.Delete(a.holes, 0, 1)
		}
		a.holes = append(a.holes, Filtered{CPU: int(h.Cpu), Kind: Kind(h.Kind), First: seen + 1, Last: h.Number - 1})
	}
	a.see(int(h.Cpu), int(h.Kind), h.Number)
}

// fill takes the number of a record from its hole, if it has one.
func (a *arrivals) fill(h *moduleRecordHeader) {
	for i, hole := range a.holes {
		if hole.CPU != int(h.Cpu) || hole.Kind != Kind(h.Kind) || h.Number < hole.First || h.Number > hole.Last {
			continue
		}
		below, above := hole, hole
		below.Last, above.First = h.Number-1, h.Number+1
		rest := slices.DeleteFunc([]Filtered{below, above}, func(f Filtered) bool { return f.First > f.Last })
		a.holes = slices.Replace(a.holes, i, i+1, rest...)
		return
	}
}

// missing returns the holes that can be judged, each once. If records of the last look
// are still to be read, it returns none.
func (a *arrivals) missing() (found []Filtered) {
	if a.sent == nil {
		a.sent = make([][recordKinds]uint64, len(a.counts))
		for cpu := range a.sent {
			for kind := range a.sent[cpu] {
				a.sent[cpu][kind] = a.counts[cpu].sent[kind].Load()
			}
		}
		_, a.end, _ = a.ring.positions() // after the counts
	}
	read, _, ok := a.ring.positions()
	if !ok || read < a.end {
		return nil
	}
	holes := a.holes
	a.holes = nil
	for _, hole := range holes {
		last := min(hole.Last, a.sent[hole.CPU][hole.Kind])
		if hole.First <= last {
			found = append(found, Filtered{CPU: hole.CPU, Kind: hole.Kind, First: hole.First, Last: last})
			hole.First = last + 1
		}
		if hole.First <= hole.Last {
			a.holes = append(a.holes, hole)
		}
	}
	for cpu := range a.sent {
		for kind, sent := range a.sent[cpu] {
			if seen := a.seen[cpu][kind]; seen < sent {
				found = append(found, Filtered{CPU: cpu, Kind: Kind(kind), First: seen + 1, Last: sent})
				a.see(cpu, kind, sent)
			}
		}
	}
	a.sent = nil
	return found
}

// missing returns the holes of the set that can be judged.
func (s *set) missing() []Filtered {
	if s.arrivals == nil {
		return nil
	}
	return s.arrivals.missing()
}

// Filtered returns the records that were found missing since its last call. Only the
// reading goroutine may call it.
func (p *Programs) Filtered() []Filtered {
	found := append(p.filtered, p.missing()...)
	p.filtered = nil
	return found
}

// HasHoles reports whether numbers are missing that Filtered has not judged yet. Only the
// reading goroutine may call it.
func (p *Programs) HasHoles() bool { return p.arrivals != nil && len(p.arrivals.holes) > 0 }

// Decode decodes a record that Read returned, and notes that it has arrived. Only the
// reading goroutine may call it.
func (p *Programs) Decode(raw []byte, position Position) (Record, error) {
	from := p.set
	for _, older := range p.draining {
		if older.name.id == position.Set {
			from = &older.set
		}
	}
	if from.arrivals == nil {
		raw = widen(raw)
	} else if header, err := view[moduleRecordHeader](raw); err == nil {
		from.arrivals.add(header)
	}
	return Decode(raw)
}

// widen adds the last fields of a header to a record of a layout that lacks them.
func widen(raw []byte) []byte {
	const end = int(unsafe.Offsetof(moduleRecordHeader{}.Number))
	if len(raw) < end {
		return raw
	}
	return slices.Insert(raw, end, make([]byte, int(unsafe.Sizeof(moduleRecordHeader{}))-end)...)
}
