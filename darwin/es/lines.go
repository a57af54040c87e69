package es

import (
	"bytes"
	"io"
	"sync/atomic"
	"time"
)

// maxLine bounds a line, in bytes. A message of the subscribed events has some 3
// KiB, and paths of at most 1 KiB.
const maxLine = 1 << 20

// An outputLine is one line that eslogger printed.
type outputLine struct {
	text []byte // without its line feed
	// isCut reports that text is incomplete: the line is too long, or the last one
	// and without a line feed.
	isCut bool
}

// A lineReader splits eslogger's output into lines. It holds at most maxLine bytes.
// Only read may run concurrently with the other methods.
type lineReader struct {
	to   chan outputLine // closed after the last line
	done chan struct{}   // closed when no more lines are taken

	partial []byte
	isLong  bool

	idle atomic.Int64 // Unix time in nanoseconds since which read waits for output; 0 while it passes on lines
	half atomic.Bool  // the output so far ends within a line
}

func newLineReader() *lineReader {
	l := &lineReader{to: make(chan outputLine), done: make(chan struct{})}
	l.idle.Store(time.Now().UnixNano())
	return l
}

// read passes lines on until the reader ends or done is closed.
func (l *lineReader) read(from io.Reader) {
	defer close(l.to)
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		l.idle.Store(0)
		if !l.split(buffer[:n]) {
			return
		}
		if err != nil {
			l.finish(true)
			return
		}
		l.half.Store(len(l.partial) > 0)
		l.idle.Store(time.Now().UnixNano())
	}
}

// split handles the next bytes. It returns false if done is closed.
func (l *lineReader) split(b []byte) bool {
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

// finish passes on the line that was kept, unless it is blank. It returns false if
// done is closed.
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

// idleSince returns since when all output has been passed on, and false if there is
// more to pass on.
func (l *lineReader) idleSince() (time.Time, bool) {
	idle := l.idle.Load()
	return time.Unix(0, idle), idle != 0
}

// isHalf reports whether the output ends within a line and nothing was printed
// since a time.
func (l *lineReader) isHalf(since time.Time) bool {
	idle, isIdle := l.idleSince()
	return isIdle && l.half.Load() && idle.Before(since)
}
