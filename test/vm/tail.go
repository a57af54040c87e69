//go:build linux

package vm

import "sync"

// A tail is a writer that keeps the last bytes written to it. It is safe for
// concurrent use.
type tail struct {
	mu    sync.Mutex
	limit int
	data  []byte
	cut   bool
}

func newTail(limit int) *tail { return &tail{limit: limit} }

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - t.limit; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
		t.cut = true
	}
	return len(p), nil
}

// String returns the kept bytes, after an ellipsis if earlier bytes were dropped.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cut {
		return "[…]" + string(t.data)
	}
	return string(t.data)
}
