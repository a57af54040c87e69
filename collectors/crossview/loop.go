package crossview

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/progress"
)

const (
	// checksInPeriod is how many checks of the cheap views a period has. A hidden
	// module must be reported within the period, and confirming it takes most of
	// the period.
	checksInPeriod = 3
	// fullInterval is how often all views are read even if the cheap ones show
	// nothing new.
	fullInterval = time.Minute
)

// Options configure a [Check]. All fields must be set.
type Options struct {
	Source string // name of the views as a source
	Views  Views
	State  *State
	Period time.Duration // within which a difference is found
	// MaxDelay is how long an emitted event may take to reach State.
	MaxDelay time.Duration
	// Stamp returns an event that holds only the present moment.
	Stamp func() kmodquery.Event
	Emit  func(kmodquery.Event)
	// Sync returns when State holds every event that the sources saw before the
	// call. It must return within bounded time.
	Sync func(context.Context) error
	// Complete returns the complete sources that watch, and since when one of
	// them has watched without interruption.
	Complete func() ([]CompleteSource, Start)
	Report   func(error)
}

// A Check compares the views with the module state and emits the differences:
// modules that were there at the start, hidden modules, loads that no source
// reported although it should have, and changes that only the views noticed.
type Check struct {
	Options
	loop progress.Loop

	atStart     map[string]bool // modules that were listed before the sources began to watch; nil if that is unknown
	began       time.Time       // when the check that runs, or the last one, began
	checkedAt   time.Time       // when the last complete check began
	fullAt      time.Time       // when the last complete check of all views began
	readableAt  time.Time       // fullAt when the next two were determined
	readable    []string        // the views that can be read
	unreadable  string          // why the others cannot
	listed      string          // names and views that the last full check saw
	glanceTimer *time.Timer
	places      map[int64]place     // the listed modules of the last check, by address
	absent      map[string]*absence // by folder name, modules that glances did not find
	memory      map[string]bool     // nameless regions that were reported
	replayed    map[int64]int       // by size, the nameless regions that an earlier recorder reported
	seen        kmodquery.Event     // the moment before the views were last read
	taint       int64               // every bit that the kernel's taint has had
	resetTaint  int64               // bits that were reported as reset
	complete    string              // names of the complete sources of the last check; "" for none
	lost        int64               // records lost by those that watched throughout the last check
	nameless    []kmodquery.Module  // memory that no view named when all were last read

	mu      sync.Mutex
	sensor  kmodquery.Sensor
	pending map[string]time.Time // by subject, when an event was emitted that State does not hold yet

	lostBefore int64 // records that the complete sources had lost when they were last asked
	lostAt     Start // when they were last found to have lost more
}

// New returns a Check that does nothing until Run.
func New(o Options) *Check {
	return &Check{
		Options:  o,
		absent:   map[string]*absence{},
		memory:   map[string]bool{},
		replayed: map[int64]int{},
		pending:  map[string]time.Time{},
		sensor:   kmodquery.Sensor{Source: o.Source, State: kmodquery.StateStandby, Since: time.Now().Unix()},
	}
}

// Replay takes an event of this boot that an earlier recorder stored. It must not
// be called after Run.
func (c *Check) Replay(e *kmodquery.Event) {
	switch {
	case e.EventName == kmodquery.EventTaintReset && e.Taints != nil:
		c.resetTaint |= *e.Taints
	case e.EventName == kmodquery.EventModuleHidden && e.Name == "" && e.Size != nil:
		c.replayed[*e.Size]++
	}
}

// Begin notes which modules are listed before the sources begin to watch, so that Run
// distinguishes them from modules that are loaded while the sources start. It must be
// called before Run, if at all.
func (c *Check) Begin(ctx context.Context) {
	if shown, err := c.Views.Listed(ctx); err == nil { // otherwise Run reports why
		c.atStart = namesIn(shown)
	}
}

// Run checks at once and then repeatedly until ctx ends. It calls ready after
// each check. If Views are a [Glancer], it looks at the kernel's own list about once a
// second, also during a check.
func (c *Check) Run(ctx context.Context, ready func()) {
	defer ready()
	c.loop.Round()
	defer c.loop.End()
	reported := ""
	ticker := time.NewTicker(max(c.Period/checksInPeriod, time.Second))
	defer ticker.Stop()
	wake := time.NewTicker(progress.Interval)
	defer wake.Stop()
	c.glanceTimer = time.NewTimer(glanceTime())
	defer c.glanceTimer.Stop()
	for {
		err := c.check(ctx)
		if ctx.Err() != nil {
			return
		}
		c.setHealth(err)
		if err != nil && err.Error() != reported {
			reported = err.Error()
			c.Report(fmt.Errorf("%s: %w", c.Source, err))
		}
		ready()
		for isDue := false; !isDue; {
			c.loop.Round()
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				isDue = true
			case <-wake.C:
			case <-c.glanceTimer.C:
				_ = c.glance(ctx) // the next check has the same error
			}
		}
	}
}

