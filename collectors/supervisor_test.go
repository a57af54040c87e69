package collectors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/progress"
)

// A staged source does what the test says: it watches once begin was received, hangs
// while the channel sent to hang is open, and returns what is sent to end.
type staged struct {
	name     string
	begin    chan struct{}
	end      chan error
	emitting chan kmodquery.Event
	hang     chan chan struct{}
	loop     progress.Loop

	mu      sync.Mutex
	since   []time.Time // of each Backfill
	until   time.Time   // of the last one
	gap     [2]int64    // of the sensor
	running bool
	lost    int64
}

func newStaged(name string) *staged {
	return &staged{
		name: name, begin: make(chan struct{}), end: make(chan error),
		emitting: make(chan kmodquery.Event), hang: make(chan chan struct{}),
	}
}

func (s *staged) Name() string               { return s.name }
func (s *staged) Sync(context.Context) error { return nil }

func (s *staged) Backfill(since, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = append(s.since, since)
	s.until = until
}

func (s *staged) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error {
	s.set(true)
	defer s.set(false)
	defer s.loop.End()
	wake := time.NewTicker(progress.Interval)
	defer wake.Stop()
	for {
		s.loop.Round()
		select {
		case <-wake.C:
		case release := <-s.hang:
			<-release
		case <-s.begin:
			ready()
		case e := <-s.emitting:
			e.Source = s.name
			emit(deliver(e))
		case err := <-s.end:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *staged) LastRound() time.Time { return s.loop.Last() }

func (s *staged) set(running bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = running
}

func (s *staged) isRunning() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

func (s *staged) backfilled() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since
}

func (s *staged) Sensor() kmodquery.Sensor {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := kmodquery.StateStandby
	if s.running {
		state = kmodquery.StateActive
	}
	return kmodquery.Sensor{Source: s.name, State: state, Lost: s.lost, GapStart: s.gap[0], GapEnd: s.gap[1]}
}

// A trusting source also sees every load.
type trusting struct {
	*staged
	reasons []string
}

func (t *trusting) MarkUnreliable(reason string) {
	t.reasons = append(t.reasons, reason)
	t.end <- errors.New(reason)
}

// startStaged starts a recorder whose best source watches at once.
func startStaged(t *testing.T, o Options) (*Recorder, *memory, *reports) {
	t.Helper()
	sink, said := &memory{}, &reports{}
	r := NewRecorder(sink, said.add, o)
	started := make(chan struct{})
	go func() {
		defer close(started)
		r.Start(t.Context())
	}()
	synctest.Wait()
	return r, sink, said
}

// A talking source reports errors while it runs.
type talking struct {
	*trusting
	report func(error)
}

func (r *talking) ReportTo(report func(error)) { r.report = report }

// A source that missed something says that it is ready again, without an interruption for
// others to stand in.
func TestReadySourceWatchesSinceThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, next := &talking{trusting: &trusting{staged: newStaged("best")}}, newStaged("next")
		r, _, said := startStaged(t, Options{Sources: []Source{best, next}})
		best.begin <- struct{}{}
		synctest.Wait()
		_, first := r.supervisor.completeSources()
		time.Sleep(time.Minute)
		best.report(errors.New("the hooks were detached"))
		best.begin <- struct{}{}
		synctest.Wait()
		_, since := r.supervisor.completeSources()
		require.Equal(t, time.Minute, since.At.Sub(first.At))
		require.False(t, next.isRunning())
		require.Equal(t, []string{"best: the hooks were detached"}, said.errs)
		require.NoError(t, r.Close())
	})
}

func TestBestWorkingSourceWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, next, last := newStaged("best"), newStaged("next"), newStaged("last")
		r, _, said := startStaged(t, Options{Sources: []Source{best, next, last}})
		require.True(t, best.isRunning())
		require.False(t, next.isRunning(), "it is not known yet that it is needed")
		best.begin <- struct{}{}
		synctest.Wait()
		require.Equal(t, []kmodquery.Sensor{
			{Source: "best", State: kmodquery.StateActive},
			{Source: "next", State: kmodquery.StateStandby, Reason: "not needed while best watches"},
			{Source: "last", State: kmodquery.StateStandby, Reason: "not needed while best watches"},
		}, r.Sensors(t.Context()))

		// It fails: the next one takes over and backfills.
		time.Sleep(time.Hour)
		failedAt := time.Now()
		best.end <- errors.New("blind")
		synctest.Wait()
		require.True(t, next.isRunning())
		require.False(t, last.isRunning())
		require.Equal(t, []time.Time{failedAt.Add(-takeOver)}, next.backfilled())
		next.begin <- struct{}{}

		// It runs again, and the next one continues until it watches.
		time.Sleep(firstDelay)
		synctest.Wait()
		require.True(t, best.isRunning())
		require.True(t, next.isRunning())
		best.begin <- struct{}{}
		synctest.Wait()
		require.False(t, next.isRunning())
		require.Equal(t, []string{"best: blind"}, said.errs)
		require.Equal(t, "failed at "+failedAt.UTC().Format(time.RFC3339)+": blind", r.Sensors(t.Context())[0].Reason)
		require.NoError(t, r.Close())
	})
}

func TestUnsupportedSourcesAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, next, last := newStaged("best"), newStaged("next"), newStaged("last")
		r, _, _ := startStaged(t, Options{Sources: []Source{best, next, last}})
		best.end <- fmt.Errorf("open: %w", &kmodquery.NotSupportedError{Missing: "no BTF"})
		synctest.Wait()
		require.True(t, next.isRunning())
		require.Equal(t, []time.Time{{}}, next.backfilled(), "nothing was watched before")
		next.end <- errors.New("no permission")
		synctest.Wait()
		require.True(t, last.isRunning())
		last.begin <- struct{}{}
		time.Sleep(time.Hour)
		synctest.Wait()
		require.False(t, best.isRunning())
		require.True(t, next.isRunning(), "it is tried again and again")
		require.True(t, last.isRunning())
		require.NoError(t, r.Close())
	})
}

func TestSourcesWatchSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newStaged("one"), newStaged("two")
		r, _, _ := startStaged(t, Options{Sources: []Source{one, two}, SideBySide: true})
		one.begin <- struct{}{}
		two.begin <- struct{}{}
		time.Sleep(time.Hour)
		require.True(t, one.isRunning())
		require.True(t, two.isRunning())
		require.Equal(t, []time.Time{{}}, two.backfilled())
		require.NoError(t, r.Close())
	})
}

// A source with a log emits once what happened before the start, except stored events.
func TestOneSourceBackfillsAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, next, logs := newStaged("best"), newStaged("next"), newStaged("logs")
		at := time.Now()
		known := kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: "best", LoadID: "1", Name: "known", TimeNanos: at.UnixNano()}
		r, sink, _ := startStaged(t, Options{
			Sources: []Source{best, next, logs}, Backfill: []string{"journal", "logs", "next"},
			Past: func(_ context.Context, visit func(*kmodquery.Event)) error { visit(&known); return nil },
		})
		best.begin <- struct{}{}
		synctest.Wait()
		require.True(t, logs.isRunning())
		require.False(t, next.isRunning())
		require.Equal(t, []time.Time{{}}, logs.backfilled())
		logs.emitting <- kmodquery.Event{EventName: kmodquery.EventModuleLoad, LoadID: "a", Name: "known", TimeNanos: at.Add(time.Second).UnixNano()}
		logs.emitting <- kmodquery.Event{EventName: kmodquery.EventModuleLoad, LoadID: "b", Name: "unknown", TimeNanos: at.UnixNano()}
		logs.begin <- struct{}{} // it has emitted everything
		synctest.Wait()
		require.False(t, logs.isRunning())
		require.NoError(t, r.Sync(t.Context()))
		require.Len(t, sink.events, 1)
		require.Equal(t, "unknown", sink.events[0].Name)
		require.Equal(t, "b", sink.events[0].LoadID)
		require.NoError(t, r.Close())
	})
}

