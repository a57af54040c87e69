package account

import (
	"context"
	"fmt"
	"slices"
)

// Waiting are Syncs that wait for their answer. The channels are the account's.
type Waiting []chan struct{}

// Answer has them return. It must be called once, for those that TakeWaiting returned.
func (w Waiting) Answer() {
	for _, done := range w {
		close(done)
	}
}

// Sync returns when every record that the source could see before the call was
// given to emit; at once when it is not running.
func (a *Account) Sync(ctx context.Context) error {
	a.mu.Lock()
	if a.ended == nil {
		a.mu.Unlock()
		return nil
	}
	done, ended := make(chan struct{}), a.ended
	a.waiting = append(a.waiting, done)
	a.ask()
	a.mu.Unlock()
	select {
	case <-done:
	case <-ended:
	case <-ctx.Done():
		a.mu.Lock()
		defer a.mu.Unlock()
		// Those who give up must not gather behind a source that hangs.
		a.waiting = slices.DeleteFunc(a.waiting, func(other chan struct{}) bool { return other == done })
		return fmt.Errorf("wait for the records of %s: %w", a.Name(), ctx.Err())
	}
	return nil
}

// ask makes Run look at who waits. The caller holds mu.
func (a *Account) ask() {
	select {
	case a.asked <- struct{}{}:
	default: // it was asked already, and did not look yet
	}
	if a.wake != nil {
		a.wake()
	}
}

// Asked gets a value when a Sync waits. Several may be told of by one, and one
// that waits no more.
func (a *Account) Asked() <-chan struct{} { return a.asked }

// IsAsked reports whether a Sync waits that TakeWaiting did not return.
func (a *Account) IsAsked() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.waiting) > 0
}

// TakeWaiting returns the Syncs of the moment. The source answers them when they
// have what they wait for.
func (a *Account) TakeWaiting() Waiting {
	a.mu.Lock()
	defer a.mu.Unlock()
	waiting := a.waiting
	a.waiting = nil
	return waiting
}
