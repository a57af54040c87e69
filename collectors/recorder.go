package collectors

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors/crossview"
	"github.com/kmodquery/kmodquery/internal/progress"
)

// DefaultPoll is the default of [Options.Poll].
const DefaultPoll = 10 * time.Second

// firstCheck is how long Start waits for the first cross-view check. A check that
// finds a difference takes longer.
const firstCheck = 3 * time.Second

// startTime is how long the cross-view check waits for a complete source that is starting.
const startTime = time.Minute

// clockSlack is how far the time of an event may be ahead of the wall clock: it is
// computed from another clock.
const clockSlack = 100 * time.Millisecond

// expireInterval is how often the correlator releases events that have waited long
// enough.
const expireInterval = time.Second

// endOfTime is after every event.
var endOfTime = time.Unix(0, math.MaxInt64)

// closeLoadsInterval is how often attempts to load a module are closed while nobody asks.
const closeLoadsInterval = time.Second

// Options configure a [Recorder].
type Options struct {
	// Sources in the order of preference. The first that works watches, and the
	// next one stands in while it fails. If SideBySide is set, all of them watch.
	Sources    []Source
	SideBySide bool
	// Backfill names sources among them, each a [Backfiller], the preferred one
	// first. If none of them watches, one emits at the start what happened before.
	// Sources that watch side by side do so anyway.
	Backfill []string
	// Backfilled is called when the events of that are stored, or when there was nothing
	// to emit. Nil stands for none.
	Backfilled func()
	// Views are compared with the events; nil disables the cross-view check. A
	// difference is found within Poll. ViewsSource is the name of the views as a
	// source, procfs by default.
	Views       crossview.Views
	ViewsSource string
	Poll        time.Duration
	// Stamp returns an event that holds only the present moment. It must be set
	// if Views are.
	Stamp func() kmodquery.Event
	// Past visits the events of this boot that an earlier recorder stored: the
	// recent ones, newest first, and of the others the last one of each name and
	// kind. Nil stands for none.
	Past func(ctx context.Context, visit func(*kmodquery.Event)) error
	// Cursors are those of the event store, for readers in other processes. Nil stands
	// for none.
	Cursors Cursors
	// Loss says in one line which stored events the sink has lost, or returns "". The
	// sensors show it. Nil stands for none.
	Loss func() string
}

// Cursors keep the positions of named queries. They must be safe for concurrent calls.
type Cursors interface {
	// Cursor returns the cursor of a name, which belongs to one query.
	Cursor(ctx context.Context, name string, q kmodquery.CursorQuery) (kmodquery.Cursor, error)
	// Advance moves a cursor after new rows were found, unless another call has moved it
	// meanwhile.
	Advance(ctx context.Context, c kmodquery.Cursor, to int64, rows int) (bool, error)
	// Registered is called when osquery has registered an asker anew.
	Registered(asker string)
}

// A Recorder runs sources and stores their events in a sink.
type Recorder struct {
	options    Options
	supervisor *supervisor
	correlator *correlator
	state      *crossview.State
	check      *crossview.Check // nil without views
	monitor    monitor          // of check
	checker    progress.Checker // used by checkProgress
	writer     *writer
	report     func(error)
	loadsError string        // reason of the last closeLoadsNow
	flushing   chan struct{} // holds a value while syncSources flushes the correlator

	cancel   context.CancelFunc
	running  sync.WaitGroup  // all goroutines but the sources and the writer
	replayed chan struct{}   // closed when the stored events have been read
	started  chan struct{}   // closed when Start returns
	written  <-chan struct{} // closed when the writer has ended
}

