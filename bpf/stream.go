//go:build linux

package bpf

import (
	"errors"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// ErrFlushed is the error of a Read that a Flush interrupted.
var ErrFlushed = ringbuf.ErrFlushed

// A Position is the end of a record in a ring buffer of a set of programs. It is
// comparable, and unique on a host among the records, and among the image chunks.
type Position struct {
	Set    uint64 // ID of the set
	Offset uint64 // in bytes, since the set was made
}

// Read waits for the next record and returns it with its position. The records of
// older sets come first. The caller owns the bytes. Read returns ErrFlushed after a
// Flush, os.ErrDeadlineExceeded after the deadline, both once the ring is empty,
// os.ErrClosed after Close, and an error that matches ErrDamaged if no more can be read.
//
// If the programs are pinned, the next process reads again the records that this
// one has not released.
func (p *Programs) Read() ([]byte, Position, error) {
	for len(p.draining) > 0 {
		older := p.draining[0]
		// A program that was running when it was detached may still write.
		older.records.SetDeadline(p.retired.Add(afterRetirement))
		raw, position, err := older.records.Read(nil)
		if errors.Is(err, ErrDamaged) { // the next Open must not find it again
			return nil, Position{}, errors.Join(err, p.pins.remove(older.name))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return raw, Position{older.name.id, position}, err
		}
		if err := p.countDeniedIn(older); err != nil {
			return nil, Position{}, err
		}
		p.filtered = append(p.filtered, older.missing()...)
		p.draining = p.draining[1:]
	}
	p.drained.Store(true)
	raw, position, err := p.records.Read(nil)
	return raw, Position{p.name.id, position}, err
}

// countDeniedIn reads the final counts of an older set.
func (p *Programs) countDeniedIn(older *olderSet) error {
	if older.name.layout < deniedLayout {
		return nil
	}
	counts, err := older.deniedCounts()
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

// afterRetirement bounds how long a program goes on running after it was detached.
const afterRetirement = 100 * time.Millisecond

// Release gives records back to the kernel: those up to one position, and the
// image chunks up to another, also those that were read of earlier sets. Either may be zero. first is the position of the
// first record that was read and is still needed, or zero. Older sets of which
// nothing is needed any more are removed.
func (p *Programs) Release(records, images, first Position) {
	p.dropping.Lock()
	defer p.dropping.Unlock()
	release := func(set uint64, of, with *ring) {
		for _, to := range []struct {
			ring *ring
			Position
		}{{of, records}, {with, images}} {
			switch {
			case to.Set == set:
				to.ring.Release(to.Offset)
			case to.Set > set: // nothing here is needed: a later process would take it for new
				to.ring.Release(to.ring.read.Load())
			}
		}
	}
	release(p.name.id, p.records, p.images)
	needed := first != (Position{}) && first.Set != p.name.id || !p.drained.Load()
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

// SetDeadline sets the deadline of Read; zero is none. Only the reading goroutine
// may call it.
func (p *Programs) SetDeadline(t time.Time) { p.records.SetDeadline(t) }

// Flush makes Read return ErrFlushed once the ring is empty. One ErrFlushed may
// answer several calls.
func (p *Programs) Flush() error { return p.records.Flush() }

// Pending returns the number of unread bytes in the ring buffers, the sum of the
// records' RingSize. Only the reading goroutine may call it.
func (p *Programs) Pending() int {
	pending := p.records.unread()
	for _, older := range p.draining {
		pending += older.records.unread()
	}
	return pending
}
