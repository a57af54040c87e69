//go:build linux

package bpf

import (
	"errors"
	"os"
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

// Release gives records back to the kernel: those up to one position, and the
// image chunks up to another. Either may be zero. first is the position of the
// first record that was read and is still needed, or zero. Older sets of which
// nothing is needed any more are removed.
func (p *Programs) Release(records, images, first Mark) {
	p.dropping.Lock()
	defer p.dropping.Unlock()
	release := func(set uint64, of, with *ring) {
		if records.Set == set {
			of.Release(records.Position)
		}
		if images.Set == set {
			with.Release(images.Position)
		}
	}
	release(p.name.id, p.records, p.images)
	needed := first != (Mark{}) && first.Set != p.name.id || !p.drained.Load()
	for _, older := range p.older {
		release(older.name.id, older.records, older.images)
		needed = needed || len(older.denied) > 0
	}
	if needed {
		return
	}
	for _, older := range p.older {
		older.Close()
		_ = p.pins.remove(older.name) // the next Open removes what is left
	}
	p.older = nil
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
