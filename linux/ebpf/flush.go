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

// A flush is the reading of everything that the ring buffer held at one
// moment. The methods of a nil flush are those of none being asked for.
type flush struct {
	pending source.Pending // to answer when it is done
	last    bool           // the source ends with it
	cause   error          // why it ends, where nobody asked it to
	left    int            // bytes of the ring still to read
	asked   time.Time      // what began later is not waited for
	until   time.Time      // end of grace
	images  time.Time      // end of patience with images that are being read
}

// took notes a record that was read.
func (f *flush) took(raw []byte) {
	if f != nil {
		f.left -= bpf.RingSize(len(raw))
	}
}

// drained notes that the ring was empty.
func (f *flush) drained() {
	if f != nil {
		f.left = 0
	}
}

// done reports whether everything was read and nothing worth waiting for is
// held back.
func (f *flush) done(join *joiner) bool {
	if f == nil || f.left > 0 {
		return false
	}
	now := time.Now()
	if join.idle() || !now.Before(f.images) {
		return true
	}
	return !now.Before(f.until) && !join.isWaitingForImages()
}

// deadline is when the reader must look again though nothing came.
func (f *flush) deadline(join *joiner) time.Time {
	next := join.next()
	if f == nil {
		return next
	}
	until := f.until
	if !time.Now().Before(until) {
		until = f.images
	}
	if next.IsZero() || until.Before(next) {
		return until
	}
	return next
}
