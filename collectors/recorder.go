package collectors

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/collectors/crossview"
)

// DefaultPoll is within what time a difference between the views and the events
// is found, where nothing else was asked for.
const DefaultPoll = 10 * time.Second

// firstLook is how long Start waits for the first look at the views. One that
// finds something suspicious takes longer.
const firstLook = 3 * time.Second

// clockSlack is how far the time of an event may be ahead of the wall clock, from
// which it is computed by another one.
const clockSlack = 100 * time.Millisecond

// holdCheck is how often events are looked for that waited long enough for a
// better source to tell of the same.
const holdCheck = time.Second

// Options say what a [Recorder] watches.
type Options struct {
	// Sources in the order of preference. The first that works watches, and
	// the next one where it fails; or all of them, SideBySide.
	Sources    []Source
	SideBySide bool
	// Recall names sources among them, each a [Historian], the preferred one
	// first: where none of them watches, one tells once, at the start, what
	// happened before. SideBySide they do so anyway.
	Recall []string
	// Views are compared with what the sources saw, every Poll; nil for
	// none. ViewsSource is their name as a source; procfs when empty.
	Views       crossview.Views
	ViewsSource string
	Poll        time.Duration
	// Stamp returns an event that says no more than the present moment. It
	// must be set where there are Views.
	Stamp func() kmodquery.Event
	// Past hands over the events that an earlier recorder stored in this boot:
	// those that are recent, the newest first, and of the others the last of each
	// kind that there is of a name; nil for none.
	Past func(ctx context.Context, visit func(*kmodquery.Event)) error
}

// A Recorder runs sources and brings their events to a sink.
type Recorder struct {
	options    Options
	selection  *selection
	correlator *correlator
	state      *crossview.State
	check      *crossview.Check // nil without views
	writer     *writer
	report     func(error)

	cancel   context.CancelFunc
	running  sync.WaitGroup // all but the sources
	recalled chan struct{}  // closed when what was stored is known
	written  chan struct{}  // closed when the writer has ended
}

// NewRecorder returns a recorder that does nothing until Start. It passes what
// goes wrong with a source or the sink to report, one error a time, from any
// goroutine.
func NewRecorder(sink Sink, report func(error), o Options) *Recorder {
	if o.Poll == 0 {
		o.Poll = DefaultPoll
	}
	if o.ViewsSource == "" {
		o.ViewsSource = kmodquery.SourceProcfs
	}
	boot := ""
	if o.Stamp != nil {
		boot = o.Stamp().BootID
	}
	r := &Recorder{options: o, state: crossview.NewState(boot), report: report, recalled: make(chan struct{})}
	r.writer = newWriter(sink, r.stored, r.settled, report)
	r.selection = newSelection(o.Sources, o.SideBySide, max(takeOver, 3*o.Poll), report, func(rank int, e kmodquery.Event, past bool) {
		// A store of a million events takes its time, and what a process reads in
		// the kernel is not safe before it is stored.
		if needsStored(rank, &e, past) {
			<-r.recalled
		}
		r.correlator.add(rank, e, past)
	})
	r.correlator = newCorrelator(r.take, r.selection.isBetterUp, o.Poll, boot)
	if o.Views != nil {
		r.check = crossview.New(crossview.Options{
			Source:   o.ViewsSource,
			Views:    o.Views,
			State:    r.state,
			Period:   o.Poll,
			MaxDelay: matchPatience,
			Stamp:    o.Stamp,
			Emit:     func(e kmodquery.Event) { r.correlator.add(len(o.Sources), e, false) },
			Sync: func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, syncTimeout)
				defer cancel()
				return r.gather(ctx)
			},
			Complete: r.selection.completeSources,
			Report:   report,
		})
	}
	return r
}

// take gives an event to the writer. It counts as seen from then on: on a full
// disk it may wait for hours.
func (r *Recorder) take(e kmodquery.Event) {
	r.state.Add(e)
	if r.check != nil {
		r.check.Added(&e)
	}
	r.writer.add(e)
}

// stored takes what the sink took.
func (r *Recorder) stored(events []kmodquery.Event) {
	r.settled(events)
	r.state.Stored(events)
}

// settled tells the sources what need not be kept any more for the sink.
func (r *Recorder) settled(events []kmodquery.Event) {
	for _, source := range r.options.Sources {
		if repeater, ok := source.(Repeater); ok {
			repeater.Settled(events)
		}
	}
}

// Start runs the sources in the background, and returns when what is wanted of
// them watches or has failed for the first time, and the views were looked at
// once.
func (r *Recorder) Start(ctx context.Context) {
	ctx, r.cancel = context.WithCancel(ctx)
	r.written = make(chan struct{})
	r.state.SetReplaying(true)
	go func() {
		defer close(r.recalled)
		defer r.state.SetReplaying(false)
		if err := r.recallStored(ctx); err != nil {
			r.report(fmt.Errorf("read what was stored: %w", err))
		}
	}()
	go func() {
		defer close(r.written)
		r.writer.run()
	}()
	r.selection.start(ctx) // they watch meanwhile
	<-r.recalled
	r.running.Go(func() { r.expire(ctx) })
	if r.check != nil {
		looked := make(chan struct{})
		once := sync.OnceFunc(func() { close(looked) })
		r.running.Go(func() { r.check.Run(ctx, once) })
		select {
		case <-looked:
		case <-time.After(firstLook):
		}
	}
	if !r.options.SideBySide {
		r.running.Go(func() { r.selection.recall(ctx, r.options.Recall) })
	}
}

// recallStored learns from the events that an earlier recorder stored.
func (r *Recorder) recallStored(ctx context.Context) error {
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

func (r *Recorder) expire(ctx context.Context) {
	ticker := time.NewTicker(holdCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			r.correlator.expire(now)
		}
	}
}

// Sync returns when every event that happened before the call, as far as the
// sources see it, is in the sink.
func (r *Recorder) Sync(ctx context.Context) error {
	if err := r.gather(ctx); err != nil {
		return err
	}
	return r.writer.sync(ctx)
}

// gather returns when every event that happened before the call, as far as the
// sources see it, counts as seen.
func (r *Recorder) gather(ctx context.Context) error {
	asked := time.Now().Add(clockSlack)
	if err := r.selection.sync(ctx); err != nil {
		return err
	}
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		r.correlator.flush(asked) // waits for a sink that does not answer
	}()
	select {
	case <-flushed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for events to be stored: %w", ctx.Err())
	}
}

// Sensors returns each source's account of itself, that of the views last.
func (r *Recorder) Sensors() []kmodquery.Sensor {
	sensors := r.selection.sensors()
	if r.check != nil {
		sensors = append(sensors, r.check.Sensor())
	}
	for i := range sensors {
		sensors[i].Joined = r.correlator.joinedBy(sensors[i].Source)
		r.writer.describe(&sensors[i])
	}
	return sensors
}

// Loaded returns the modules that are loaded by what the events say, with
// [kmodquery.ViewEvents] where some source would have seen them go.
func (r *Recorder) Loaded() []kmodquery.Module {
	_, since := r.selection.completeSources()
	var now kmodquery.Event
	if r.options.Stamp != nil {
		now = r.options.Stamp()
	}
	return r.state.Loaded(since, &now)
}

// Close stops the sources, stores what they had seen, and returns when that is
// done. Only Start may come before it.
func (r *Recorder) Close() error {
	r.cancel()
	r.selection.running.Wait()
	r.running.Wait()
	r.correlator.flushAll()
	r.writer.close()
	<-r.written
	return r.writer.unstored()
}
