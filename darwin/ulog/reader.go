package ulog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/kextlog"
	"github.com/kmodquery/kmodquery/internal/progress"
	"github.com/kmodquery/kmodquery/internal/source"
)

// A reader reads the log during one Run. It is not safe for concurrent use.
type reader struct {
	source   *Source
	stream   *command
	emit     func(kmodquery.Delivery)
	backfill backfill
	from     time.Time // everything before it was emitted

	live       *joiner
	emitted    *emittedRecords
	refusals   refusals
	latest     time.Time // time of the last record of the stream, at first the time of its start
	hasStarted bool      // the stream has printed its header or a record
}

func newReader(s *Source, stream *command, after position, emit func(kmodquery.Delivery)) *reader {
	now := time.Now()
	from := time.Unix(0, after.Since)
	if s.since.After(from) {
		from = s.since
	}
	r := &reader{
		source: s, stream: stream, emit: emit, backfill: backfill{source: s}, from: from,
		live: newJoiner(), emitted: newEmittedRecords(after), latest: now,
	}
	if from.After(now) { // the clock was set back
		r.from, from = boot, now
	}
	if oldest := now.Add(-reach); !from.Equal(boot) && from.Before(oldest) {
		from = oldest
	}
	r.backfill.want(from, now)
	return r
}

// run reads until ctx or the stream ends.
func (r *reader) run(ctx context.Context, ready func()) error {
	s := r.source
	headerDue, readyDue := time.Now().Add(s.timeouts.header), time.Now().Add(s.timeouts.backfill)
	sync := s.health.NewBarrier(syncLimit)
	defer sync.Release()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		sync.Begin()
		now := time.Now()
		if headerDue.IsZero() {
			if err := r.backfill.start(ctx, now); err != nil {
				return err
			}
		}
		next := source.Earliest(now.Add(progress.Interval), headerDue, readyDue, r.refusals.due(), r.backfill.due(),
			sync.Due(r.quiet(sync.Began())))
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return nil
		case b, ok := <-r.stream.lines:
			if !ok {
				return r.streamEnded(ctx)
			}
			r.take(ctx, b)
		case b, ok := <-r.backfill.lines():
			if ok {
				r.takeBackfill(ctx, b)
				break
			}
			if err := r.backfillEnded(ctx); err != nil {
				return err
			}
		case <-s.health.Requests():
		case <-timer.C:
		}
		now = time.Now()
		if !headerDue.IsZero() && (r.hasStarted || !now.Before(headerDue)) {
			r.start()
			headerDue = time.Time{}
		}
		if due := r.refusals.due(); !due.IsZero() && !now.Before(due) {
			r.flush(now)
		}
		if sync.IsDue(r.quiet(sync.Began())) {
			r.flush(now)
			sync.Release()
		}
		if !readyDue.IsZero() && headerDue.IsZero() && (r.backfill.missing() == nil || !now.Before(readyDue)) {
			ready()
			readyDue = time.Time{}
		}
	}
}

// quiet returns when a Sync that began at a time has everything it waits for, or
// the zero time while there are lines to read.
func (r *reader) quiet(began time.Time) time.Time {
	if len(r.stream.lines) > 0 {
		return time.Time{}
	}
	return began.Add(r.source.timeouts.grace)
}

// start marks the source as active.
func (r *reader) start() {
	s := r.source
	limits := ""
	if !r.hasStarted {
		limits = fmt.Sprintf("log stream has not printed its header within %v", s.timeouts.header)
	}
	s.health.Started([]string{"log stream: " + predicate()}, limits, nil)
}

// streamEnded returns why the stream ended, or nil if it ended with ctx.
func (r *reader) streamEnded(ctx context.Context) error {
	err := r.stream.wait()
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		err = errors.New("exit status 0")
	case errors.Is(err, kmodquery.ErrNotSupported):
		return err
	}
	return fmt.Errorf("log stream exited unexpectedly: %w", err)
}

