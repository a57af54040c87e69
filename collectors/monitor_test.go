package collectors

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/progress"
)

// stallTime is how long it takes at most until a loop that hangs is found.
const stallTime = progress.Limit + progress.Interval

func TestAnotherSourceStandsInForOneThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, next := newStaged("best"), newStaged("next")
		r, _, said := startStaged(t, Options{Sources: []Source{best, next}})
		best.begin <- struct{}{}
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, kmodquery.StateActive, r.Sensors(t.Context())[0].State)

		release, last := make(chan struct{}), time.Now()
		best.hang <- release
		time.Sleep(progress.Limit - progress.Interval)
		synctest.Wait()
		require.Equal(t, kmodquery.StateActive, r.Sensors(t.Context())[0].State)
		time.Sleep(2 * progress.Interval)
		synctest.Wait()
		sensor := r.Sensors(t.Context())[0]
		require.Equal(t, kmodquery.StateFailed, sensor.State)
		reason := "its event loop has hung since " + timeText(last) + "; restart kmodquery if it does not recover"
		require.Equal(t, reason, sensor.Reason)
		require.Greater(t, sensor.Since, last.Unix())
		require.True(t, next.isRunning())
		require.Equal(t, []time.Time{last.Add(-takeOver)}, next.backfilled())
		next.begin <- struct{}{}
		synctest.Wait()
		require.Equal(t, kmodquery.StateActive, r.Sensors(t.Context())[1].State)
		time.Sleep(time.Hour)
		require.Equal(t, []string{"best: " + reason}, said.errs, "it is reported once")

		close(release)
		time.Sleep(progress.Interval)
		synctest.Wait()
		sensor = r.Sensors(t.Context())[0]
		require.Equal(t, kmodquery.StateActive, sensor.State)
		require.Equal(t, "hung from "+timeText(last)+" on", sensor.Reason)
		require.False(t, next.isRunning())
		require.NoError(t, r.Close())
	})
}

func TestSourceThatHungRunsAgainAfterItsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		best, next := newStaged("best"), newStaged("next")
		r, _, _ := startStaged(t, Options{Sources: []Source{best, next}})
		best.begin <- struct{}{}
		release := make(chan struct{})
		best.hang <- release
		time.Sleep(stallTime)
		close(release)
		best.end <- errors.New("the device is gone")
		time.Sleep(firstDelay)
		synctest.Wait()
		require.True(t, best.isRunning())
		require.True(t, next.isRunning(), "the new run does not watch yet")
		time.Sleep(progress.Interval)
		require.True(t, next.isRunning())
		best.begin <- struct{}{}
		synctest.Wait()
		require.False(t, next.isRunning())
		require.NoError(t, r.Close())
	})
}

// A source whose start hangs has no event loop yet.
func TestSensorOfASourceThatDoesNotStartIsFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &starting{staged: newStaged("slow")}
		r, _, _ := startStaged(t, Options{Sources: []Source{source}})
		began := time.Now()
		require.Equal(t, kmodquery.StateStandby, r.Sensors(t.Context())[0].State)
		time.Sleep(slowStart)
		synctest.Wait()
		sensor := r.Sensors(t.Context())[0]
		require.Equal(t, kmodquery.StateFailed, sensor.State)
		require.Equal(t, "it has been starting since "+timeText(began)+" and does not watch yet", sensor.Reason)
		source.begin <- struct{}{}
		synctest.Wait()
		require.Equal(t, kmodquery.StateStandby, r.Sensors(t.Context())[0].State)
		require.NoError(t, r.Close())
	})
}

// A starting source stays on standby.
type starting struct{ *staged }

func (s *starting) Sensor() kmodquery.Sensor {
	return kmodquery.Sensor{Source: s.name, State: kmodquery.StateStandby}
}

func TestViewsThatHangAreFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel("ext4")
		w := startWatch(t, k)
		w.found(t)
		release := make(chan struct{})
		k.set(func() { k.flicker = func(int) { <-release } })
		time.Sleep(stallTime + DefaultPoll)
		sensors := w.Sensors(t.Context())
		require.Equal(t, kmodquery.StateActive, sensors[0].State)
		require.Equal(t, kmodquery.StateFailed, sensors[1].State)
		require.Contains(t, sensors[1].Reason, "its event loop has hung since ")
		require.Len(t, w.said.errs, 1)
		w.sees(kmodquery.EventModuleLoad, "dummy", "1")
		require.NoError(t, w.Sync(t.Context()))

		k.set(func() { k.flicker = nil })
		close(release)
		time.Sleep(progress.Interval)
		synctest.Wait()
		require.Equal(t, kmodquery.StateActive, w.Sensors(t.Context())[1].State)
		require.NoError(t, w.Close())
	})
}

func TestLoopsOfACheckWithALongPeriodMakeProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newStaged("s")
		r, _, said := startStaged(t, Options{Sources: []Source{source}, Views: newKernel("ext4"), Stamp: stampNow, Poll: time.Hour})
		source.begin <- struct{}{}
		time.Sleep(24 * time.Hour)
		require.Empty(t, said.errs)
		require.Equal(t, kmodquery.StateActive, r.Sensors(t.Context())[1].State)
		require.NoError(t, r.Close())
	})
}