// LastRound returns when Run last made progress, or the zero time if it does not run.
// It makes progress at least every [progress.Interval], unless Views, Sync or Emit
// block.
func (c *Check) LastRound() time.Time { return c.loop.Last() }

// setHealth sets the sensor after a check. Which views can be read matters only when all
// are read, and costs as much as several cheap checks.
func (c *Check) setHealth(err error) {
	if err != nil || c.readableAt != c.fullAt {
		c.readableAt = c.fullAt
		c.readable, c.unreadable = c.Views.Shown()
	}
	hooks, _ := json.Marshal(c.readable) // strings always encode
	c.mu.Lock()
	defer c.mu.Unlock()
	state, reason := kmodquery.StateActive, c.unreadable
	if err != nil {
		state, reason = kmodquery.StateFailed, err.Error()
	}
	if c.sensor.State != state {
		c.sensor.State, c.sensor.Since = state, time.Now().Unix()
	}
	c.sensor.Reason, c.sensor.Hooks = reason, string(hooks)
}

// Sensor returns the state and the counters of the views as a source.
func (c *Check) Sensor() kmodquery.Sensor {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sensor
}

// check compares once and emits what differs.
func (c *Check) check(ctx context.Context) error {
	c.began = time.Now()
	sources, _ := c.Complete() // before the views are read
	complete, lost := namesOf(sources), lostBy(sources)
	c.seen = c.Stamp()
	before := c.seen
	shown, isFull, err := c.read(ctx, complete != "")
	if err != nil {
		return err
	}
	c.loop.Round()
	taint, err := c.Views.Taint(ctx)
	if err != nil {
		return err
	}
	found := c.compare(shown, taint)
	if len(found) > 0 && !isFull {
		c.seen = c.Stamp()
		all, err := c.Views.Modules(ctx)
		if err != nil {
			return err
		}
		c.nameless = namelessOf(all)
		shown = keepHidden(all, shown)
		isFull, found = true, c.compare(shown, taint)
	}
	if len(found) > 0 {
		if found, err = c.recheck(ctx, found); err != nil {
			return err
		}
	}
	for _, f := range found {
		c.emit(f)
	}
	c.taint |= taint
	c.checkedAt = c.began
	if isFull {
		c.fullAt = c.began
		c.State.dropUncertain(namesIn(shown), momentOf(&before))
	}
	c.complete, c.lost, c.places = complete, lost, placesOf(shown)
	return nil
}

// read returns what the cheap views show. It reads all views if the cheap ones
// changed or lack a module that was loaded, once in each fullInterval, and once
// in each period while no complete source watches.
func (c *Check) read(ctx context.Context, isWatched bool) (shown []kmodquery.Module, isFull bool, err error) {
	c.loop.Round()
	shown, err = c.Views.Listed(ctx)
	if err != nil {
		return nil, false, err
	}
	c.loop.Round()
	c.mu.Lock()
	c.sensor.Received += int64(len(shown))
	c.mu.Unlock()
	var names strings.Builder
	for _, m := range shown {
		fmt.Fprintf(&names, "%s %v\n", m.Name, m.Views)
	}
	interval := fullInterval
	if !isWatched {
		interval = c.Period
	}
	if names.String() == c.listed && time.Since(c.fullAt) < interval && !c.State.lacks(namesIn(shown)) {
		return shown, false, nil
	}
	all, err := c.Views.Modules(ctx)
	if err == nil {
		c.listed, c.nameless = names.String(), namelessOf(all)
	}
	return keepHidden(all, shown), true, err
}

func namelessOf(modules []kmodquery.Module) []kmodquery.Module {
	return slices.DeleteFunc(slices.Clone(modules), func(m kmodquery.Module) bool { return m.Name != "" })
}

// keepHidden returns all, with the modules that the cheap views showed hidden a moment
// before in the place of the same ones listed: a module may be hidden and listed in
// turn. The confirmation decides.
func keepHidden(all, cheap []kmodquery.Module) []kmodquery.Module {
	hidden := map[string]kmodquery.Module{}
	for _, m := range cheap {
		if m.IsHidden() && m.Name != "" {
			hidden[kmodquery.FolderName(m.Name)] = m
		}
	}
	for i := range all {
		if m, ok := hidden[kmodquery.FolderName(all[i].Name)]; ok && !all[i].IsHidden() {
			all[i] = m
		}
	}
	return all
}
