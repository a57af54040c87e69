//go:build linux

package bpf

import (
	"errors"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// ErrFlushed is what a Read that a Flush interrupted returns.
var ErrFlushed = ringbuf.ErrFlushed

// A Mark is a place behind a record in the ring buffer of a set of programs. It
// can be compared and be a map's key. No two records on a host have the same.
type Mark struct {
	Set      uint64 // of programs
	Position uint64 // in bytes since the set was made
}

// Read waits for the next record. It returns ErrFlushed after a Flush,
// os.ErrDeadlineExceeded once the deadline has passed and the ring is empty,
// and os.ErrClosed after Close. The returned bytes are the caller's. What older
// sets of programs saw comes first.
// What was read and not released before the process ends is read again by the
// next one, if the programs are pinned.
func (p *Programs) Read() ([]byte, Mark, error) {
	for len(p.draining) > 0 {
		older := p.draining[0]
		// A program may still be writing there that was running as it was
		// detached.
		older.records.SetDeadline(p.retired.Add(afterRetirement))
		raw, position, err := older.records.Read(nil)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return raw, Mark{older.name.id, position}, err
		}
		if err := p.countDeniedIn(older); err != nil {
			return nil, Mark{}, err
		}
		p.draining = p.draining[1:]
	}
	p.drained.Store(true)
	raw, position, err := p.records.Read(nil)
	return raw, Mark{p.name.id, position}, err
}

// countDeniedIn reads what an older set has counted in the end.
func (p *Programs) countDeniedIn(older *olderSet) error {
	if older.name.layout < deniedLayout {
		return nil
	}
	counts, err := deniedCounts(older.name.id, older.maps)
	if err != nil {
		return err
	}
	p.dropping.Lock()
	defer p.dropping.Unlock()
	older.denied = map[DeniedCalls]DeniedCount{}
	for _, c := range counts {
		older.denied[c.DeniedCalls] = c
	}
	return nil
}

// afterRetirement is how long a program may go on that was running as it was
// detached.
const afterRetirement = 100 * time.Millisecond

// IsOlder reports whether a mark is of an older set.
func (p *Programs) IsOlder(m Mark) bool { return m.Set != p.name.id }

// Release says that nobody needs the records before a mark, nor the chunks before
// another, any more: the zero mark where it is none of them. The first record
// that is still needed, which was read, is that before a third mark; zero where
// all are not. It reports whether they could be given back to the kernel: while
// what older sets saw is needed, all stays, so that a process that comes after a
// crash can compare what they and this one saw. Older sets that are needed no
// more are removed.
func (p *Programs) Release(records, images, first Mark) bool {
	p.dropping.Lock()
	defer p.dropping.Unlock()
	s := settlement{set: p.name.id, records: p.own(records), images: p.own(images)}
	if len(p.older) == 0 {
		p.give(s)
		return true
	}
	if p.needsOlder(first) || p.pins.begin(s) != nil {
		// But rather than to lose what is still to come, the same is told twice.
		isCrowded := p.records.isCrowded()
		if isCrowded {
			p.give(s)
		}
		return isCrowded
	}
	p.give(s)
	for _, older := range p.older {
		older.Close()
	}
	p.older = nil
	_ = p.pins.finish(s) // what is left of them is removed with the next Open
	return true
}

// needsOlder reports whether what older sets saw is still needed.
func (p *Programs) needsOlder(first Mark) bool {
	position := p.records.read.Load()
	if first != (Mark{}) {
		position = first.Position - 1
	}
	hasDenied := func(older *olderSet) bool { return len(older.denied) > 0 }
	return !p.drained.Load() || slices.ContainsFunc(p.older, hasDenied) || first != (Mark{}) && p.IsOlder(first) || position < p.overlap
}

func (p *Programs) give(s settlement) {
	p.records.Release(s.records)
	p.images.Release(s.images)
}

// own is the mark's position if it is of this set, and 0 otherwise: those of
// older sets stay as long as one of them is needed.
func (p *Programs) own(m Mark) uint64 {
	if m.Set != p.name.id {
		return 0
	}
	return m.Position
}

// SetDeadline bounds the following Reads; the zero time lets them wait for
// ever. Only the reading goroutine may call it.
func (p *Programs) SetDeadline(t time.Time) { p.records.SetDeadline(t) }

// Flush interrupts a Read that waits: it returns ErrFlushed when the ring is
// empty. Several calls may be answered by one ErrFlushed.
func (p *Programs) Flush() error { return p.records.Flush() }

// Pending is how many bytes of the ring buffers wait to be read, each record
// with its RingSize. Only the reading goroutine may call it.
func (p *Programs) Pending() int {
	pending := p.records.unread()
	for _, older := range p.draining {
		pending += older.records.unread()
	}
	return pending
}
