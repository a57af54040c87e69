package collectors

import (
	"fmt"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/progress"
)

// progressInterval is how often the progress of the event loops is checked.
const progressInterval = progress.Interval / 2

// A monitor decides whether an event loop is stalled. A loop that is blocked in emit is
// not: the store is slow, and the StoreReason of the sensors says so.
type monitor struct {
	name      string // of the source
	lastRound func() time.Time

	mu       sync.Mutex
	emitting time.Time // since when the loop is in emit, or zero
	excused  time.Time // when emit last was seen to block
	stalled  time.Time // last round of a stalled loop, or zero
	since    time.Time // when it was found to be stalled
}

// emit calls f, in which the loop may block.
func (m *monitor) emit(f func()) {
	m.setEmitting(time.Now())
	defer m.setEmitting(time.Time{})
	f()
}

func (m *monitor) setEmitting(since time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.emitting = since
}

// check returns the last round of a stalled loop, or the zero time, and whether the loop
// has just stalled or recovered. It reports a loop that has just stalled.
func (m *monitor) check(c *progress.Checker, report func(error)) (stalled time.Time, isNew bool) {
	last := m.lastRound()
	m.mu.Lock()
	now := time.Now()
	if !m.emitting.IsZero() && now.Sub(m.emitting) >= progressInterval {
		m.excused = now
	}
	was := m.stalled
	m.stalled = time.Time{}
	if !last.IsZero() && c.IsStalled(last) && c.IsStalled(m.excused) {
		m.stalled = last
	}
	stalled, isNew = m.stalled, was.IsZero() != m.stalled.IsZero()
	if isNew {
		m.since = now
	}
	m.mu.Unlock()
	if isNew && !stalled.IsZero() {
		report(fmt.Errorf("%s: %s", m.name, stalledReason(stalled)))
	}
	return stalled, isNew
}

// describe makes the sensor of a stalled loop a failed one.
func (m *monitor) describe(s *kmodquery.Sensor) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.stalled.IsZero() {
		s.State, s.Reason, s.Since = kmodquery.StateFailed, stalledReason(m.stalled), m.since.Unix()
	}
}

func (m *monitor) isStalled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.stalled.IsZero()
}

// hangs says what the loop waits for.
func (m *monitor) hangs() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.emitting.IsZero() {
		return m.name + " waits for the store"
	}
	return m.name + " hangs"
}

func stalledReason(last time.Time) string {
	return fmt.Sprintf("its event loop has hung since %s; restart kmodquery if it does not recover", timeText(last))
}

// checkProgress checks the progress of all event loops. Other sources stand in for those
// whose loop is stalled.
func (r *Recorder) checkProgress(now time.Time) {
	r.checker.Tick(now)
	for _, c := range r.supervisor.sources {
		if stalled, isNew := c.monitor.check(&r.checker, r.report); isNew {
			r.supervisor.setStalled(c, stalled)
		}
	}
	if r.check != nil {
		r.monitor.check(&r.checker, r.report)
	}
}