// take handles a line of the stream.
func (r *reader) take(ctx context.Context, b []byte) {
	line := r.parse(b)
	if line.HasStarted() && !r.hasStarted {
		r.hasStarted = true
		r.source.health.SetReason("")
	}
	switch line.Kind {
	case kextlog.Dropped:
		// The stream has printed the messages before the last record, except some
		// that arrive late.
		now := time.Now()
		if r.latest.After(now) { // the clock was set back
			r.latest = now
		}
		r.backfill.want(r.latest.Add(-overlap), now)
	case kextlog.Entry:
		if at := line.Record.Time; at.After(r.latest) || r.latest.Sub(at) > clockStep {
			r.latest = at
		}
		r.takeRecord(ctx, r.live, &line.Record, b)
	}
}

// takeBackfill handles a line of log show.
func (r *reader) takeBackfill(ctx context.Context, b []byte) {
	if line := r.parse(b); line.Kind == kextlog.Entry {
		r.backfill.reach(line.Record.Time)
		r.takeRecord(ctx, r.backfill.join, &line.Record, b)
	}
}

func (r *reader) parse(b []byte) kextlog.Line {
	line, err := kextlog.ParseLine(b)
	if err != nil {
		r.source.health.DecodeErrors.Add(1)
	}
	if err != nil || line.Kind == kextlog.Entry {
		r.source.health.Received.Add(1)
	}
	return line
}

// takeRecord emits the events of a record, unless they were emitted before.
func (r *reader) takeRecord(ctx context.Context, join *joiner, record *kextlog.Record, raw []byte) {
	events, unparsed := join.add(record, string(raw))
	r.source.health.DecodeErrors.Add(unparsed)
	if len(events) == 0 {
		return
	}
	key, isLive := keyOf(record), join == r.live
	if r.emitted.has(key) || !isLive && record.Time.Before(r.from) {
		return
	}
	now := time.Now()
	count := len(events)
	events = slices.DeleteFunc(events, func(e kmodquery.Event) bool { return r.refusals.fold(e, now) })
	for i := range events {
		r.source.describeLoad(ctx, &events[i])
	}
	r.emitted.add(key, record.Time, isLive, len(events) < count)
	r.deliver(events)
}

// describeLoad adds what macOS knows of an extension that was loaded in this boot.
func (s *Source) describeLoad(ctx context.Context, e *kmodquery.Event) {
	if e.BootLoad == nil {
		return
	}
	boot := s.options.Boot()
	if boot.ID != e.BootID {
		e.BootLoad = nil
		e.Collection = kmodquery.CollectionUnknown
		return
	}
	if uptime := boot.Uptime - time.Since(time.Unix(0, e.TimeNanos)); boot.Uptime == 0 || uptime < 0 {
		e.BootLoad = nil
	} else if uptime > bootTime {
		*e.BootLoad = 0
	}
	if e.Collection == "" {
		e.Collection = s.options.Kexts.Collection(ctx, e.Name)
	}
	e.AuthenticatedRoot = s.options.Kexts.AuthenticatedRoot(ctx)
}

// deliver emits events, the last one with the position after it.
func (r *reader) deliver(events []kmodquery.Event) {
	for i, e := range events {
		d := kmodquery.Delivery{Event: e}
		if i == len(events)-1 {
			d.Position = r.emitted.position(r.backfill.missing())
		}
		r.source.health.Emitted(&d)
		r.emit(d)
	}
}

// flush emits the folded refusals.
func (r *reader) flush(now time.Time) {
	events := r.refusals.flush(now)
	r.emitted.flushed()
	r.deliver(events)
}

// backfillEnded handles the end of a log show.
func (r *reader) backfillEnded(ctx context.Context) error {
	isOver, err := r.backfill.end(time.Now())
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, kmodquery.ErrNotSupported):
		return err
	case err == nil:
		r.live.adopt(r.backfill.join)
		if r.backfill.began.After(r.latest) {
			r.latest = r.backfill.began
		}
	case isOver:
		r.source.health.Lost.Add(1)
		from, to := timeText(r.backfill.remaining), timeText(r.backfill.began)
		r.source.health.AddReason(fmt.Sprintf("the log from %s to %s could not be read: %v", from, to, err))
	}
	return nil
}

// timeText formats a time for a sensor's reason.
func timeText(t time.Time) string {
	if t.Equal(boot) {
		return "the boot"
	}
	return t.UTC().Format(time.RFC3339)
}
