//go:build linux

package ebpf

import (
	"time"

	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/internal/source"
)

// grace is how long a Sync lets the loads that are under way come to their
// name and result; a load takes milliseconds, unless its module's init does
// not return.
const grace = 250 * time.Millisecond

// imageGrace is how long a Sync waits for images that are being read, which
// takes a tenth of a second for a large one.
const imageGrace = 5 * time.Second

// A barrier is the reading of everything that the ring buffer held at one
// moment. The methods of a nil barrier are those of none being asked for.
type barrier struct {
	pending source.Pending // to answer when it is done
	last    bool           // the source ends with it
	cause   error          // why it ends, where nobody asked it to
	left    int            // bytes of the ring still to read
	asked   time.Time      // what began later is not waited for
	until   time.Time      // end of grace
	images  time.Time      // end of patience with images that are being read
}

// took notes a record that was read.
func (b *barrier) took(raw []byte) {
	if b != nil {
		b.left -= bpf.RingSize(len(raw))
	}
}

// drained notes that the ring was empty.
func (b *barrier) drained() {
	if b != nil {
		b.left = 0
	}
}

// done reports whether everything was read and nothing worth waiting for is
// held back.
func (b *barrier) done(a *attempts) bool {
	if b == nil || b.left > 0 {
		return false
	}
	now := time.Now()
	if a.idle() || !now.Before(b.images) {
		return true
	}
	return !now.Before(b.until) && !a.isWaitingForImages()
}

// deadline is when the reader must look again though nothing came.
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