// A store that does not answer is at fault, and not the source that waits for it.
func TestSourceThatWaitsForTheStoreIsNotStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, said := newStaged("s"), &reports{}
		sink := &memory{open: make(chan struct{})}
		r := NewRecorder(sink, said.add, Options{Sources: []Source{source}, SideBySide: true})
		go r.Start(t.Context())
		source.begin <- struct{}{}
		began := time.Now()
		go func() {
			for range maxQueue + 10 {
				source.emitting <- kmodquery.Event{}
			}
		}()
		synctest.Wait()
		time.Sleep(time.Hour)
		sensor := r.Sensors(t.Context())[0]
		require.Equal(t, kmodquery.StateActive, sensor.State)
		require.Contains(t, sensor.StoreReason, "it has not answered since "+timeText(began.Add(lastPause)))
		require.Empty(t, said.errs)
		close(sink.open)
		time.Sleep(time.Second)
		require.NoError(t, r.Sync(t.Context()))
		require.Empty(t, r.Sensors(t.Context())[0].StoreReason)
		require.NoError(t, r.Close())
	})
}

// A deaf source never answers a Sync, not even when its context ends.
type deaf struct {
	*staged
	release chan struct{}
}

func (d *deaf) Sync(context.Context) error {
	<-d.release
	return nil
}

func TestSyncEndsAtItsDeadlineAndTheSensorSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &deaf{newStaged("s"), make(chan struct{})}
		r, _, _ := startStaged(t, Options{Sources: []Source{source}})
		source.begin <- struct{}{}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		err := r.Sync(ctx)
		require.ErrorIs(t, err, kmodquery.ErrNotStored, "the store can be read")
		require.ErrorIs(t, err, context.DeadlineExceeded, "the recorder hangs")
		require.Equal(t, "a query at "+timeText(time.Now())+" did not get its last events in time", r.Sensors(t.Context())[0].Reason)

		release := make(chan struct{})
		source.hang <- release
		began := time.Now()
		require.EqualError(t, r.Sync(t.Context()), "events wait to be stored: s hangs")
		require.LessOrEqual(t, time.Since(began), stallTime)
		began = time.Now()
		require.ErrorIs(t, r.Sync(t.Context()), kmodquery.ErrNotStored)
		require.Zero(t, time.Since(began), "no Sync waits for a source that is stalled")
		close(release)
		close(source.release)
		time.Sleep(progress.Interval)
		require.NoError(t, r.Sync(t.Context()))
		require.NotContains(t, r.Sensors(t.Context())[0].Reason, "a query at")
		require.NoError(t, r.Close())
	})
}

func TestSyncWithAStoreThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newStaged("s")
		sink := &memory{open: make(chan struct{})}
		r := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
		go r.Start(t.Context())
		source.emitting <- kmodquery.Event{}
		source.begin <- struct{}{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, r.Sync(ctx), kmodquery.ErrNotStored)
		require.Equal(t, "a query at "+timeText(time.Now())+" did not get its last events in time; 1 events wait in memory, 0 were dropped",
			r.Sensors(t.Context())[0].StoreReason)
		close(sink.open)
		require.NoError(t, r.Sync(t.Context()))
		require.Empty(t, r.Sensors(t.Context())[0].StoreReason)
		require.NoError(t, r.Close())
	})
}

func TestCloseLeavesBehindWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		w := startWatch(t, k)
		w.sees(kmodquery.EventModuleLoad, "dummy", "1")
		release := make(chan struct{})
		k.set(func() { k.flicker = func(int) { <-release } })
		time.Sleep(DefaultPoll)
		w.source.hang <- release
		began := time.Now()
		require.EqualError(t, w.Close(), "stop recording: ebpf hangs, procfs hangs")
		require.Equal(t, closeTimeout, time.Since(began))
		require.Len(t, w.sink.events, 1, "what was seen is stored")
		close(release)
	})
}

func TestCloseDoesNotWaitForStalledLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newStaged("s")
		r, sink, _ := startStaged(t, Options{Sources: []Source{source}})
		source.begin <- struct{}{}
		source.emitting <- kmodquery.Event{}
		release := make(chan struct{})
		source.hang <- release
		time.Sleep(stallTime)
		began := time.Now()
		require.EqualError(t, r.Close(), "stop recording: s hangs")
		require.Equal(t, closeInterval, time.Since(began))
		require.Len(t, sink.events, 1)
		close(release)
	})
}

// A busy host may take longer to attach hooks than Close waits.
func TestCloseLeavesASourceThatStartsWithoutAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &slowToStart{staged: newStaged("s"), attached: make(chan struct{})}
		r := NewRecorder(&memory{}, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
		go r.Start(t.Context())
		time.Sleep(lastPause)
		synctest.Wait()
		began := time.Now()
		require.NoError(t, r.Close())
		require.Equal(t, closeTimeout, time.Since(began))
		close(source.attached)
	})
}

// slowToStart is a source that attaches its hooks until attached is closed.
type slowToStart struct {
	*staged
	attached chan struct{}
}

func (s *slowToStart) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error {
	<-s.attached
	return s.staged.Run(ctx, ready, emit)
}

func TestCloseDoesNotWaitForAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newStaged("s")
		sink := &memory{open: make(chan struct{})}
		r := NewRecorder(sink, (&reports{}).add, Options{Sources: []Source{source}, SideBySide: true})
		go r.Start(t.Context())
		source.begin <- struct{}{}
		source.emitting <- kmodquery.Event{}
		time.Sleep(lastPause)
		synctest.Wait()
		began := time.Now()
		require.EqualError(t, r.Close(), "store the last 1 events: the store does not answer")
		require.Equal(t, closeTimeout, time.Since(began))
		close(sink.open)
	})
}
