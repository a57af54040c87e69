package cmdout

import (
	"bytes"
	"strings"
	"sync"
)

// A Head is the beginning of what is written to it, for the Stdout or Stderr of a
// command. Its methods may be called concurrently.
type Head struct {
	limit int
	full  error

	// text is not embedded: its ReadFrom, which os/exec prefers, knows no limit.
	mu    sync.Mutex
	text  bytes.Buffer
	isCut bool
}

// NewHead returns one of at most limit bytes. What comes after them is dropped
// where full is nil; otherwise Write fails with it, at which os/exec closes the
// program's output.
func NewHead(limit int, full error) *Head { return &Head{limit: limit, full: full} }

func (h *Head) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	room := h.limit - h.text.Len()
	h.text.Write(b[:min(len(b), room)])
	if len(b) <= room {
		return len(b), nil
	}
	if h.isCut = true; h.full != nil {
		return room, h.full
	}
	return len(b), nil
}

// IsCut reports whether more was written than is kept.
func (h *Head) IsCut() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.isCut
}

// String is what is kept, as it was written.
func (h *Head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// Line is that in one line.
func (h *Head) Line() string { return strings.Join(strings.Fields(h.String()), " ") }

// Said is a program's complaint as the end of an error: ": " and the line, or
// nothing.
func (h *Head) Said() string {
	if line := h.Line(); line != "" {
		return ": " + line
	}
	return ""
}
