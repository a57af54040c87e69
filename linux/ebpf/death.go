//go:build linux

package ebpf

import (
	"slices"
	"sync"
	"sync/atomic"
)

const (
	// maxDeaths is how many recorders may be killed while they read an image. Its record
	// stays in the kernel, so the image would kill every further one too.
	maxDeaths = 2
	// maxDead bounds the deaths that are remembered. The oldest is forgotten first.
	maxDead = 64
)

// A deathLog knows which images recorders were reading when they were killed. Its methods
// may be called concurrently.
type deathLog struct {
	keep    func(loadIDs []string)
	skipped *atomic.Int64 // counts the images that are skipped

	mu        sync.Mutex
	loadIDs   []string // one for each death, the oldest first
	isStopped bool
}

// newDeathLog returns a log that continues the one that was kept. Either function may be
// nil.
func newDeathLog(kept func() []string, keep func([]string), skipped *atomic.Int64) *deathLog {
	d := &deathLog{keep: keep, skipped: skipped}
	if kept != nil {
		d.loadIDs = kept()
		d.loadIDs = d.loadIDs[max(0, len(d.loadIDs)-maxDead):]
	}
	return d
}

// begin notes that an image is about to be read. It reports false if the image must not be
// read: recorders were killed by it, or the run is over.
func (d *deathLog) begin(loadID string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	deaths := 0
	for _, dead := range d.loadIDs {
		if dead == loadID {
			deaths++
		}
	}
	if deaths >= maxDeaths {
		d.skipped.Add(1)
	}
	if deaths >= maxDeaths || d.isStopped {
		return false
	}
	d.store(append(slices.Clip(d.loadIDs), loadID))
	return true
}

// end notes that the image was read.
func (d *deathLog) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.store(d.loadIDs)
}

// stop notes that the run is over. The process may end before an image is read to its end.
func (d *deathLog) stop() {
	d.end()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.isStopped = true
}

// store keeps load_ids until the run is over.
func (d *deathLog) store(loadIDs []string) {
	if d.keep != nil && !d.isStopped {
		d.keep(loadIDs)
	}
}
