package source

import (
	"context"
	"fmt"
	"slices"
)

// Pending are Sync calls that wait. The channels belong to the Health.
type Pending []chan struct{}

// Release makes the calls return. It must be called once for each value that
// TakePending returned.
func (p Pending) Release() {
	for _, done := range p {
		close(done)
	}
}

// Sync returns when every record that the source could see before the call was
// emitted; at once if the source does not run.
func (h *Health) Sync(ctx context.Context) error {
	h.mu.Lock()
	if h.ended == nil {
		h.mu.Unlock()
		return nil
	}
	done, ended := make(chan struct{}), h.ended
	h.pending = append(h.pending, done)
	select {
	case h.requests <- struct{}{}:
	default: // Run has not taken the request before this one yet
	}
	if h.wake != nil {
		h.wake()
	}
	h.mu.Unlock()
	select {
	case <-done:
	case <-ended:
	case <-ctx.Done():
		h.mu.Lock()
		defer h.mu.Unlock()
		// Calls that gave up must not accumulate behind a source that hangs.
		h.pending = slices.DeleteFunc(h.pending, func(other chan struct{}) bool { return other == done })
		return fmt.Errorf("wait for the records of %s: %w", h.Name(), ctx.Err())
	}
	return nil
}

// Requests receives a value when a Sync waits. One value may stand for several
// calls, or for one that has given up.
func (h *Health) Requests() <-chan struct{} { return h.requests }

// HasPending reports whether a Sync waits that TakePending has not returned.
func (h *Health) HasPending() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pending) > 0
}

// TakePending returns the Sync calls that wait at this moment. The source releases
// them when it has emitted what they wait for.
func (h *Health) TakePending() Pending {
	h.mu.Lock()
	defer h.mu.Unlock()
	pending := h.pending
	h.pending = nil
	return pending
}