// What a complete source has seen, no log tells again.
func TestLogsTellOnlyOfTheGapOfACompleteSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, logs := &trusting{staged: newStaged("best")}, newStaged("logs")
		backfilled := 0
		o := Options{Sources: []Source{best, logs}, Backfill: []string{"logs"}, Backfilled: func() { backfilled++ }}
		r, _, _ := startStaged(t, o)
		best.begin <- struct{}{}
		synctest.Wait()
		require.Empty(t, logs.backfilled(), "it watched all the time")
		require.Equal(t, 1, backfilled)
		require.NoError(t, r.Close())

		best.gap = [2]int64{1000, 2000}
		r, _, _ = startStaged(t, o)
		best.begin <- struct{}{}
		synctest.Wait()
		require.Equal(t, []time.Time{time.Unix(1000, 0).Add(-slack)}, logs.backfilled())
		require.Equal(t, time.Unix(2000, 0).Add(slack), logs.until)
		require.Equal(t, 1, backfilled, "it has not read the log to its end")
		logs.begin <- struct{}{}
		synctest.Wait()
		require.Equal(t, 2, backfilled)
		require.NoError(t, r.Close())
	})
}

// However much is stored, the sources watch at once. Their events are stored, except
// those that depend on stored ones.
func TestSourcesWatchWhileTheStoreIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, logs := newStaged("best"), newStaged("logs")
		at := time.Now()
		known := kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: "best", LoadID: "1", Name: "known", TimeNanos: at.UnixNano()}
		r, sink, _ := startStaged(t, Options{
			Sources: []Source{best, logs}, Backfill: []string{"logs"},
			Past: func(_ context.Context, visit func(*kmodquery.Event)) error {
				time.Sleep(time.Hour)
				visit(&known)
				return nil
			},
		})
		stored := func() []kmodquery.Event {
			sink.mu.Lock()
			defer sink.mu.Unlock()
			return sink.events
		}
		best.begin <- struct{}{}
		went := kmodquery.Event{EventName: kmodquery.EventModuleFree, LoadID: "2", Name: "known", TimeNanos: at.Add(time.Second).UnixNano()}
		go func() {
			own, denied, nobodys := went, went, went
			own.LoadID, own.Pid = "3", new(int64(7))
			best.emitting <- own
			denied.EventName, denied.LoadID = kmodquery.EventInitModule, ""
			best.emitting <- denied
			best.emitting <- nobodys
		}()
		synctest.Wait()
		require.Equal(t, kmodquery.StateActive, r.Sensors(t.Context())[0].State)
		require.False(t, logs.isRunning())
		require.Len(t, stored(), 2)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.True(t, logs.isRunning())
		require.NoError(t, r.Sync(t.Context()))
		require.Len(t, stored(), 3)
		require.Empty(t, r.loaded(), "it went after it had come")
		require.NoError(t, r.Close())
	})
}

type slow struct {
	*staged
	syncing chan struct{}
}

func (s *slow) Sync(context.Context) error { <-s.syncing; return nil }

// An attempt begins while a Sync of a lesser source is under way.
func TestSyncTearsNoAttemptApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, lesser := newStaged("ebpf"), &slow{newStaged("audit"), make(chan struct{})}
		r, sink, _ := startStaged(t, Options{Sources: []Source{best, lesser}, SideBySide: true})
		best.begin <- struct{}{}
		lesser.begin <- struct{}{}
		go func() { _ = r.Sync(t.Context()) }()
		synctest.Wait()
		time.Sleep(time.Second)
		at := time.Now().UnixNano() // after the call
		lesser.emitting <- kmodquery.Event{EventName: kmodquery.EventFinitModule, Name: "dummy", LoadID: "a", TimeNanos: at}
		synctest.Wait()
		lesser.syncing <- struct{}{}
		synctest.Wait()
		best.emitting <- kmodquery.Event{EventName: kmodquery.EventModuleLoad, Name: "dummy", LoadID: "e", TimeNanos: at}
		synctest.Wait()
		close(lesser.syncing)
		require.NoError(t, r.Close())
		for _, e := range sink.events {
			require.Equal(t, "e", e.LoadID, e.Source)
		}
	})
}

func TestStartDoesNotWaitForASourceThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged("hung")
		r := NewRecorder(&memory{}, (&reports{}).add, Options{Sources: []Source{s}, SideBySide: true})
		started := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { r.Start(ctx); close(started) }()
		time.Sleep(time.Hour)
		ok := false
		select {
		case <-started:
			ok = true
		default:
		}
		cancel()
		<-started
		_ = r.Close()
		require.True(t, ok)
	})
}
