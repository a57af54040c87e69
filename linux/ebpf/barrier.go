//go:build linux

package ebpf

import (
	"time"

	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/internal/source"
)

const (
	// grace is how long a Sync waits for the names and results of loads that are
	// under way. A load takes milliseconds, unless its module's init blocks.
	grace = 250 * time.Millisecond
	// imageGrace is how long a Sync waits for images to be read. A large image takes
	// about 0.1 s.
	imageGrace = 5 * time.Second
)

// A barrier tracks whether the records that the ring buffer held when a Sync was
// called, or when the run was asked to end, were read and their events emitted. A
// nil barrier is valid and waits for nothing.
type barrier struct {
	pending source.Pending // released when the barrier is done
	last    bool           // the run ends with it
	cause   error          // error that the run returns; nil if its context ended
	left    int            // bytes of the ring buffer still to read
	asked   time.Time      // when it was made; it does not wait for later attempts
	until   time.Time      // end of grace
	images  time.Time      // end of imageGrace
}

// took notes that a record was read.
func (b *barrier) took(raw []byte) {
	if b != nil {
		b.left -= bpf.RingSize(len(raw))
	}
}

// drained notes that the ring buffer was seen empty.
func (b *barrier) drained() {
	if b != nil {
		b.left = 0
	}
}

// done reports whether every record was read and the attempts have nothing more to
// wait for, or their grace ended.
func (b *barrier) done(a *attempts) bool {
	if b == nil || b.left > 0 {
		return false
	}
	now := time.Now()
	if a.isIdle() || !now.Before(b.images) {
		return true
	}
	return !now.Before(b.until) && !a.isWaitingForImages()
}

// deadline returns when to call done again if no record comes; zero if a record
// must come first.
func (b *barrier) deadline(a *attempts) time.Time {
	next := a.next()
	if b == nil {
		return next
	}
	until := b.until
	if !time.Now().Before(until) {
		until = b.images
	}
	if next.IsZero() || until.Before(next) {
		return until
	}
	return next
}