// NewRecorder returns a recorder that does nothing until Start. It passes errors of
// the sources and the sink to report, from any goroutine.
func NewRecorder(sink Sink, report func(error), o Options) *Recorder {
	o.Poll = cmp.Or(o.Poll, DefaultPoll)
	o.ViewsSource = cmp.Or(o.ViewsSource, kmodquery.SourceProcfs)
	if o.Stamp == nil {
		o.Stamp = func() kmodquery.Event { return kmodquery.Event{} }
	}
	boot := o.Stamp().BootID
	r := &Recorder{options: o, state: crossview.NewState(boot), report: report,
		flushing: make(chan struct{}, 1), replayed: make(chan struct{}), started: make(chan struct{})}
	r.writer = newWriter(sink, r.stored, r.acked, report)
	r.supervisor = newSupervisor(o.Sources, o.SideBySide, max(takeOver, 3*o.Poll), report, func(rank int, d kmodquery.Delivery, past bool) {
		// Reading a store of a million events takes a while, and records are not
		// safe until they are stored: only events that depend on it wait.
		if needsStored(rank, &d.Event, past) {
			<-r.replayed
		}
		r.correlator.add(rank, d, past)
	})
	r.supervisor.stamp = o.Stamp
	r.correlator = newCorrelator(r.take, r.supervisor.isBetterUp, o.Poll, boot)
	if o.Views != nil {
		r.check = crossview.New(crossview.Options{
			Source:   o.ViewsSource,
			Views:    o.Views,
			State:    r.state,
			Period:   o.Poll,
			MaxDelay: matchPatience,
			Stamp:    o.Stamp,
			Emit: func(e kmodquery.Event) {
				r.monitor.emit(func() { r.correlator.add(len(o.Sources), kmodquery.Delivery{Event: e}, false) })
			},
			Sync: func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, syncTimeout)
				defer cancel()
				return r.syncSources(ctx, time.Now().Add(clockSlack))
			},
			Complete: r.supervisor.completeSources,
			Report:   report,
		})
		r.monitor.name, r.monitor.lastRound = o.ViewsSource, r.check.LastRound
	}
	return r
}

// take adds an event to the module state and gives it to the writer, where it may wait
// for hours if the disk is full.
func (r *Recorder) take(d kmodquery.Delivery) {
	r.state.Add(d.Event)
	if r.check != nil {
		r.check.Added(&d.Event)
	}
	r.writer.add(d)
}

// stored takes events that the sink stored.
func (r *Recorder) stored(deliveries []kmodquery.Delivery) {
	r.acked(deliveries)
	r.state.Stored(deliveries)
}

// acked passes events that are stored or dropped to the sources that keep them.
func (r *Recorder) acked(deliveries []kmodquery.Delivery) {
	for _, source := range r.options.Sources {
		if atLeastOnce, ok := source.(AtLeastOnceSource); ok {
			atLeastOnce.Acked(deliveries)
		}
	}
}

// Start runs the sources in the background. It returns when those that are wanted
// watch or have failed, and the first cross-view check is over, or when ctx ends. The
// other methods but Close may be called before and meanwhile.
func (r *Recorder) Start(ctx context.Context) {
	defer close(r.started)
	ctx, r.cancel = context.WithCancel(ctx)
	r.state.SetReplaying(true)
	r.running.Go(func() {
		defer close(r.replayed)
		defer r.state.SetReplaying(false)
		if err := r.replay(ctx); err != nil && ctx.Err() == nil {
			r.report(fmt.Errorf("read the stored events: %w", err))
		}
	})
	r.written = background(r.writer.run)
	r.running.Go(func() { every(ctx, progressInterval, r.checkProgress) })
	if r.check != nil {
		r.check.Begin(ctx)
	}
	r.supervisor.start(ctx) // before <-replayed: the sources watch while the store is read
	select {
	case <-r.replayed:
	case <-ctx.Done():
		return
	}
	r.running.Go(func() { every(ctx, expireInterval, r.correlator.expire) })
	r.running.Go(func() { every(ctx, closeLoadsInterval, func(time.Time) { r.closeLoadsNow(ctx) }) })
	if r.check != nil {
		checked, ready := context.WithTimeout(ctx, firstCheck)
		r.running.Go(func() {
			// Of what the views show, they may still report when it was loaded.
			start, end := context.WithTimeout(ctx, startTime)
			r.AwaitComplete(start)
			end()
			r.check.Run(ctx, ready)
		})
		<-checked.Done()
	}
	if !r.options.SideBySide {
		r.running.Go(func() { r.backfill(ctx) })
	}
}

// AwaitComplete waits while a source that sees every load is starting, which may take longer
// than Start waits, or until ctx ends.
func (r *Recorder) AwaitComplete(ctx context.Context) { r.supervisor.awaitComplete(ctx) }

// backfill reads the logs of the time before the start, and returns when what they have is
// stored.
func (r *Recorder) backfill(ctx context.Context) {
	r.supervisor.backfill(ctx, r.options.Backfill)
	for err := r.Sync(ctx); r.options.Backfilled != nil && ctx.Err() == nil; err = r.Sync(ctx) {
		if err == nil {
			r.options.Backfilled()
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay):
		}
	}
}

