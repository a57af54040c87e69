package osqueryhost

import (
	"fmt"
	"slices"
	"time"
)

// cellBytes is what a cell of a result costs osqueryd's worker, whatever the cell holds:
// measured on osqueryd 5.23.1 as the growth of the resident set, divided by the cells of a
// differential's result. It includes the reply, the result and the former result.
const cellBytes = 600

// A Kill is a worker that the watchdog killed.
type Kill struct {
	At      time.Time // by the host's clock
	Bytes   int64     // accounted
	Queries []string  // scheduled and live queries that failed with the worker
}

// A WatchdogReport is what the watchdog has seen since the host started.
type WatchdogReport struct {
	Peak  int64 // the most bytes that were accounted at one time, by any worker
	Kills []Kill
}

// Watchdog returns what the watchdog has seen. Bytes are accounted even if it is off.
func (h *Host) Watchdog() WatchdogReport {
	s := &h.supervision
	s.mu.Lock()
	defer s.mu.Unlock()
	report := s.report
	report.Kills = slices.Clone(report.Kills)
	return report
}

// memoryLimit returns the watchdog's limit in MiB (getWorkerLimit, watcher.cpp), or 0 if it
// is off.
func (s flagSet) memoryLimit() int64 {
	switch {
	case s.bool("disable_watchdog"):
		return 0
	case s.int("watchdog_memory_limit") > 0:
		return s.int("watchdog_memory_limit")
	}
	switch s.int("watchdog_level") {
	case -1:
		return 10000
	case 1:
		return 100
	}
	return 200
}

// hold accounts cells that a query of the worker holds, or releases if n is negative. The
// watchdog kills the worker above its limit (WatcherRunner::isChildSane). The real one
// looks every three seconds and not in the first minute of a worker (--watchdog_delay);
// this one always looks, because a test must not depend on when.
func (w *worker) hold(n int64) {
	w.mu.Lock()
	w.cells += n
	bytes := w.cells * cellBytes
	w.mu.Unlock()

	s := &w.host.supervision
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Peak = max(s.report.Peak, bytes)
	limit := w.host.set.memoryLimit()
	if limit == 0 || bytes <= limit<<20 || w != s.worker || w.ctx.Err() != nil || s.closed {
		return
	}
	now := w.host.clock.now()
	s.report.Kills = append(s.report.Kills, Kill{At: now, Bytes: bytes, Queries: w.host.schedule.state.fail(now)})
	w.host.replace(fmt.Errorf("osqueryd worker stopping: Memory limits exceeded: %d bytes (limit is %dMB)", bytes, limit))
}

// An executionKey is the key of the execution in a query's context.
type executionKey struct{}

// An execution is a query that the worker runs, and what it holds. It is used by one
// goroutine.
type execution struct {
	worker  *worker
	replies map[string]int64 // cells of the largest reply of each table
	result  int64            // cells of the result
	former  int64            // cells of the query's former result
	held    int64            // the greatest of them
}

func (w *worker) execute() *execution {
	return &execution{worker: w, replies: map[string]int64{}}
}

// reply accounts a table's reply. A later reply to the same cursor replaces the earlier
// one, so only the largest counts.
func (e *execution) reply(table string, rows []map[string]string) {
	var cells int64
	for _, r := range rows {
		cells += int64(len(r))
	}
	if cells > e.replies[table] {
		e.replies[table] = cells
		e.update()
	}
}

func (e *execution) update() {
	var replies int64
	for _, cells := range e.replies {
		replies += cells
	}
	if held := max(replies, e.result, e.former); held > e.held {
		e.worker.hold(held - e.held)
		e.held = held
	}
}

// close releases what the query holds.
func (e *execution) close() {
	e.worker.hold(-e.held)
	e.held = 0
}
