package crossview

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
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
	// doubtful are glances before which records were lost, among them perhaps an unload.
	// They count once the list shows the module again, if no load is lost either.
	doubtful []time.Time
}

func glanceTime() time.Duration { return glanceInterval + rand.N(glanceJitter) }

// glance reports the modules that hide and are listed in turn. A complete source that
// watches, has lost nothing since the module was last listed and saw no unload proves that
// it is loaded: then it hides if the list lacks it even once.
func (c *Check) glance(ctx context.Context) error {
	views, ok := c.Views.(Glancer)
	c.glanceTimer.Reset(glanceTime())
	if !ok || c.checkedAt.IsZero() || c.complete == "" {
		return nil
	}
	c.proveNamesakes(c.Unbroken()) // which dates the losses so far
	began := time.Now()
	loaded := c.unreported()
	absent, err := absentOf(ctx, views, loaded)
	if err != nil {
		return err
	}
	listed := c.confirmListed(loaded, absent, began)
	c.leaveDoubted(absent, began)
	if len(absent) == 0 && len(listed) == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(glanceDelay):
	}
	c.keepLoaded(absent)
	if absent, err = absentOf(ctx, views, absent); err != nil || len(absent)+len(listed) == 0 {
		return err
	}
	if err := c.Sync(ctx); err != nil {
		return err
	}
	c.loop.Round()
	c.keepLoaded(absent)
	c.keepLoaded(listed)
	if sources, _ := c.Complete(); namesOf(sources) != c.complete {
		return nil // a check decides
	}
	hiding, err := c.hidingOf(ctx, absent, listed, began)
	if err != nil || len(hiding) == 0 {
		return err
	}
	return c.emitAbsent(ctx, hiding)
}

// hidingOf returns the modules that hide, of those that the list lacked at a time and those
// that it shows again.
func (c *Check) hidingOf(ctx context.Context, absent, listed map[string]entry, at time.Time) (map[string]entry, error) {
	since, now := c.Unbroken(), c.Stamp()
	isCalm := !c.State.changedSince(at.Add(-calmTime))
	hiding, doubtful := map[string]entry{}, map[string]entry{}
	for name, known := range absent {
		if !known.isProven && !known.wasWatched(since, momentOf(&now)) {
			doubtful[name] = known
			continue
		}
		c.State.prove(name, "")
		if isCalm || c.isAbsentOften(name, &known, at) {
			hiding[name] = known
		}
	}
	proven, err := c.proveByViews(ctx, doubtful)
	if err != nil {
		return nil, err
	}
	for name, known := range doubtful {
		c.addDoubtful(name, &known, since, at)
		if proven[name] && c.isAbsentOften(name, &known, at) {
			hiding[name] = known
		}
	}
	for name, known := range listed {
		a := c.absenceOf(name, &known)
		before := a.doubtful
		a.doubtful = nil
		if len(before) > 0 && !since.At.After(before[0]) && c.isAbsentOften(name, &known, before...) {
			hiding[name] = known
		}
	}
	return hiding, nil
}

// proveNamesakes notes of which modules, whose name a later one has, no loss of records
// explains that. A check reports them.
func (c *Check) proveNamesakes(since Start) {
	now := c.Stamp()
	for _, known := range c.State.namesakes() {
		if known.wasWatched(since, momentOf(&now)) {
			c.State.prove(known.module.Name, known.module.LoadID)
		}
	}
}

// unreported returns the loaded modules that are certain and were not reported as hidden.
func (c *Check) unreported() map[string]entry {
	loaded := c.State.certain()
	maps.DeleteFunc(c.absent, func(name string, _ *absence) bool { _, isLoaded := loaded[name]; return !isLoaded })
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, known := range loaded {
		if _, isPending := c.pending[name]; isPending || known.isReported() {
			delete(loaded, name)
		}
	}
	return loaded
}

// confirmListed notes that the kernel's list, read after a time, shows the loaded modules
// that are not absent. It returns those that were absent before and may have been unloaded.
func (c *Check) confirmListed(loaded, absent map[string]entry, at time.Time) map[string]entry {
	listed := map[string]entry{}
	for name, known := range loaded {
		if _, isAbsent := absent[name]; isAbsent {
			continue
		}
		c.State.confirm(&known.module, at)
		if a := c.absent[name]; a != nil && len(a.doubtful) > 0 {
			listed[name] = known
		}
	}
	return listed
}

// leaveDoubted drops absent modules that views do not show either: a check decides. Only
// their return is awaited.
func (c *Check) leaveDoubted(absent map[string]entry, at time.Time) {
	if len(absent) == 0 {
		return
	}
	since := c.Unbroken()
	for name, known := range absent {
		if !known.doubted.IsZero() && !known.isProven {
			c.addDoubtful(name, &known, since, at)
			delete(absent, name)
		}
	}
}

// addDoubtful notes an absence at a time since which no record was lost.
func (c *Check) addDoubtful(name string, known *entry, since Start, at time.Time) {
	if a := c.absenceOf(name, known); !since.At.After(at) {
		a.doubtful = append(a.doubtful[max(len(a.doubtful)-absences+1, 0):], at)
	}
}

// proveByViews returns those of the modules, by name, that sysfs shows and that the views
// confirm to be hidden.
func (c *Check) proveByViews(ctx context.Context, absent map[string]entry) (map[string]bool, error) {
	if len(absent) == 0 {
		return nil, nil
	}
	shown, err := c.Views.Listed(ctx)
	if err != nil {
		return nil, err
	}
	confirmed, err := c.Views.Confirm(ctx, slices.DeleteFunc(shown, func(m kmodquery.Module) bool {
		_, isAbsent := absent[kmodquery.FolderName(m.Name)]
		return !isAbsent || !m.IsHidden()
	}))
	c.loop.Round()
	return namesIn(confirmed), err
}

func absentOf(ctx context.Context, views Glancer, loaded map[string]entry) (map[string]entry, error) {
	names := make([]string, 0, len(loaded))
	for _, known := range loaded {
		names = append(names, known.module.Name)
	}
	names, err := views.Absent(ctx, names)
	if err != nil {
		return nil, err
	}
	absent := make(map[string]entry, len(names))
	for _, name := range names {
		name = kmodquery.FolderName(name)
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

// absenceOf returns the absences of a module since it was loaded.
func (c *Check) absenceOf(name string, known *entry) *absence {
	a := c.absent[name]
	if a == nil || known.loaded.isAfter(a.loaded) {
		a = &absence{loaded: known.loaded}
		c.absent[name] = a
	}
	return a
}

// isAbsentOften counts absences, and reports whether there were enough of them.
func (c *Check) isAbsentOften(name string, known *entry, at ...time.Time) bool {
	a := c.absenceOf(name, known)
	a.seen = append(a.seen, at...)
	a.seen = a.seen[max(len(a.seen)-absences, 0):]
	return len(a.seen) == absences && time.Since(a.seen[0]) <= absenceTime
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
			delete(absent, kmodquery.FolderName(former.name)) // it was renamed, which a check reports
		}
	}
	var found []difference
	isListed := false // again, so that no nameless memory is its own
	for name, known := range absent {
		m := kmodquery.Module{Name: known.module.Name, LoadID: known.module.LoadID, Path: known.module.Path, Views: known.module.Views}
		for _, shown := range all {
			switch {
			case kmodquery.FolderName(shown.Name) != name:
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
