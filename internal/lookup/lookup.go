// Package lookup runs calls that a file system may never answer. It imports the standard
// library only.
package lookup

import (
	"context"
	"sync"
	"time"
)

const (
	// hangTime is the time after which a look-up counts as hanging.
	hangTime = 30 * time.Second
	// maxHanging bounds the look-ups that hang. At the bound nothing is looked up.
	maxHanging = 4
)

// A Runner runs look-ups one at a time, each in a goroutine of its own, because a file
// system may never answer. Create one with New.
type Runner[T any] struct {
	Timeout time.Duration // of one look-up
	// Patience is how long Run waits for an earlier look-up with the same key that nobody waits
	// for any more, until it takes it for one that hangs.
	Patience time.Duration

	turn chan struct{} // holds a value while a look-up is waited for

	mu      sync.Mutex
	running map[string]chan struct{} // by key; closed when it ends
}

// New returns a Runner that waits for a look-up for 30 seconds.
func New[T any]() *Runner[T] {
	return &Runner[T]{Timeout: hangTime, turn: make(chan struct{}, 1), running: map[string]chan struct{}{}}
}

// Running returns how many look-ups run or hang.
func (r *Runner[T]) Running() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.running)
}

// Await waits until no look-up with the key runs, Patience is over or ctx ends.
func (r *Runner[T]) Await(ctx context.Context, key string) {
	r.mu.Lock()
	ended := r.running[key]
	r.mu.Unlock()
	if ended == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.Patience)
	defer cancel()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// Run returns what find returns, and panics as find does. It reports false if find hangs, if
// an earlier look-up with the same key does, if maxHanging others do, or if ctx ends.
func (r *Runner[T]) Run(ctx context.Context, key string, find func(context.Context) T) (found T, ok bool) {
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		return found, false
	}
	defer func() { <-r.turn }()
	r.Await(ctx, key)
	itsEnd := make(chan struct{})
	r.mu.Lock()
	isRefused := r.running[key] != nil || len(r.running) >= maxHanging
	if !isRefused {
		r.running[key] = itsEnd
	}
	r.mu.Unlock()
	if isRefused {
		return found, false
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	type outcome struct {
		value T
		panic any
	}
	ended := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			o.panic = recover()
			r.mu.Lock()
			delete(r.running, key)
			r.mu.Unlock()
			close(itsEnd)
			ended <- o
		}()
		o.value = find(ctx)
	}()
	select {
	case o := <-ended:
		if o.panic != nil {
			panic(o.panic)
		}
		return o.value, true
	case <-ctx.Done():
		return found, false
	}
}
