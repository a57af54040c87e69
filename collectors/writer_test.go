package collectors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// A desk is a writer with its sink and the errors that it reported.
type desk struct {
	*writer
	sink    *memory
	said    *reports
	running sync.WaitGroup

	mu      sync.Mutex
	dropped []kmodquery.Event
}

func newDesk(sink *memory) *desk {
	d := &desk{sink: sink, said: &reports{}}
	d.writer = newWriter(sink, func([]kmodquery.Delivery) {}, func(deliveries []kmodquery.Delivery) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for i := range deliveries {
			d.dropped = append(d.dropped, deliveries[i].Event)
		}
	}, d.said.add)
	d.running.Go(d.run)
	return d
}

func (d *desk) end() error {
	d.close()
	d.running.Wait()
	return d.unstored()
}

// stored returns how many events the sink has stored.
func (d *desk) stored() int {
	d.sink.mu.Lock()
	defer d.sink.mu.Unlock()
	return len(d.sink.events)
}

// begin returns when the first batch was offered.
func (d *desk) begin() {
	time.Sleep(lastPause)
	synctest.Wait()
}

func (d *desk) heard() []string {
	d.said.mu.Lock()
	defer d.said.mu.Unlock()
	return slices.Clone(d.said.errs)
}

// numbered returns the i-th event. An unprivileged user can cause those of kind 'c'.
func numbered(kind byte, i int) kmodquery.Event {
	e := kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: "s", TimeNanos: int64(i)}
	if kind == 'c' {
		e.EventName, e.Source = kmodquery.EventModuleRequest, "c"
	}
	return e
}

// Events that waited for a recorder are stored in full batches, and later ones at once.
func TestFirstBatchOfOldEventsIsDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(&memory{})
		for i := range 300 {
			d.add(deliver(numbered('o', i)))
			time.Sleep(time.Millisecond)
		}
		require.Zero(t, d.stored())
		d.begin()
		require.Equal(t, 300, d.stored(), "no more come")
		d.add(deliver(numbered('o', 300)))
		synctest.Wait()
		require.Equal(t, 301, d.stored())
		require.NoError(t, d.end())

		d = newDesk(&memory{})
		for i := range 300 {
			d.add(deliver(numbered('o', i)))
			time.Sleep(firstPause / 200)
		}
		synctest.Wait()
		require.Equal(t, 300, d.stored(), "it does not wait for ever")
		require.NoError(t, d.end())

		d = newDesk(&memory{})
		for i := range maxBatch {
			d.add(deliver(numbered('o', i)))
		}
		synctest.Wait()
		require.Equal(t, maxBatch, d.stored(), "it is whole")
		require.NoError(t, d.end())

		d = newDesk(&memory{})
		d.add(deliver(kmodquery.Event{TimeNanos: time.Now().UnixNano()}))
		synctest.Wait()
		require.Equal(t, 1, d.stored(), "it has not waited")
		require.NoError(t, d.end())

		d = newDesk(&memory{})
		d.add(deliver(numbered('o', 0)))
		require.NoError(t, d.end())
		require.Equal(t, 1, d.stored())
	})
}

func TestFullQueueBlocksTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(&memory{open: make(chan struct{})})
		var sent sync.WaitGroup
		added := 0
		sent.Go(func() {
			for ; added < maxQueue+10; added++ {
				d.add(deliver(numbered('o', added)))
			}
		})
		synctest.Wait()
		time.Sleep(time.Hour)
		require.Equal(t, maxQueue, added, "a slow sink makes it drop nothing")
		close(d.sink.open)
		sent.Wait()
		require.NoError(t, d.end())
		require.Len(t, d.sink.events, maxQueue+10)
		require.Empty(t, d.dropped)
		require.Empty(t, d.heard())
	})
}

func TestLongEventsBlockTheSourceEarlier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(&memory{open: make(chan struct{})})
		long := strings.Repeat("x", 1<<20)
		var sent sync.WaitGroup
		added := 0
		sent.Go(func() {
			for ; added < 200; added++ {
				d.add(deliver(kmodquery.Event{Cmdline: long}))
			}
		})
		synctest.Wait()
		require.Equal(t, 63, added)
		close(d.sink.open)
		sent.Wait()
		require.NoError(t, d.end())
		require.Len(t, d.sink.events, 200)
	})
}