// replay reads the events that an earlier recorder stored.
func (r *Recorder) replay(ctx context.Context) error {
	if r.options.Past == nil {
		return nil
	}
	var attempts []ranked
	err := r.options.Past(ctx, func(e *kmodquery.Event) {
		r.state.Add(*e)
		if r.check != nil {
			r.check.Replay(e)
		}
		rank := slices.IndexFunc(r.options.Sources, func(s Source) bool { return s.Name() == e.Source })
		if rank >= 0 && kindOf(e) != neither && len(attempts) < maxKnown {
			attempts = append(attempts, ranked{rank, *e})
		}
	})
	r.correlator.remember(attempts)
	return err
}

// every calls f once each interval until ctx ends.
func every(ctx context.Context, interval time.Duration, f func(now time.Time)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			f(now)
		}
	}
}

// background starts f. The channel is closed when f returns.
func background(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

// Sync returns when every event that happened before the call and that a source saw is
// in the sink. It waits until the sources have started. Its error matches
// [kmodquery.ErrNotStored] if the sink refuses events, if a source is stalled, for which
// it does not wait, or if a source or the sink does not answer before the deadline of ctx.
func (r *Recorder) Sync(ctx context.Context) error {
	called := time.Now().Add(clockSlack)
	err := r.awaitStart(ctx)
	if err == nil {
		err = r.syncSources(ctx, called)
	}
	if err == nil {
		err = r.writer.sync(ctx)
	}
	if err == nil {
		closed := make(chan error, 1)
		go func() { closed <- r.closeLoads(ctx, called) }()
		select {
		case err = <-closed:
			if err != nil {
				err = fmt.Errorf("%w: %w", kmodquery.ErrNotStored, err)
			}
		case <-ctx.Done(): // the sink may hang; Close waits for it
			err = fmt.Errorf("wait for loads to be closed: %w", ctx.Err())
		}
	}
	if err == nil {
		err = r.supervisor.stalledError()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", kmodquery.ErrNotStored, err)
	}
	return err
}

// closeLoads closes the attempts to load a module that are over, if the sink does that. The
// sources have reported what happened until a time, zero if that is not known.
func (r *Recorder) closeLoads(ctx context.Context, reported time.Time) error {
	sink, ok := r.writer.sink.(LoadCloser)
	if !ok {
		return nil
	}
	return sink.CloseLoads(ctx, reported)
}

// closeLoadsNow closes loads without a query. It reports an error once a reason until loads
// are closed again, and none after the end of ctx.
func (r *Recorder) closeLoadsNow(ctx context.Context) {
	err, reason := r.closeLoads(ctx, time.Time{}), ""
	if err != nil && ctx.Err() == nil {
		reason = reasonOf(err)
	}
	if reason != "" && reason != r.loadsError {
		r.report(fmt.Errorf("%w; rows of kernel_module_loads come late", err))
	}
	r.loadsError = reason
}

// awaitStart returns when Start has returned. A source that has not started may have to
// read what happened before.
func (r *Recorder) awaitStart(ctx context.Context) error {
	select {
	case <-r.started:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the sources to start: %w", ctx.Err())
	}
}

// syncSources returns when every event that happened before the call and that a source
// saw is in the module state. called is the time of the call, on the clock of events.
func (r *Recorder) syncSources(ctx context.Context, called time.Time) error {
	if err := r.supervisor.sync(ctx); err != nil {
		return err
	}
	// A flush blocks while the sink hangs. Only one of them is left behind then.
	flushed := make(chan struct{})
	select {
	case r.flushing <- struct{}{}:
		go func() {
			defer close(flushed)
			defer func() { <-r.flushing }()
			r.correlator.flush(called)
		}()
	case <-ctx.Done():
	}
	select {
	case <-flushed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for events to be stored: %w", ctx.Err())
	}
}

// Sensors returns the sensor of each source, that of the views last.
func (r *Recorder) Sensors(context.Context) []kmodquery.Sensor {
	sensors := r.supervisor.sensors()
	if r.check != nil {
		sensor := r.check.Sensor()
		if sensor.State == kmodquery.StateStandby {
			sensor.Reason = startingReason
		}
		r.monitor.describe(&sensor)
		sensors = append(sensors, sensor)
	}
	loss := ""
	if r.options.Loss != nil {
		loss = r.options.Loss()
	}
	for i := range sensors {
		sensors[i].Joined = r.correlator.joinedBy(sensors[i].Source)
		r.writer.describe(&sensors[i])
		if sensors[i].StoreReason != "" && loss != "" {
			sensors[i].StoreReason += ". "
		}
		sensors[i].StoreReason += loss
	}
	return sensors
}

// Loaded does what Sync does and returns the modules that are loaded according to the
// events. Their Views are [kmodquery.ViewEvents] if a source would have seen them
// unloaded. If the error of the Sync matches [kmodquery.ErrNotStored], Loaded returns
// the modules without Views, and no error.
func (r *Recorder) Loaded(ctx context.Context) ([]kmodquery.Module, error) {
	err := r.Sync(ctx)
	return loadedAfterSync(r.loaded(), err)
}

// loadedAfterSync returns what Loaded does, of loaded modules and the error of a Sync.
func loadedAfterSync(modules []kmodquery.Module, err error) ([]kmodquery.Module, error) {
	if err != nil && !errors.Is(err, kmodquery.ErrNotStored) {
		return nil, err
	}
	if err != nil {
		// An unload may be among the events that are not stored.
		for i := range modules {
			modules[i].Views = nil
		}
	}
	return modules, nil
}

func (r *Recorder) loaded() []kmodquery.Module {
	_, since := r.supervisor.completeSources()
	if r.check != nil {
		since = r.check.Unbroken()
	}
	now := r.options.Stamp()
	return r.state.Loaded(since, &now)
}

const (
	// closeTimeout is how long Close waits without any progress: for the sources and
	// the cross-view check together, and for each batch of the sink.
	closeTimeout = 10 * time.Second
	// closeInterval is how often Close looks whether only stalled loops are left,
	// for which it does not wait.
	closeInterval = 100 * time.Millisecond
)

// Close stops the sources, stores what they saw and returns. It must be called once,
// after Start. It leaves behind what hangs, and says so. A source that starts or ends has
// seen nothing that is not emitted, so it is left behind without an error: a busy host may
// take longer than closeTimeout to attach or release hooks.
func (r *Recorder) Close() error {
	r.cancel()
	stopped := background(func() {
		r.supervisor.running.Wait()
		r.running.Wait()
	})
	var err error
	if !r.await(stopped, r.isStalled) {
		err = r.hanging()
	}
	never := func() bool { return false }
	r.await(background(r.correlator.flushAll), never)
	r.writer.close()
	if r.await(r.written, never) {
		r.closeLastLoads()
	}
	return errors.Join(err, r.writer.unstored())
}

// closeLastLoads closes the loads that are over. What it leaves open the next recorder closes.
// If the sink takes too long, it ends the call and waits for that: the sink is closed next.
func (r *Recorder) closeLastLoads() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := background(func() { _ = r.closeLoads(ctx, endOfTime) })
	never := func() bool { return false }
	if !r.await(done, never) {
		cancel()
		r.await(done, never)
	}
}

