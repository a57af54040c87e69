package darwin

import (
	"bytes"
	"io"
	"sync/atomic"
	"time"
)

// maxEsloggerLine bounds a line. The events that are asked for have some 3 KiB,
// and paths of at most 1 KiB.
const maxEsloggerLine = 1 << 20

// An esloggerLine is one line that eslogger printed.
type esloggerLine struct {
	text []byte // without what ends it
	// isCut says that text is only the beginning: of a line that is too long, or
	// of the last one, which nothing ended.
	isCut bool
}

// esloggerLines cut into lines what eslogger prints. At most maxEsloggerLine
// bytes are held. Only read may run beside the other methods.
type esloggerLines struct {
	to   chan esloggerLine // closed when there are no more
	done chan struct{}     // closed when nobody takes them any more

	partial []byte
	isLong  bool

	last atomic.Int64 // Unix time in nanoseconds at which something was read
	half atomic.Bool  // it was no whole line
}

func newEsloggerLines() *esloggerLines {
	return &esloggerLines{to: make(chan esloggerLine), done: make(chan struct{})}
}

// read passes lines on until the reader ends or done is closed.
func (l *esloggerLines) read(from io.Reader) {
	defer close(l.to)
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			l.last.Store(time.Now().UnixNano())
		}
		if !l.cut(buffer[:n]) {
			return
		}
		l.half.Store(len(l.partial) > 0)
		if err != nil {
			l.finish(true)
			return
		}
	}
}

// cut takes the next bytes, and reports whether somebody still takes lines.
func (l *esloggerLines) cut(b []byte) bool {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			l.keep(b)
			return true
		}
		l.keep(b[:end])
		if !l.finish(l.isLong) {
			return false
		}
		b = b[end+1:]
	}
	return true
}

func (l *esloggerLines) keep(b []byte) {
	room := maxEsloggerLine - len(l.partial)
	l.isLong = l.isLong || len(b) > room
	l.partial = append(l.partial, b[:min(len(b), room)]...)
}

// finish passes on the line that was kept, unless it is blank.
func (l *esloggerLines) finish(isCut bool) bool {
	text := bytes.TrimSpace(l.partial) // the terminal ends lines with \r\n
	l.partial, l.isLong = nil, false
	if len(text) == 0 {
		return true
	}
	select {
	case l.to <- esloggerLine{text, isCut}:
		return true
	case <-l.done:
		return false
	}
}

// isHalf reports whether a line was begun and not ended, and nothing was printed
// since a moment.
func (l *esloggerLines) isHalf(since time.Time) bool {
	return l.half.Load() && l.last.Load() < since.UnixNano()
}

// quietSince is when something was last read.
func (l *esloggerLines) quietSince() time.Time { return time.Unix(0, l.last.Load()) }
