package osqueryhost

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A schedule runs the packs' queries. Only one query at a time uses it.
type schedule struct {
	mu    sync.Mutex
	packs []*activePack
	state *state
	log   *resultsLog
}

// An activePack is a pack that matches this host's platform, version and shard.
type activePack struct {
	name      string
	discovery []string
	queries   []scheduledQuery

	discovered   bool
	discoveredAt time.Time
}

// Schedule adds a pack and runs its discovery queries at once, as osquery does when it
// loads its configuration. The result is kept for Options.PackRefresh: if an extension
// registers later, a pack that needs its tables runs no query until then.
func (h *Host) Schedule(ctx context.Context, pack Pack) {
	h.schedule.mu.Lock()
	defer h.schedule.mu.Unlock()
	active := &activePack{name: pack.Name, discovery: pack.Discovery, queries: pack.scheduled(h.options)}
	h.discover(ctx, active)
	h.schedule.packs = append(h.schedule.packs, active)
}

// discover reports whether all discovery queries return rows (Pack::checkDiscovery,
// packs.cpp). A query that fails counts as one without rows.
func (h *Host) discover(ctx context.Context, pack *activePack) bool {
	now := h.clock.now()
	if !pack.discoveredAt.IsZero() && now.Sub(pack.discoveredAt) < h.options.PackRefresh {
		return pack.discovered
	}
	pack.discoveredAt, pack.discovered = now, true
	for _, query := range pack.discovery {
		if rows, err := h.Query(ctx, query); err != nil || len(rows) == 0 {
			pack.discovered = false
			break
		}
	}
	return pack.discovered
}

// Tick sets the host's clock, and with it the time table, to now and runs each query
// whose interval divides that second (SchedulerRunner::start, scheduler.cpp). After the
// first Tick the clock stands still between Ticks. A query that fails keeps its
// differential and writes no line. The error names it, and the other queries run.
func (h *Host) Tick(ctx context.Context, now time.Time) error {
	h.schedule.mu.Lock()
	defer h.schedule.mu.Unlock()
	h.clock.set(now)
	var errs []error
	for _, pack := range h.schedule.packs {
		if !h.discover(ctx, pack) {
			continue
		}
		for _, query := range pack.queries {
			if now.Unix()%query.interval == 0 {
				errs = append(errs, h.launch(ctx, query))
			}
		}
	}
	return errors.Join(errs...)
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
func (h *Host) launch(ctx context.Context, query scheduledQuery) error {
	rows, err := h.Query(ctx, query.sql)
	if err != nil {
		return fmt.Errorf("execute scheduled query %s: %w", query.name, err)
	}
	item := h.schedule.log.item(query.name, h.clock.now(), h.options.Epoch)
	if query.snapshot {
		return h.schedule.log.snapshot(item, rows)
	}
	// Results are escaped before they are compared or kept; snapshots are not.
	for _, row := range rows {
		for column, value := range row {
			row[column] = escape(value)
		}
	}
	change, counter, err := h.schedule.state.replace(query.name, rows, h.options.Epoch)
	if err != nil {
		return err
	}
	if !query.removed {
		change.removed = nil
	}
	item.Counter = counter
	return h.schedule.log.differential(item, change)
}