// The waiting events are stored in order once the sink accepts events again.
func TestNoSourceWaitsForASinkThatRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(&memory{err: errors.New("disk full")})
		const n = maxQueue + 10_000
		for i := range n {
			d.add(deliver(numbered("oc"[i%2], i)))
			if i == 0 {
				d.begin() // it was refused
			}
		}
		sensor := kmodquery.Sensor{Source: "s"}
		d.describe(&sensor)
		require.Equal(t, fmt.Sprintf("disk full; %d events wait in memory, 0 were dropped", n), sensor.StoreReason)
		require.ErrorIs(t, d.sync(t.Context()), kmodquery.ErrNotStored)
		time.Sleep(time.Hour)
		require.Equal(t, []string{"store events: disk full; they wait in memory"}, d.heard())
		d.sink.refuse(nil)
		time.Sleep(2 * retryDelay)
		require.NoError(t, d.sync(t.Context()))
		require.Len(t, d.sink.events, n)
		for i := range n {
			require.EqualValues(t, i, d.sink.events[i].TimeNanos)
		}
		sensor = kmodquery.Sensor{Source: "s"}
		d.describe(&sensor)
		require.Empty(t, sensor.StoreReason)
		require.Empty(t, d.dropped)
		require.Equal(t, "the store takes events again; none waits any more, and since the start 0 were dropped", d.heard()[1])
		require.NoError(t, d.end())
	})
}

func TestLeastValuableEventIsDroppedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(&memory{err: errors.New("disk full")})
		d.add(deliver(numbered('o', 0)))
		d.begin() // in flight
		const unprivileged, beyond = 100, 150
		for i := 1; i < maxWaiting+beyond; i++ {
			kind := byte('o')
			if i > 1000 && i <= 1000+unprivileged {
				kind = 'c'
			}
			d.add(deliver(numbered(kind, i)))
		}
		require.Len(t, d.dropped, beyond)
		for i, e := range d.dropped {
			if i < unprivileged {
				require.EqualValues(t, 1001+i, e.TimeNanos, "those of unprivileged users, the oldest first")
			} else {
				require.EqualValues(t, 1+i-unprivileged, e.TimeNanos, "then the oldest that are not in the sink's hands")
			}
		}
		for source, want := range map[string]int64{"s": beyond - unprivileged, "c": unprivileged} {
			sensor := kmodquery.Sensor{Source: source}
			d.describe(&sensor)
			require.Equal(t, want, sensor.Shed)
			require.Equal(t, fmt.Sprintf("disk full; %d events wait in memory, %d were dropped", maxWaiting, beyond), sensor.StoreReason)
		}
		d.sink.refuse(nil)
		time.Sleep(2 * retryDelay)
		require.NoError(t, d.end())
		require.Len(t, d.sink.events, maxWaiting)
		lost := map[int64]bool{}
		for _, e := range d.dropped {
			lost[e.TimeNanos] = true
		}
		last := int64(-1)
		for _, e := range d.sink.events {
			require.Greater(t, e.TimeNanos, last)
			require.False(t, lost[e.TimeNanos])
			last = e.TimeNanos
		}
	})
}

func TestWaitingEventsAreBoundedInBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(&memory{err: errors.New("disk full")})
		long := strings.Repeat("x", 1<<20)
		for i := range 100 {
			d.add(deliver(kmodquery.Event{TimeNanos: int64(i), Cmdline: long}))
			d.begin()
		}
		d.writer.mu.Lock()
		require.LessOrEqual(t, d.bytes, maxWaitingBytes)
		require.Equal(t, 63, d.waiting())
		d.writer.mu.Unlock()
		require.EqualValues(t, 1, d.dropped[0].TimeNanos)
		require.Len(t, d.dropped, 37)
		d.sink.refuse(nil)
		time.Sleep(2 * retryDelay)
		require.NoError(t, d.end())
		require.Equal(t, int64(0), d.sink.events[0].TimeNanos)
		require.Equal(t, int64(99), d.sink.events[62].TimeNanos)
	})
}

func TestSinkWithLittleRoomGetsSmallerBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(&memory{room: 7, open: make(chan struct{})})
		for i := range 1000 {
			d.add(deliver(numbered('o', i)))
		}
		close(d.sink.open)
		time.Sleep(time.Hour)
		require.NoError(t, d.sync(t.Context()))
		require.NoError(t, d.end())
		require.Len(t, d.sink.events, 1000)
		for i, e := range d.sink.events {
			require.EqualValues(t, i, e.TimeNanos)
		}
	})
}

func TestCloseStoresWhatFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(&memory{room: 7, err: errors.New("disk full")})
		for i := range 1000 {
			d.add(deliver(numbered('o', i)))
		}
		synctest.Wait()
		d.sink.refuse(nil)
		require.NoError(t, d.end())
		require.Len(t, d.sink.events, 1000)
	})
}

// A reason is reported once until events are stored again, whatever else its error
// says.
func TestEachReasonIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(&memory{})
		for round := range 2 {
			for i, err := range []error{because{"full", 1}, because{"full", 2}, because{"broken", 3}, because{"full", 4}} {
				d.sink.refuse(err)
				if i == 0 {
					d.add(deliver(numbered('o', round)))
				}
				time.Sleep(3 * retryDelay)
			}
			d.sink.refuse(nil)
			time.Sleep(3 * retryDelay)
		}
		again := "the store takes events again; none waits any more, and since the start 0 were dropped"
		once := []string{"store events: full (1); they wait in memory", "store events: broken (3); they wait in memory", again}
		require.Equal(t, append(once, once...), d.heard())
		require.NoError(t, d.end())
	})
}

type because struct {
	reason string
	n      int
}

func (b because) Error() string  { return fmt.Sprintf("%s (%d)", b.reason, b.n) }
func (b because) Reason() string { return b.reason }

// A source continues behind the position of its last stored event, so no event before
// that may be missing.
func TestCloseStoresInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{err: errors.New("disk full")}
		source := &scripted{name: "s", events: make(chan kmodquery.Event, 2*maxQueue)}
		r := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
		r.Start(t.Context())
		for i := range maxQueue + 1000 {
			source.events <- numbered('o', i)
		}
		synctest.Wait()
		ending := make(chan error)
		go func() { ending <- r.Close() }()
		time.Sleep(retryDelay / 2)
		sink.refuse(nil)
		require.NoError(t, <-ending)
		for i, e := range sink.events {
			require.EqualValues(t, i, e.TimeNanos)
		}
	})
}

func TestCloseDoesNotWaitForASinkThatRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{err: errors.New("disk full")}
		source := &scripted{name: "s", events: make(chan kmodquery.Event, 2*maxQueue)}
		r := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
		r.Start(t.Context())
		for range maxQueue + 1 {
			source.events <- kmodquery.Event{}
		}
		synctest.Wait()
		require.EqualError(t, r.Close(), fmt.Sprintf("store the last %d events: disk full", maxQueue+1))
	})
}

func TestSyncEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(&memory{open: make(chan struct{})})
		d.add(deliver(numbered('o', 0)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.EqualError(t, d.sync(ctx), "wait for 1 events to be stored: context deadline exceeded")
		close(d.sink.open)
		require.NoError(t, d.end())
	})
}

// The store sets fields of the events that it takes. What was added for an event is
// subtracted, however it leaves the queue.
func TestTheWeightOfAllEventsReturnsToZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := int64(1)
		d := newDesk(&memory{err: errors.New("disk full"), first: &n})
		long := strings.Repeat("x", maxWaitingBytes/10)
		for range 20 {
			d.add(deliver(kmodquery.Event{Cmdline: long}))
			d.begin()
		}
		d.sink.refuse(nil)
		time.Sleep(2 * retryDelay)
		for range maxBatch {
			d.add(deliver(kmodquery.Event{Name: "dummy"}))
		}
		require.NoError(t, d.end())
		require.NotEmpty(t, d.dropped)
		require.Zero(t, d.bytes)
	})
}

func TestWeightOfAnEvent(t *testing.T) {
	n := int64(1)
	empty := weigh(&kmodquery.Delivery{})
	require.Equal(t, empty+8, weigh(&kmodquery.Delivery{Event: kmodquery.Event{Pid: &n}}))
	require.Equal(t, empty+3, weigh(&kmodquery.Delivery{Position: "abc"}))
	require.Equal(t, empty+2, weigh(&kmodquery.Delivery{Key: "ab"}))
	text := "abcd"
	require.Equal(t, empty+16+4, weigh(&kmodquery.Delivery{Event: kmodquery.Event{Params: &text}}))
}
