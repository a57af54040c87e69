//go:build linux

package ondisk

import (
	"context"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
)

// A lookups runs look-ups one at a time, each in a goroutine of its own, because a file
// system may never answer.
type lookups struct {
	turn    chan struct{} // holds a value while a look-up is waited for
	timeout time.Duration

	mu      sync.Mutex
	running map[string]bool // by module
}

func newLookups() lookups {
	return lookups{turn: make(chan struct{}, 1), timeout: hangTime, running: map[string]bool{}}
}

// run returns what find returns, and panics as find does. It reports false if find hangs, if
// an earlier look-up for the same module does, if maxHanging others do, or if ctx ends.
func (l *lookups) run(ctx context.Context, name string, find func(context.Context) kmodquery.ModuleFile) (file kmodquery.ModuleFile, ok bool) {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return file, false
	}
	defer func() { <-l.turn }()
	l.mu.Lock()
	isRefused := l.running[name] || len(l.running) >= maxHanging
	if !isRefused {
		l.running[name] = true
	}
	l.mu.Unlock()
	if isRefused {
		return file, false
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	type outcome struct {
		file  kmodquery.ModuleFile
		panic any
	}
	found := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			o.panic = recover()
			l.mu.Lock()
			delete(l.running, name)
			l.mu.Unlock()
			found <- o
		}()
		o.file = find(ctx)
	}()
	select {
	case o := <-found:
		if o.panic != nil {
			panic(o.panic)
		}
		return o.file, true
	case <-ctx.Done():
		return file, false
	}
}
