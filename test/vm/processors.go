//go:build linux

package vm

import (
	"runtime"
	"slices"
	"sync"
	"time"
)

// processors are the processors of the host, which the guests of Test share.
var processors = &pool{free: runtime.NumCPU(), size: runtime.NumCPU()}

// A pool lends processors to guests. Waiting guests get them in the order of their time
// limits, the longest first, because a long guest that starts last would run alone at
// the end.
//
// Two virtual processors on one real processor are more than twice as slow as on two:
// the waiting one may hold a lock on which the other spins.
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

// take waits for the given number of processors, or for all if the pool has fewer, and
// returns a function that gives them back.
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

// lend gives the free processors to the first waiting guests. No guest overtakes the
// first one, because a guest with many processors would wait for ever.
func (p *pool) lend() {
	for len(p.waiting) > 0 && p.waiting[0].processors <= p.free {
		p.free -= p.waiting[0].processors
		close(p.waiting[0].ready)
		p.waiting = p.waiting[1:]
	}
}
