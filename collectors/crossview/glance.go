package crossview

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// glanceInterval is the shortest time between two glances, and glanceJitter the most
	// that is added to it, so that a module cannot hide from them by being listed in time.
	glanceInterval = 750 * time.Millisecond
	glanceJitter   = 500 * time.Millisecond
	// glanceDelay separates two glances that must both lack a module, so that the events
	// of an unload arrive. No Sync is made for it; see recheckDelay.
	glanceDelay = 200 * time.Millisecond
	// calmTime is how long before a glance no module may have been loaded or unloaded.
	// The kernel removes a module from its list some time after it announces the unload.
	calmTime = 2 * time.Second
	// absences is how many glances within absenceTime must lack a module if they are not
	// calm: an unload may hide another module from a reading of the list.
	absences    = 3
	absenceTime = time.Minute
)

// A Glancer is Views that can read the kernel's own list alone, at little cost.
type Glancer interface {
	// Absent returns those names that the list lacks.
	Absent(ctx context.Context, names []string) ([]string, error)
}

// An absence is a loaded module that glances did not find in the kernel's list.
type absence struct {
	loaded moment      // of the module
	seen   []time.Time // the glances, oldest first
}

func glanceTime() time.Duration { return glanceInterval + rand.N(glanceJitter) }

// glance reports the modules that hide and are listed in turn. A complete source that
// watches, has lost nothing and saw no unload proves that a module is loaded: then it
// hides if the list lacks it even once.
func (c *Check) glance(ctx context.Context) error {
	views, ok := c.Views.(Glancer)
	c.glanceTimer.Reset(glanceTime())
	if !ok || c.checkedAt.IsZero() || c.complete == "" {
		return nil
	}
	began := time.Now()
	loaded := c.watched()
	absent, err := absentOf(ctx, views, loaded)
	if err != nil || len(absent) == 0 {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(glanceDelay):
	}
	c.keepLoaded(absent)
	if absent, err = absentOf(ctx, views, absent); err != nil || len(absent) == 0 {
		return err
	}
	if err := c.Sync(ctx); err != nil {
		return err
	}
	c.loop.Round()
	c.keepLoaded(absent)
	if sources, lost := c.reliable(); namesOf(sources) != c.complete || lost != c.lost {
		return nil // a check decides
	}
	isCalm := !c.State.changedSince(began.Add(-calmTime))
	for name, known := range absent {
		if !isCalm && !c.isAbsentOften(name, &known) {
			delete(absent, name)
		}
	}
	if len(absent) == 0 {
		return nil
	}
	return c.emitAbsent(ctx, absent)
}

// watched returns the loaded modules of which a complete source would have seen the
// unload, and that were not reported as hidden.
func (c *Check) watched() map[string]entry {
	_, since := c.Complete()
	now := c.Stamp()
	loaded := c.State.certain()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, known := range loaded {
		_, isPending := c.pending[name]
		if isPending || known.isReported() || !known.wasWatched(since, momentOf(&now)) {
			delete(loaded, name)
		}
	}
	return loaded
}

func absentOf(ctx context.Context, views Glancer, loaded map[string]entry) (map[string]entry, error) {
	names := make([]string, 0, len(loaded))
	for name := range loaded {
		names = append(names, name)
	}
	names, err := views.Absent(ctx, names)
	if err != nil {
		return nil, err
	}
	absent := make(map[string]entry, len(names))
	for _, name := range names {
		absent[name] = loaded[name]
	}
	return absent, nil
}

// keepLoaded drops modules that were loaded or unloaded since, or reported.
func (c *Check) keepLoaded(modules map[string]entry) {
	for name, then := range modules {
		now := c.State.get(name)
		if now.isReported() || now.loaded.isAfter(then.loaded) || now.unloaded.isAfter(then.unloaded) {
			delete(modules, name)
		}
	}
}

// isAbsentOften counts an absence, and reports whether there were enough of them.
func (c *Check) isAbsentOften(name string, known *entry) bool {
	now := time.Now()
	for other, a := range c.absent {
		if now.Sub(a.seen[len(a.seen)-1]) > absenceTime {
			delete(c.absent, other)
		}
	}
	a := c.absent[name]
	if known.loaded.isAfter(a.loaded) {
		a = absence{loaded: known.loaded}
	}
	a.seen = append(a.seen, now)
	if len(a.seen) > absences {
		a.seen = a.seen[1:]
	}
	c.absent[name] = a
	return len(a.seen) == absences && now.Sub(a.seen[0]) <= absenceTime
}

// emitAbsent emits that modules hide, with the views that show them now.
func (c *Check) emitAbsent(ctx context.Context, absent map[string]entry) error {
	seen := c.Stamp()
	all, err := c.Views.Modules(ctx)
	if err != nil {
		return err
	}
	c.loop.Round()
	now := placesOf(all)
	for at, former := range c.places {
		if there, ok := now[at]; ok && there.name != former.name && there.size == former.size {
			delete(absent, former.name) // it was renamed, which a check reports
		}
	}
	var found []difference
	isListed := false // again, so that no nameless memory is its own
	for name, known := range absent {
		m := kmodquery.Module{Name: name, LoadID: known.module.LoadID, Path: known.module.Path, Views: known.module.Views}
		for _, shown := range all {
			switch {
			case shown.Name != name:
			case shown.IsHidden():
				m = shown
			default:
				isListed = true
			}
		}
		found = append(found, difference{event: kmodquery.EventModuleHidden, module: m, reason: hiddenReason(&m, true), seen: seen})
	}
	for _, m := range all {
		if m.Name == "" && m.IsHidden() && !isListed && !c.wasReported(&m) {
			found = append(found, difference{event: kmodquery.EventModuleHidden, module: m})
		}
	}
	for _, d := range nameMemory(found) {
		if d.module.Name != "" {
			c.emit(d)
		}
	}
	return nil
}
