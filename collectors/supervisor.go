package collectors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors/crossview"
)

const (
	// Delays before a source that failed is run again. Each failure doubles it
	// until the source has run for longer than the last one.
	firstDelay = time.Second
	lastDelay  = time.Minute
	// takeOver is how long before its failure a source may at least have been
	// blind already. The one that takes over looks back so far.
	takeOver = 30 * time.Second
	// slowStart is how long a source may take to watch before others stand in for
	// it, and nobody waits for it any more.
	slowStart = 20 * time.Second
)

// A selection decides which sources run: each that was asked for by name, or
// the first in their order that works. The best one always runs, if only to
// fail; any other one while all before it have failed. One that works again
// stands those behind it down, and only then, so that they overlap.
type selection struct {
	sources    []*candidate
	sideBySide bool
	takeOver   time.Duration
	report     func(error)
	emit       func(rank int, e kmodquery.Event, past bool)

	mu      sync.Mutex
	changed *sync.Cond
	watched time.Time // when the last source that watched failed; zero if none ever did
	running sync.WaitGroup
}

// A candidate is one source and how it fares. The lower its rank, the better.
type candidate struct {
	Source
	rank    int
	cancel  context.CancelFunc // of the run under way, or nil
	up      time.Time          // since when nothing is missed; zero while it does not watch
	failed  bool               // since it last watched
	final   bool               // it will never watch on this host
	recalls bool               // it runs only to tell what was before
	failure string             // why it last failed, and when; "" if it never did
}

func newSelection(sources []Source, sideBySide bool, takeOver time.Duration, report func(error), emit func(int, kmodquery.Event, bool)) *selection {
	s := &selection{sideBySide: sideBySide, takeOver: takeOver, report: report, emit: emit}
	s.changed = sync.NewCond(&s.mu)
	for rank, source := range sources {
		s.sources = append(s.sources, &candidate{Source: source, rank: rank})
	}
	return s
}

// start runs the sources until ctx ends, and returns when those that are wanted
// watch or have failed.
func (s *selection) start(ctx context.Context) {
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
	for !s.isSettled() && ctx.Err() == nil {
		s.changed.Wait()
	}
}

func (s *selection) isSettled() bool {
	for _, c := range s.sources {
		if s.wants(c) && c.up.IsZero() && !c.failed {
			return false
		}
	}
	return true
}

// wants reports whether a source should run now.
func (s *selection) wants(c *candidate) bool {
	if s.sideBySide || c.recalls {
		return true
	}
	for _, better := range s.sources[:c.rank] {
		if !better.failed {
			return false
		}
	}
	return true
}

// supervise runs one source whenever it is wanted, until ctx ends or the source
// says that this host cannot support it.
func (s *selection) supervise(ctx context.Context, c *candidate) {
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
		if errors.Is(err, errStoodDown) {
			delay, reported = firstDelay, ""
			continue
		}
		if errors.Is(err, kmodquery.ErrNotSupported) && !s.sideBySide && s.isBetterUp(c.rank) {
			return // nobody misses it; its sensor says why
		}
		if err != nil && err.Error() != reported {
			reported = err.Error()
			s.report(fmt.Errorf("%s: %w", c.Name(), err))
		}
		if c.final {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

func (s *selection) awaitWanted(ctx context.Context, c *candidate) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.wants(c) && ctx.Err() == nil {
		s.changed.Wait()
	}
	return ctx.Err() == nil
}

// errStoodDown is how a run ends that is not needed any more.
var errStoodDown = errors.New("it is not needed")

// run runs a source once.
func (s *selection) run(ctx context.Context, c *candidate) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	c.cancel = cancel
	since := time.Time{}
	if !s.sideBySide && !c.recalls && !s.watched.IsZero() {
		since = s.watched.Add(-s.takeOver)
	}
	s.mu.Unlock()
	if historian, ok := c.Source.(Historian); ok {
		historian.LookBack(since)
	}
	slow := time.AfterFunc(slowStart, func() { s.setSlow(ctx, c) })
	defer slow.Stop()
	err := c.Run(ctx, func() { s.setUp(c) }, func(e kmodquery.Event) { s.emit(c.rank, e, s.isRecalling(c)) })

	s.mu.Lock()
	defer s.mu.Unlock()
	stoodDown := ctx.Err() != nil
	if !c.up.IsZero() && !stoodDown {
		s.watched = time.Now()
	}
	c.cancel, c.up, c.recalls = nil, time.Time{}, false
	if stoodDown && err == nil {
		err = errStoodDown
	} else {
		c.failed = true
		c.failure = fmt.Sprintf("failed at %s: %v", time.Now().UTC().Format(time.RFC3339), err)
		c.final = errors.Is(err, kmodquery.ErrNotSupported)
	}
	s.change()
	return err
}

