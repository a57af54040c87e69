package osqueryhost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A schedule runs the packs' queries. Only one query at a time uses it.
type schedule struct {
	mu    sync.Mutex // held while the schedule runs
	state *state
	log   *resultsLog

	info        sync.Mutex // guards what tables show of it
	packs       []*activePack
	performance map[string]performance // by query
}

// An activePack is a pack with its queries that match this host's platform, version and
// shard.
type activePack struct {
	Pack
	queries []scheduledQuery

	discovered   bool
	discoveredAt time.Time
	hits, misses int64 // of the cached discovery
}

// A performance is what osquery_schedule shows of a query's runs. It is not kept for the
// next host.
type performance struct {
	executions, lastExecuted, outputSize int64
	lastWall, wall                       time.Duration
	lastMemory, averageMemory            int64
}

// Schedule adds a pack and runs its discovery queries at once, as osquery does when it
// loads its configuration. The result is kept for Options.PackRefresh: if an extension
// registers later, a pack that needs its tables runs no query until then.
func (h *Host) Schedule(ctx context.Context, pack Pack) {
	w, _ := h.running() // without a worker no discovery query has an answer
	h.schedule.mu.Lock()
	defer h.schedule.mu.Unlock()
	active := &activePack{Pack: pack, queries: pack.scheduled(h.options)}
	if w != nil {
		h.discover(ctx, w, active)
	}
	h.schedule.info.Lock()
	defer h.schedule.info.Unlock()
	h.schedule.packs = append(h.schedule.packs, active)
}

// loaded returns the packs.
func (s *schedule) loaded() []*activePack {
	s.info.Lock()
	defer s.info.Unlock()
	return slices.Clone(s.packs)
}

// rediscover runs all discovery queries for a worker that has just started.
func (h *Host) rediscover(w *worker) {
	for _, pack := range h.schedule.loaded() {
		h.schedule.info.Lock()
		pack.discoveredAt, pack.hits, pack.misses = time.Time{}, 0, 0
		h.schedule.info.Unlock()
		h.discover(w.ctx, w, pack)
	}
}

// discover reports whether all discovery queries return rows (Pack::checkDiscovery,
// packs.cpp). A query that fails counts as one without rows.
func (h *Host) discover(ctx context.Context, w *worker, pack *activePack) bool {
	info := &h.schedule.info
	info.Lock()
	now := h.clock.now()
	if !pack.discoveredAt.IsZero() && now.Sub(pack.discoveredAt) < h.options.PackRefresh {
		defer info.Unlock()
		pack.hits++
		return pack.discovered
	}
	pack.misses++
	info.Unlock()

	discovered := true
	for _, query := range pack.Discovery {
		if rows, err := w.sql(ctx, query); err != nil || len(rows) == 0 {
			discovered = false
			break
		}
	}
	info.Lock()
	defer info.Unlock()
	pack.discoveredAt, pack.discovered = now, discovered
	return discovered
}

// Tick sets the host's clock, and with it the time table, to now and runs each query
// whose interval divides that second (SchedulerRunner::start, scheduler.cpp). After the
// first Tick the clock stands still between Ticks. A query that fails keeps its
// differential and writes no line. The error names it, and the other queries run. If the
// watchdog kills the worker, the error says so, and no further query runs. While the next
// worker is delayed, Tick runs nothing.
func (h *Host) Tick(ctx context.Context, now time.Time) error {
	if first := h.clock.set(now); first {
		h.supervision.forgetStart()
	}
	w, err := h.running()
	if errors.Is(err, errNoWorker) {
		return nil
	}
	if err != nil {
		return err
	}
	h.schedule.mu.Lock()
	defer h.schedule.mu.Unlock()
	var errs []error
	for _, pack := range h.schedule.loaded() {
		if len(pack.queries) == 0 || !h.discover(ctx, w, pack) {
			continue
		}
		for _, query := range pack.queries {
			if now.Unix()%query.interval == 0 && w.ctx.Err() == nil && !h.schedule.state.denied(query, now) {
				errs = append(errs, h.launch(ctx, w, query))
			}
		}
	}
	return errors.Join(errs...)
}

// forgetStart makes the worker old: its start was not by the clock that tests set.
func (s *supervision) forgetStart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spawned = time.Time{}
}

// Advance ticks once for each second of d, without waiting: a day of schedule takes as
// long as its queries.
func (h *Host) Advance(ctx context.Context, d time.Duration) error {
	var errs []error
	now := h.clock.now()
	for end := now.Add(d); now.Before(end) && ctx.Err() == nil; {
		now = now.Add(time.Second)
		errs = append(errs, h.Tick(ctx, now))
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// launch runs one query and logs the changes (launchQuery, scheduler.cpp).
func (h *Host) launch(ctx context.Context, w *worker, query scheduledQuery) error {
	state := h.schedule.state
	state.begin(query.name)
	defer state.finish()
	e := w.execute()
	defer e.close()
	start := time.Now()
	rows, _, err := e.query(ctx, query.sql)
	if err != nil {
		return fmt.Errorf("execute scheduled query %s: %w", query.name, err)
	}
	h.schedule.record(query.name, h.clock.now(), time.Since(start), rows, e.held*cellBytes)
	item := h.schedule.log.item(query.name, h.clock.now(), h.options.Epoch)
	if query.snapshot {
		return h.schedule.log.snapshot(item, rows)
	}
	e.former = state.cells(query.name)
	e.update()
	if w.ctx.Err() != nil {
		return fmt.Errorf("compare results of scheduled query %s: %w", query.name, context.Cause(w.ctx))
	}
	// Results are escaped before they are compared or kept; snapshots are not.
	for _, r := range rows {
		for column, value := range r {
			if s, ok := value.(string); ok {
				r[column] = escape(s)
			}
		}
	}
	change, counter, err := state.replace(query.name, rows, h.options.Epoch)
	if err != nil {
		h.end(fmt.Errorf("osqueryd has ended: %w", err))
		return err
	}
	if !query.removed {
		change.removed = nil
	}
	if change.added == nil && change.removed == nil && counter != 0 {
		return nil
	}
	item.Counter = counter
	return h.schedule.log.differential(item, change)
}

// record follows Config::recordQueryPerformance (config.cpp).
func (s *schedule) record(query string, now time.Time, wall time.Duration, rows []row, memory int64) {
	var size int64
	for _, r := range rows {
		for column, value := range r {
			size += int64(len(column))
			if text, ok := value.(string); ok {
				size += int64(len(text))
			} else {
				size += 8
			}
		}
	}
	s.info.Lock()
	defer s.info.Unlock()
	p := s.performance[query]
	p.averageMemory = (p.averageMemory*p.executions + memory) / (p.executions + 1)
	p.lastMemory = memory
	p.executions++
	p.lastExecuted = now.Unix()
	p.outputSize += size
	p.lastWall = wall
	p.wall += wall
	s.performance[query] = p
}
