//go:build linux

package linux

import (
	"time"

	"github.com/kmodquery/kmodquery/bpf"
)

// grace is how long a Sync lets the loads that are under way come to their
// name and result; a load takes milliseconds, unless its module's init does
// not return.
const grace = 250 * time.Millisecond

// A flush is the reading of everything that the ring buffer held at one
// moment. The methods of a nil flush are those of none being asked for.
type flush struct {
	waiting []chan struct{} // to close when it is done
	last    bool            // the source ends with it
	left    int             // bytes of the ring still to read
	until   time.Time       // end of grace
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
	return f != nil && f.left <= 0 && (join.idle() || !time.Now().Before(f.until))
}

// deadline is when the reader must look again though nothing came.
func (f *flush) deadline(join *joiner) time.Time {
	if f != nil {
		return f.until
	}
	return join.next()
}