// setUp notes that a source watches.
func (s *selection) setUp(c *candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.up, c.failed, c.recalls = time.Now(), false, false
	s.change()
}

// setSlow has others stand in for a source that does not come to watch.
func (s *selection) setSlow(ctx context.Context, c *candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() == nil && c.up.IsZero() && !c.recalls {
		c.failed = true
		s.change()
	}
}

// change stands down what is not wanted any more and wakes who waits.
func (s *selection) change() {
	for _, c := range s.sources {
		if c.cancel != nil && !s.wants(c) {
			c.cancel()
		}
	}
	s.changed.Broadcast()
}

// recall has the first of the named sources that can tell what happened before
// the start, beside the one that watches.
func (s *selection) recall(ctx context.Context, names []string) {
	for _, name := range names {
		for _, c := range s.sources {
			if c.Name() == name && s.recallFrom(ctx, c) {
				return
			}
		}
	}
}

func (s *selection) recallFrom(ctx context.Context, c *candidate) bool {
	if _, ok := c.Source.(Historian); !ok {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.cancel != nil || s.wants(c) {
		return !c.up.IsZero() // it runs, and looks back by itself
	}
	if c.failed {
		return false
	}
	c.recalls = true
	s.changed.Broadcast()
	for c.recalls && ctx.Err() == nil {
		s.changed.Wait()
	}
	return !c.failed
}

func (s *selection) isRecalling(c *candidate) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.recalls
}

// isBetterUp reports whether a source watches that is better than one of this
// rank.
func (s *selection) isBetterUp(rank int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.sources[:min(rank, len(s.sources))] {
		if !c.up.IsZero() {
			return true
		}
	}
	return false
}

// completeSources returns the complete sources that watch, and since when one of
// them has.
func (s *selection) completeSources() (list []crossview.CompleteSource, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.sources {
		source, ok := c.Source.(crossview.CompleteSource)
		// One that lacks some of its hooks watches and does not see everything.
		if !ok || c.up.IsZero() || c.Sensor().State != kmodquery.StateActive {
			continue
		}
		list = append(list, source)
		if since.IsZero() || c.up.Before(since) {
			since = c.up
		}
	}
	return list, since
}

// sync has every source emit what it saw before the call.
func (s *selection) sync(ctx context.Context) error {
	errs := make([]error, len(s.sources))
	var syncing sync.WaitGroup
	for i, c := range s.sources {
		syncing.Go(func() { errs[i] = c.Sync(ctx) })
	}
	syncing.Wait()
	return errors.Join(errs...)
}

// sensors returns each source's account of itself.
func (s *selection) sensors() []kmodquery.Sensor {
	watching := ""
	failures := make([]string, len(s.sources))
	s.mu.Lock()
	for i, c := range s.sources {
		failures[i] = c.failure
		if watching == "" && !c.up.IsZero() {
			watching = c.Name()
		}
	}
	s.mu.Unlock()
	sensors := make([]kmodquery.Sensor, len(s.sources))
	for i, c := range s.sources {
		sensors[i] = c.Sensor()
		switch sensor := &sensors[i]; {
		case sensor.Reason != "":
		case sensor.State == kmodquery.StateActive:
			sensor.Reason = failures[i]
		case sensor.State == kmodquery.StateStandby && watching != "":
			sensor.Reason = "not needed while " + watching + " watches"
		}
	}
	return sensors
}
