package collectors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors/crossview"
)

const (
	// firstDelay is the delay before a source that failed runs again. Each failure
	// doubles it, up to lastDelay, until the source has run for longer than that.
	firstDelay = time.Second
	lastDelay  = time.Minute
	// takeOver is how long a source may have been blind before it failed. The
	// source that stands in backfills at least so far.
	takeOver = 30 * time.Second
	// slowStart is how long a source may take to start watching before others
	// stand in for it, and Start no longer waits for it.
	slowStart = 20 * time.Second
	// startingReason is the reason of a sensor whose source has not watched yet.
	startingReason = "it is starting; queries wait for it, and then answer from the store"
)

// A supervisor decides which sources run. Side by side all of them run. Otherwise the
// best source always runs, and another one only while all better ones have failed. A
// source that works again replaces those behind it once it watches, so that no load
// falls between them.
type supervisor struct {
	sources    []*candidate
	sideBySide bool
	takeOver   time.Duration
	report     func(error)
	emit       func(rank int, d kmodquery.Delivery, past bool)
	stamp      func() kmodquery.Event // see Options.Stamp

	mu      sync.Mutex
	changed *sync.Cond
	watched time.Time // when the last source that watched failed; zero if none did
	running sync.WaitGroup
}

// A candidate is a source and its condition. The lower its rank, the better.
type candidate struct {
	Source
	rank      int
	cancel    context.CancelFunc // of the current run, or nil
	up        time.Time          // since when it watches; zero while it does not
	upSeconds *int64             // the same by the boot clock; nil if it is unknown
	failed    bool               // since it last watched
	backfills bool               // it runs only to backfill
	since     time.Time          // what it backfills; see Backfiller
	until     time.Time
	slow      time.Time // when a run began that has not started to watch in time
	failure   string    // why it last failed, and when; "" if it never did

	monitor monitor
	stall   chan struct{} // closed while the run is stalled
	wasUp   bool          // before it was stalled
	late    time.Time     // when a Sync last gave up waiting, or zero
}

func (c *candidate) isUp() bool { return !c.up.IsZero() }

func newSupervisor(sources []Source, sideBySide bool, takeOver time.Duration, report func(error), emit func(int, kmodquery.Delivery, bool)) *supervisor {
	s := &supervisor{sideBySide: sideBySide, takeOver: takeOver, report: report, emit: emit}
	s.changed = sync.NewCond(&s.mu)
	for rank, source := range sources {
		c := &candidate{Source: source, rank: rank, stall: make(chan struct{})}
		c.monitor.name, c.monitor.lastRound = source.Name(), source.LastRound
		if reporter, ok := source.(Reporter); ok {
			reporter.ReportTo(func(err error) { report(fmt.Errorf("%s: %w", c.Name(), err)) })
		}
		s.sources = append(s.sources, c)
	}
	return s
}

