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
)

// A closer is a sink that closes loads, and notes how many events it had at each call.
type closer struct {
	memory
	hang chan struct{} // nil, or closed when CloseLoads may return

	calls       sync.Mutex
	synced, all []int
	reported    time.Time // of the last call that has it
	closeErr    error
}

func (c *closer) CloseLoads(_ context.Context, reported time.Time) error {
	if c.hang != nil {
		<-c.hang
	}
	c.mu.Lock()
	n := len(c.events)
	c.mu.Unlock()
	c.calls.Lock()
	defer c.calls.Unlock()
	if c.all = append(c.all, n); !reported.IsZero() {
		c.synced, c.reported = append(c.synced, n), reported
	}
	return c.closeErr
}

// set sets the error of later calls, and counts returns the numbers of calls so far.
func (c *closer) set(err error) {
	c.calls.Lock()
	defer c.calls.Unlock()
	c.closeErr = err
}

func (c *closer) counts() (synced, all int) {
	c.calls.Lock()
	defer c.calls.Unlock()
	return len(c.synced), len(c.all)
}

func TestLoadsAreClosedAfterASyncAndNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &closer{}
		var said reports
		source := &scripted{name: "s", events: make(chan kmodquery.Event)}
		r := NewRecorder(sink, said.add, Options{Sources: []Source{source}, SideBySide: true})
		r.Start(t.Context())
		source.events <- kmodquery.Event{}
		synctest.Wait()
		require.NoError(t, r.Sync(t.Context()))
		sink.calls.Lock()
		require.Equal(t, []int{1}, sink.synced, "after its events are stored")
		sink.calls.Unlock()
		time.Sleep(3*closeLoadsInterval + closeLoadsInterval/2)
		synctest.Wait()
		_, all := sink.counts()
		require.Equal(t, 4, all)
		sink.set(errors.New("disk failed"))
		time.Sleep(3 * closeLoadsInterval)
		synctest.Wait()
		require.Len(t, said.errs, 1, "an error is reported once")
		require.ErrorIs(t, r.Sync(t.Context()), kmodquery.ErrNotStored)
		require.NoError(t, r.Close())
		synced, _ := sink.counts()
		require.Equal(t, 3, synced, "by Close too")
	})
}

// A stopped is a closer whose CloseLoads ends with its context.
type stopped struct{ closer }

func (*stopped) CloseLoads(ctx context.Context, reported time.Time) error {
	if !reported.IsZero() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestTheEndOfTheRecorderIsNoErrorOfLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said reports
		source := &scripted{name: "s", events: make(chan kmodquery.Event)}
		r := NewRecorder(&stopped{}, said.add, Options{Sources: []Source{source}, SideBySide: true})
		r.Start(t.Context())
		time.Sleep(2 * closeLoadsInterval)
		require.NoError(t, r.Close())
		require.Empty(t, said.errs)
	})
}

func TestASyncDoesNotWaitForASinkThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &closer{hang: make(chan struct{})}
		r := NewRecorder(sink, func(error) {}, Options{Sources: []Source{&scripted{name: "s", events: make(chan kmodquery.Event)}}, SideBySide: true})
		r.Start(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		require.ErrorIs(t, r.Sync(ctx), kmodquery.ErrNotStored)
		close(sink.hang)
		require.NoError(t, r.Close())
	})
}

// A dilatory source takes a second to report what it saw.
type dilatory struct{ scripted }

func (*dilatory) Sync(context.Context) error {
	time.Sleep(time.Second)
	return nil
}

// What a source reports after a Sync has begun is not known of the others.
func TestASyncClosesWhatWasOverWhenItWasCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &closer{}
		source := &dilatory{scripted{name: "s", events: make(chan kmodquery.Event)}}
		r := NewRecorder(sink, func(error) {}, Options{Sources: []Source{source}, SideBySide: true})
		r.Start(t.Context())
		called := time.Now()
		require.NoError(t, r.Sync(t.Context()))
		require.Equal(t, time.Second, time.Since(called))
		require.Equal(t, called.Add(clockSlack), sink.reported)
		require.NoError(t, r.Close())
	})
}

// A full is an error of a sink that accepts nothing.
type full struct{ rows int }

func (f full) Error() string { return fmt.Sprint("disk full; ", f.rows, " rows") }
func (full) Reason() string  { return "disk full" }

func TestLoadsThatCannotBeStoredAreReportedOnceAReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &closer{}
		var said reports
		r := NewRecorder(sink, said.add, Options{Sources: []Source{&scripted{name: "s", events: make(chan kmodquery.Event)}}, SideBySide: true})
		r.Start(t.Context())
		time.Sleep(closeLoadsInterval / 2) // between two calls
		for rows := range 3 {
			sink.set(full{rows})
			time.Sleep(closeLoadsInterval)
		}
		synctest.Wait()
		require.Len(t, said.errs, 1)
		require.Equal(t, "disk full; 0 rows; rows of kernel_module_loads come late", said.errs[0])
		sink.set(nil)
		time.Sleep(closeLoadsInterval)
		sink.set(full{})
		time.Sleep(closeLoadsInterval)
		synctest.Wait()
		require.Len(t, said.errs, 2, "again after rows were stored")
		require.NoError(t, r.Close())
	})
}

// A stuck is a closer whose last call ends with its context only, and then takes a moment.
type stuck struct {
	closer
	ended time.Time
}

func (s *stuck) CloseLoads(ctx context.Context, reported time.Time) error {
	if !reported.IsZero() {
		<-ctx.Done()
		time.Sleep(time.Second)
		s.ended = time.Now()
	}
	return ctx.Err()
}

func TestCloseEndsACallThatClosesLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &stuck{}
		r := NewRecorder(sink, func(error) {}, Options{Sources: []Source{&scripted{name: "s", events: make(chan kmodquery.Event)}}, SideBySide: true})
		r.Start(t.Context())
		began := time.Now()
		require.NoError(t, r.Close())
		require.False(t, sink.ended.IsZero(), "the sink is not closed under it")
		require.Less(t, time.Since(began), 2*closeTimeout)
	})
}
