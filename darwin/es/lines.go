package es

import (
	"bytes"
	"io"
	"sync/atomic"
	"time"
)

// maxLine bounds a line. The events that are asked for have some 3 KiB,
// and paths of at most 1 KiB.
const maxLine = 1 << 20

// An outputLine is one line that eslogger printed.
type outputLine struct {
	text []byte // without what ends it
	// isCut says that text is only the beginning: of a line that is too long, or
	// of the last one, which nothing ended.
	isCut bool
}

// A lineReader cuts into lines what eslogger prints. At most maxLine
// bytes are held. Only read may run beside the other methods.
type lineReader struct {
	to   chan outputLine // closed when there are no more
	done chan struct{}   // closed when nobody takes them any more

	partial []byte
	isLong  bool

	last atomic.Int64 // Unix time in nanoseconds at which something was read
	half atomic.Bool  // it was no whole line
}

func newLineReader() *lineReader {
	return &lineReader{to: make(chan outputLine), done: make(chan struct{})}
}

// read passes lines on until the reader ends or done is closed.
func (l *lineReader) read(from io.Reader) {
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
func (l *lineReader) cut(b []byte) bool {
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

func (l *lineReader) keep(b []byte) {
	room := maxLine - len(l.partial)
	l.isLong = l.isLong || len(b) > room
	l.partial = append(l.partial, b[:min(len(b), room)]...)
}

// finish passes on the line that was kept, unless it is blank.
func (l *lineReader) finish(isCut bool) bool {
	text := bytes.TrimSpace(l.partial) // the terminal ends lines with \r\n
	l.partial, l.isLong = nil, false
	if len(text) == 0 {
		return true
	}
	select {
	case l.to <- outputLine{text, isCut}:
		return true
	case <-l.done:
		return false
	}
}

// isHalf reports whether a line was begun and not ended, and nothing was printed
// since a moment.
func (l *lineReader) isHalf(since time.Time) bool {
	return l.half.Load() && l.last.Load() < since.UnixNano()
}

// quietSince is when something was last read.
func (l *lineReader) quietSince() time.Time { return time.Unix(0, l.last.Load()) }
