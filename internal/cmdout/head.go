package cmdout

import (
	"bytes"
	"strings"
	"sync"
)

// A Head keeps the beginning of what is written to it. It is meant for the Stdout or
// Stderr of a command. Its methods may be called concurrently.
type Head struct {
	limit int
	full  error

	// text is not embedded, because os/exec would use its ReadFrom, which has no limit.
	mu    sync.Mutex
	text  bytes.Buffer
	isCut bool
}

// NewHead returns a Head of at most limit bytes. If full is nil it drops the rest.
// Otherwise the first Write beyond the limit fails with full, and os/exec then closes
// the program's output.
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

// IsCut reports whether more than limit bytes were written.
func (h *Head) IsCut() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.isCut
}

// String returns the kept text.
func (h *Head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// Line returns the kept text as one line.
func (h *Head) Line() string { return strings.Join(strings.Fields(h.String()), " ") }

// Said returns the kept text as the end of an error message: ": " and the line, or ""
// if nothing was written.
func (h *Head) Said() string {
	if line := h.Line(); line != "" {
		return ": " + line
	}
	return ""
}