// start runs the sources until ctx ends. It returns when those that are wanted watch
// or have failed.
func (s *supervisor) start(ctx context.Context) {
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	for _, c := range s.sources {
		s.running.Go(func() { s.supervise(ctx, c) })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.isStarted() && ctx.Err() == nil {
		s.changed.Wait()
	}
}

func (s *supervisor) isStarted() bool {
	return !slices.ContainsFunc(s.sources, func(c *candidate) bool {
		return s.wants(c) && !c.isUp() && !c.failed
	})
}

// wants reports whether a source should run now.
func (s *supervisor) wants(c *candidate) bool {
	works := func(better *candidate) bool { return !better.failed }
	return s.sideBySide || c.backfills || !slices.ContainsFunc(s.sources[:c.rank], works)
}

// supervise runs one source whenever it is wanted, until ctx ends or the host cannot
// support the source.
func (s *supervisor) supervise(ctx context.Context, c *candidate) {
	reported := ""
	for delay := firstDelay; s.awaitWanted(ctx, c); delay = min(2*delay, lastDelay) {
		began := time.Now()
		err := s.run(ctx, c)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > lastDelay {
			delay = firstDelay // it had worked
		}
		if errors.Is(err, errReplaced) {
			delay, reported = firstDelay, ""
			continue
		}
		if errors.Is(err, kmodquery.ErrNotSupported) && !s.sideBySide && s.isBetterUp(c.rank) {
			return // it is not needed; its sensor holds the reason
		}
		if err != nil && err.Error() != reported {
			reported = err.Error()
			s.report(fmt.Errorf("%s: %w", c.Name(), err))
		}
		if errors.Is(err, kmodquery.ErrNotSupported) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

func (s *supervisor) awaitWanted(ctx context.Context, c *candidate) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.wants(c) && ctx.Err() == nil {
		s.changed.Wait()
	}
	return ctx.Err() == nil
}

// errReplaced is the error of a run that a better source replaced.
var errReplaced = errors.New("a better source watches")

// run runs a source once.
func (s *supervisor) run(ctx context.Context, c *candidate) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	c.cancel = cancel
	var since, until time.Time
	switch {
	case c.backfills:
		since, until = c.since, c.until
	case !s.sideBySide && !s.watched.IsZero():
		since = s.watched.Add(-s.takeOver)
	}
	s.mu.Unlock()
	if backfiller, ok := c.Source.(Backfiller); ok {
		backfiller.Backfill(since, until)
	}
	began := time.Now()
	slow := time.AfterFunc(slowStart, func() { s.setSlow(ctx, c, began) })
	defer slow.Stop()
	err := c.Run(ctx, func() { s.setUp(c) }, func(d kmodquery.Delivery) {
		c.monitor.emit(func() { s.emit(c.rank, d, s.isBackfilling(c)) })
	})

	s.mu.Lock()
	defer s.mu.Unlock()
	isReplaced := ctx.Err() != nil
	if c.isUp() && !isReplaced {
		s.watched = time.Now()
	}
	c.cancel, c.up, c.slow, c.backfills, c.wasUp = nil, time.Time{}, time.Time{}, false, false
	if isReplaced && err == nil {
		err = errReplaced
	} else {
		c.failed = true
		c.failure = fmt.Sprintf("failed at %s: %v", timeText(time.Now()), err)
	}
	s.change()
	return err
}

// setUp records that a source watches.
func (s *supervisor) setUp(c *candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.up, c.upSeconds = time.Now(), s.stamp().Uptime
	c.slow, c.failed, c.backfills = time.Time{}, false, false
	s.change()
}

// setSlow lets other sources stand in for one that has not started to watch.
func (s *supervisor) setSlow(ctx context.Context, c *candidate, began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() == nil && !c.isUp() && !c.backfills {
		c.failed, c.slow = true, began
		s.change()
	}
}

// setStalled records that the run of a source is stalled since its last round. The zero
// time means that the run makes progress again or has ended. A stalled source cannot run
// again before Run returns.
func (s *supervisor) setStalled(c *candidate, last time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last.IsZero() {
		c.stall = make(chan struct{})
		if c.cancel != nil && c.wasUp && !c.isUp() {
			c.up, c.upSeconds, c.failed = time.Now(), s.stamp().Uptime, false
		}
		c.wasUp = false
	} else {
		close(c.stall)
		if c.wasUp = c.isUp(); c.wasUp {
			s.watched = last
		}
		c.up, c.failed = time.Time{}, true
		c.failure = fmt.Sprintf("hung from %s on", timeText(last))
	}
	s.change()
}

// change stops the sources that are no longer wanted and wakes all waiters.
func (s *supervisor) change() {
	for _, c := range s.sources {
		if c.cancel != nil && !s.wants(c) {
			c.cancel()
		}
	}
	s.changed.Broadcast()
}

// backfill lets the first of the named sources that can do so emit what happened
// while no complete source watched, beside the source that watches now. What a complete
// source has seen is not told again: a line of a log may lack what would show that it is
// about the same attempt.
func (s *supervisor) backfill(ctx context.Context, names []string) {
	since, until, ok := s.gap(ctx)
	if !ok {
		return
	}
	for _, name := range names {
		for _, c := range s.sources {
			if c.Name() == name && s.backfillFrom(ctx, c, since, until) {
				return
			}
		}
	}
}

// gap returns the last time in which no complete source watched. ok is false if there was
// none. The times are zero if no complete source watches. It waits for one that is starting.
func (s *supervisor) gap(ctx context.Context) (since, until time.Time, ok bool) {
	s.awaitComplete(ctx)
	sources, _ := s.completeSources()
	if len(sources) == 0 {
		return since, until, true
	}
	sensor := sources[0].Sensor()
	return time.Unix(sensor.GapStart, 0).Add(-slack), time.Unix(sensor.GapEnd, 0).Add(slack), sensor.GapEnd != 0
}

// awaitComplete waits while a complete source is starting.
func (s *supervisor) awaitComplete(ctx context.Context) {
	defer context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})()
	isStarting := func(c *candidate) bool {
		_, isComplete := c.Source.(crossview.CompleteSource)
		return isComplete && c.cancel != nil && !c.isUp()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for slices.ContainsFunc(s.sources, isStarting) && ctx.Err() == nil {
		s.changed.Wait()
	}
}

