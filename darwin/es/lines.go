package es

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/kmodquery/kmodquery/internal/cmdout"
)

// maxLine bounds a line, in bytes. A message of the subscribed events has some 3
// KiB, and paths of at most 1 KiB.
const maxLine = 1 << 20

// An output is eslogger's output, split into lines. Only readLines may run concurrently
// with the other methods.
type output struct {
	from  io.Reader
	lines chan []byte // closed after the last line; nil is a line that is too long or incomplete

	idle atomic.Int64 // Unix time in nanoseconds since which Read waits; 0 while lines are passed on
	half atomic.Bool  // the output so far ends within a line
}

func newOutput(from io.Reader) *output { return &output{from: from, lines: make(chan []byte)} }

// readLines passes lines on until the output or ctx ends.
func (o *output) readLines(ctx context.Context) {
	defer close(o.lines)
	skipped := func() {
		select {
		case o.lines <- nil:
		case <-ctx.Done():
		}
	}
	if isHalf := cmdout.Lines(ctx, o, maxLine, o.lines, skipped); isHalf {
		skipped()
	}
}

// Read is called when all lines that were read before have been passed on.
func (o *output) Read(b []byte) (int, error) {
	o.idle.Store(time.Now().UnixNano())
	n, err := o.from.Read(b)
	o.idle.Store(0)
	if n > 0 {
		o.half.Store(b[n-1] != '\n')
	}
	return n, err
}

// idleSince returns since when all output has been passed on, or the zero time if there
// is more to pass on.
func (o *output) idleSince() time.Time {
	if idle := o.idle.Load(); idle != 0 {
		return time.Unix(0, idle)
	}
	return time.Time{}
}

// isHalf reports whether the output ends within a line and nothing was printed
// since a time.
func (o *output) isHalf(since time.Time) bool {
	idle := o.idleSince()
	return !idle.IsZero() && o.half.Load() && idle.Before(since)
}
