package collectors

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// deliver returns the delivery of an event without a position and a key.
func deliver(e kmodquery.Event) kmodquery.Delivery { return kmodquery.Delivery{Event: e} }

// A scripted source emits what it is sent.
type scripted struct {
	name   string
	events chan kmodquery.Event
	fail   []error // what its first runs return at once
	runs   atomic.Int64
}

func (s *scripted) Name() string { return s.name }

func (s *scripted) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error {
	s.runs.Add(1)
	if len(s.fail) > 0 {
		err := s.fail[0]
		s.fail = s.fail[1:]
		return err
	}
	ready()
	for {
		select {
		case e := <-s.events:
			emit(deliver(e))
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *scripted) Sync(context.Context) error { return nil }

func (s *scripted) Sensor() kmodquery.Sensor { return kmodquery.Sensor{Source: s.name} }

func (s *scripted) LastRound() time.Time { return time.Time{} }

// A memory sink keeps events in memory. It refuses them while err is set, accepts no
// more than room at once if that is set, and blocks until open is closed if that is
// set. The events get first as their FirstSeen.
type memory struct {
	mu     sync.Mutex
	events []kmodquery.Event
	err    error
	batch  int // the largest
	room   int
	open   chan struct{}
	first  *int64
}

func (m *memory) Append(_ context.Context, deliveries []kmodquery.Delivery) error {
	if m.open != nil {
		<-m.open
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	if m.room > 0 && len(deliveries) > m.room {
		return errors.New("too many")
	}
	m.batch = max(m.batch, len(deliveries))
	for i := range deliveries {
		deliveries[i].Event.FirstSeen = m.first
		m.events = append(m.events, deliveries[i].Event)
	}
	return nil
}

func (m *memory) refuse(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

type reports struct {
	mu   sync.Mutex
	errs []string
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err.Error())
}

func TestRecorderStoresInOrder(t *testing.T) {
	sink := &memory{}
	source := &scripted{name: "s", events: make(chan kmodquery.Event)}
	r := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
	r.Start(t.Context())
	const n = 5000
	for i := range n {
		source.events <- kmodquery.Event{TimeNanos: int64(i)}
	}
	require.NoError(t, r.Close())
	require.Len(t, sink.events, n)
	for i, e := range sink.events {
		require.EqualValues(t, i, e.TimeNanos)
	}
	require.LessOrEqual(t, sink.batch, maxBatch)
}

func TestSyncWaitsForTheSink(t *testing.T) {
	sink := &memory{}
	source := &scripted{name: "s", events: make(chan kmodquery.Event)}
	r := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
	r.Start(t.Context())
	for i := range 100 {
		source.events <- kmodquery.Event{TimeNanos: int64(i)}
	}
	source.events <- kmodquery.Event{} // once taken, the hundredth was emitted
	require.NoError(t, r.Sync(t.Context()))
	sink.mu.Lock()
	require.GreaterOrEqual(t, len(sink.events), 100)
	sink.mu.Unlock()
	require.NoError(t, r.Close())
}

// A source waits for a place in the queue and holds the correlator's lock, for which each Sync
// waits.
func TestSyncLeavesNoGoroutinesBehindWhileTheSinkHangs(t *testing.T) {
	sink := &memory{open: make(chan struct{})}
	source := &scripted{name: "s", events: make(chan kmodquery.Event)}
	r := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
	r.Start(t.Context())
	const parts = 8
	large := strings.Repeat("x", maxWaitingBytes/parts)
	for range parts {
		source.events <- kmodquery.Event{Raw: large}
	}
	before := runtime.NumGoroutine()
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		require.ErrorIs(t, r.Sync(ctx), kmodquery.ErrNotStored)
		cancel()
	}
	const others = 10 // a Sync that has just returned, and the runtime's
	require.Less(t, runtime.NumGoroutine(), before+others)
	close(sink.open)
	require.NoError(t, r.Sync(t.Context()))
	require.NoError(t, r.Close())
	require.Len(t, sink.events, parts)
}

// A starting source does not watch before it is released.
type startingSource struct {
	scripted
	release chan struct{}
}

func (s *startingSource) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error {
	select {
	case <-s.release:
	case <-ctx.Done():
		return nil
	}
	emit(deliver(kmodquery.Event{Name: "waited"}))
	return s.scripted.Run(ctx, ready, emit)
}

func (s *startingSource) Sensor() kmodquery.Sensor {
	return kmodquery.Sensor{Source: s.name, State: kmodquery.StateStandby}
}

func TestSyncWaitsUntilTheSourcesHaveStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{}
		source := &startingSource{scripted{name: "s"}, make(chan struct{})}
		r := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
		requireStarting := func() {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			require.ErrorIs(t, r.Sync(ctx), kmodquery.ErrNotStored)
			require.Equal(t, startingReason, r.Sensors(t.Context())[0].Reason)
		}
		requireStarting()
		started := background(func() { r.Start(t.Context()) })
		requireStarting()
		synced := make(chan error)
		go func() { synced <- r.Sync(t.Context()) }()
		close(source.release)
		require.NoError(t, <-synced)
		require.Len(t, sink.events, 1)
		<-started
		require.NoError(t, r.Close())
	})
}

func TestStartEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		said := &reports{}
		read := make(chan struct{})
		r := NewRecorder(&memory{}, said.add, Options{
			Sources:    []Source{&startingSource{scripted{name: "s"}, nil}},
			SideBySide: true,
			Past: func(ctx context.Context, _ func(*kmodquery.Event)) error {
				<-read // ignores its context, as a system call that hangs
				return ctx.Err()
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		started := background(func() { r.Start(ctx) })
		synctest.Wait()
		cancel()
		<-started
		close(read)
		require.NoError(t, r.Close())
		require.Empty(t, said.errs, "a stop is no error")
	})
}

func TestRefusedBatchIsOfferedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink, said := &memory{}, &reports{}
		sink.refuse(errors.New("disk full"))
		source := &scripted{name: "s", events: make(chan kmodquery.Event)}
		r := NewRecorder(sink, said.add, Options{Sources: []Source{source}, SideBySide: true})
		r.Start(t.Context())
		source.events <- kmodquery.Event{TimeNanos: 1}
		synctest.Wait()
		require.EqualError(t, r.Sync(t.Context()), "events wait to be stored: disk full")
		time.Sleep(5 * retryDelay)
		synctest.Wait()
		require.Equal(t, []string{"store events: disk full; they wait in memory"}, said.errs)

		sink.refuse(nil)
		time.Sleep(2 * retryDelay)
		require.NoError(t, r.Sync(t.Context()))
		require.Len(t, sink.events, 1)
		require.NoError(t, r.Close())
	})
}

func TestCloseReportsUnstoredEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{err: errors.New("disk full")}
		source := &scripted{name: "s", events: make(chan kmodquery.Event)}
		r := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
		r.Start(t.Context())
		source.events <- kmodquery.Event{}
		synctest.Wait()
		require.EqualError(t, r.Close(), "store the last 1 events: disk full")
	})
}

func TestFailedSourcesRunAgainUnlessUnsupported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		said := &reports{}
		passing := &scripted{name: "passing", fail: []error{errors.New("one"), errors.New("two")}}
		never := &scripted{name: "never", fail: []error{fmt.Errorf("open: %w", &kmodquery.NotSupportedError{Missing: "no BTF"})}}
		r := NewRecorder(&memory{}, said.add, Options{Sources: []Source{passing, never}, SideBySide: true})
		r.Start(t.Context())
		time.Sleep(time.Hour)
		synctest.Wait()
		require.EqualValues(t, 3, passing.runs.Load())
		require.EqualValues(t, 1, never.runs.Load())
		require.ElementsMatch(t, []string{"passing: one", "passing: two", "never: open: not supported: no BTF"}, said.errs)
		require.Len(t, r.Sensors(t.Context()), 2)
		require.NoError(t, r.Close())
	})
}

// lasting is a source that works for some time before each failure.
type lasting struct {
	scripted
	works time.Duration
}

func (l *lasting) Run(ctx context.Context, ready func(), _ func(kmodquery.Delivery)) error {
	l.runs.Add(1)
	ready()
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(l.works):
		return errors.New("broke")
	}
}

func TestSourceThatHadWorkedRunsAgainSoon(t *testing.T) {
	for works, want := range map[time.Duration]int64{
		// A failure every two minutes, and a second: the delays never grow.
		2 * time.Minute: 1 + 24*60*60/121,
		// Seven times in the first 63 s, and then every minute.
		0: 7 + (24*60*60-63)/60,
	} {
		synctest.Test(t, func(t *testing.T) {
			said := &reports{}
			source := &lasting{works: works}
			r := NewRecorder(&memory{}, said.add, Options{Sources: []Source{source}, SideBySide: true})
			r.Start(t.Context())
			time.Sleep(24 * time.Hour)
			require.NoError(t, r.Close())
			require.Equal(t, want, source.runs.Load())
			require.Len(t, said.errs, 1, "the same failure is reported once")
		})
	}
}

func TestSensorsAnswerWhileTheSinkRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{err: errors.New("disk full")}
		source := &scripted{name: "s", events: make(chan kmodquery.Event, 2*maxQueue)}
		r := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
		r.Start(t.Context())
		for range maxQueue + 2 {
			source.events <- kmodquery.Event{}
		}
		synctest.Wait()
		answered := make(chan struct{})
		go func() { r.Sensors(t.Context()); close(answered) }()
		synced := make(chan struct{})
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = r.Sync(ctx)
			close(synced)
		}()
		time.Sleep(time.Minute)
		isClosed := func(c chan struct{}) bool {
			select {
			case <-c:
				return true
			default:
				return false
			}
		}
		a, s := isClosed(answered), isClosed(synced)
		_ = r.Close()
		require.True(t, a, "Sensors")
		require.True(t, s, "Sync")
	})
}