// await returns true once done is closed. It returns false if giveUp does before that,
// or if the sink stores no batch for closeTimeout.
func (r *Recorder) await(done <-chan struct{}, giveUp func() bool) bool {
	ticker := time.NewTicker(closeInterval)
	defer ticker.Stop()
	acked, since := r.writer.ackedEvents(), time.Now()
	for {
		select {
		case <-done:
			return true
		case <-ticker.C:
		}
		if now := r.writer.ackedEvents(); now != acked {
			acked, since = now, time.Now()
		}
		if giveUp() || time.Since(since) >= closeTimeout {
			return false
		}
	}
}

// runningMonitors returns the monitors of the sources that run, and of the cross-view
// check if it does.
func (r *Recorder) runningMonitors() []*monitor {
	monitors := r.supervisor.runningMonitors()
	if r.check != nil && !r.check.LastRound().IsZero() {
		monitors = append(monitors, &r.monitor)
	}
	return monitors
}

// isStalled reports whether event loops run and all of them are stalled.
func (r *Recorder) isStalled() bool {
	monitors := r.runningMonitors()
	return len(monitors) > 0 && !slices.ContainsFunc(monitors, func(m *monitor) bool { return !m.isStalled() })
}

// hanging returns an error that says which event loops have not stopped, or nil if only
// sources that start or end have not.
func (r *Recorder) hanging() error {
	var hanging []string
	monitors := r.runningMonitors()
	for _, m := range monitors {
		if !m.lastRound().IsZero() {
			hanging = append(hanging, m.hangs())
		}
	}
	switch {
	case len(hanging) > 0:
		return fmt.Errorf("stop recording: %s", strings.Join(hanging, ", "))
	case len(monitors) > 0:
		return nil
	}
	return errors.New("stop recording: the store does not answer")
}