func (s *supervisor) backfillFrom(ctx context.Context, c *candidate, since, until time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.cancel != nil || s.wants(c) {
		return c.isUp() // it runs and backfills anyway
	}
	if c.failed {
		return false
	}
	c.backfills, c.since, c.until = true, since, until
	s.changed.Broadcast()
	for c.backfills && !c.failed && ctx.Err() == nil {
		s.changed.Wait()
	}
	return !c.failed
}

func (s *supervisor) isBackfilling(c *candidate) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.backfills
}

// isBetterUp reports whether a source watches that is better than those of a rank.
func (s *supervisor) isBetterUp(rank int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.sources[:min(rank, len(s.sources))], (*candidate).isUp)
}

// completeSources returns the complete sources that watch, and since when one of
// them has.
func (s *supervisor) completeSources() (list []crossview.CompleteSource, since crossview.Start) {
	for _, c := range s.sources {
		source, ok := c.Source.(crossview.CompleteSource)
		s.mu.Lock()
		up := crossview.Start{At: c.up, Uptime: c.upSeconds}
		s.mu.Unlock()
		// A source that lacks some of its hooks watches and is not active.
		if !ok || up.At.IsZero() || c.Sensor().State != kmodquery.StateActive {
			continue
		}
		list = append(list, source)
		if since.At.IsZero() || up.At.Before(since.At) {
			since = up
		}
	}
	return list, since
}

// sync returns when every source has emitted what it saw before the call. It does not
// wait for sources that are stalled.
func (s *supervisor) sync(ctx context.Context) error {
	errs := make([]error, len(s.sources))
	var syncing sync.WaitGroup
	for i, c := range s.sources {
		syncing.Go(func() { errs[i] = s.syncOne(ctx, c) })
	}
	syncing.Wait()
	return errors.Join(errs...)
}

func (s *supervisor) syncOne(ctx context.Context, c *candidate) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	stall := c.stall
	s.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- c.Sync(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-stall:
		return nil
	case <-ctx.Done(): // c.Sync may not return
		err = fmt.Errorf("wait for %s: %w", c.Name(), ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		c.late = time.Time{}
	case errors.Is(err, context.DeadlineExceeded):
		c.late = time.Now()
	}
	return err
}

// sensors returns the sensor of each source.
func (s *supervisor) sensors() []kmodquery.Sensor {
	sensors := make([]kmodquery.Sensor, len(s.sources))
	for i, c := range s.sources {
		sensors[i] = c.Sensor()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	watching := ""
	if i := slices.IndexFunc(s.sources, (*candidate).isUp); i >= 0 {
		watching = s.sources[i].Name()
	}
	for i, c := range s.sources {
		sensor := &sensors[i]
		switch {
		case sensor.State == kmodquery.StateStandby && !c.slow.IsZero():
			sensor.State, sensor.Since = kmodquery.StateFailed, c.slow.Unix()
			sensor.Reason = fmt.Sprintf("it has been starting since %s and does not watch yet", timeText(c.slow))
		case sensor.Reason != "":
		case sensor.State == kmodquery.StateActive && !c.late.IsZero():
			sensor.Reason = fmt.Sprintf("a query at %s did not get its last events in time", timeText(c.late))
		case sensor.State == kmodquery.StateActive:
			sensor.Reason = c.failure
		case sensor.State == kmodquery.StateStandby && s.wants(c):
			sensor.Reason = startingReason
		case sensor.State == kmodquery.StateStandby && watching != "":
			sensor.Reason = "not needed while " + watching + " watches"
		}
		c.monitor.describe(sensor)
	}
	return sensors
}

// stalledError returns an error if sources are stalled.
func (s *supervisor) stalledError() error {
	for _, m := range s.runningMonitors() {
		if m.isStalled() {
			return fmt.Errorf("%w: %s", kmodquery.ErrNotStored, m.hangs())
		}
	}
	return nil
}

// runningMonitors returns the monitors of the sources that run.
func (s *supervisor) runningMonitors() (monitors []*monitor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.sources {
		if c.cancel != nil {
			monitors = append(monitors, &c.monitor)
		}
	}
	return monitors
}

// timeText formats a time for a sensor's reason.
func timeText(t time.Time) string { return t.UTC().Format(time.RFC3339) }
