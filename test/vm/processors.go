//go:build linux

package vm

import (
	"runtime"
	"slices"
	"sync"
	"time"
)

// processors are the host's, which the guests of Test share.
var processors = &pool{free: runtime.NumCPU(), size: runtime.NumCPU()}

// A pool lends processors to guests. Guests that wait get them in the order of
// their time limits, the longest first: a long guest that starts last would run
// alone at the end.
//
// Two virtual processors that share a real one take more than twice as long as on
// two: the one that waits for the real one may hold a lock that the other spins on.
type pool struct {
	mu      sync.Mutex
	size    int
	free    int
	waiting []*borrower
}

type borrower struct {
	processors int
	limit      time.Duration
	ready      chan struct{}
}

// take waits for so many processors, or for all where the pool has fewer, and
// returns the function that gives them back.
func (p *pool) take(processors int, limit time.Duration) (giveBack func()) {
	b := &borrower{processors: min(processors, p.size), limit: limit, ready: make(chan struct{})}
	p.mu.Lock()
	p.waiting = append(p.waiting, b)
	slices.SortStableFunc(p.waiting, func(a, b *borrower) int { return int(b.limit - a.limit) })
	p.lend()
	p.mu.Unlock()
	<-b.ready
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.free += b.processors
		p.lend()
	}
}

// lend gives the free processors to the first that wait. The one at the head is
// not overtaken: a guest with many processors would wait for ever.
func (p *pool) lend() {
	for len(p.waiting) > 0 && p.waiting[0].processors <= p.free {
		p.free -= p.waiting[0].processors
		close(p.waiting[0].ready)
		p.waiting = p.waiting[1:]
	}
}
