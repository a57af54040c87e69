package darwin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/kextlog"
	"github.com/kmodquery/kmodquery/internal/source"
)

const (
	// headerPatience is how long log stream is waited for to say that it filters:
	// from then on it shows what is logged.
	headerPatience = 10 * time.Second
	// lookBackPatience is how long Run waits for the past before it is ready.
	lookBackPatience = 2 * time.Minute
	// logShowTime bounds a log show. One over a whole boot reads gigabytes.
	logShowTime = 5 * time.Minute
	// logShowTries is how often a part of the past is asked for before it counts
	// as lost, and logShowEvery how far the first two tries lie apart; each next
	// one waits twice as long, up to logShowMost. So does a stream that drops
	// messages all the time not keep log show busy all the time.
	logShowTries = 3
	logShowEvery = 10 * time.Second
	logShowMost  = 5 * time.Minute
	// logMargin is how much before what is missing log show begins, so that what
	// belongs to an attempt is known: --start has seconds, and messages come late.
	logMargin = 30 * time.Second
	// logReach is how far a position may lie back. The log does not keep more.
	logReach = 30 * 24 * time.Hour
	// logGrace is how long a Sync waits for messages on their way: logd hands them
	// out within a moment.
	logGrace = 200 * time.Millisecond
	// logSyncMost is how long a Sync waits at most, however many messages come.
	logSyncMost = 2 * time.Second
)

// UnifiedLog is the source that has log(1) show what the kernel, kernelmanagerd,
// syspolicyd and their like write of kernel extensions. It needs root. Extensions
// of the boot collection are loaded without a word.
type UnifiedLog struct {
	health  *source.Health
	options UnifiedLogOptions
	// How long Run waits for the stream to say that it began, and for the past.
	headerPatience, lookBackPatience time.Duration

	since time.Time
}

// UnifiedLogOptions say how to read the log, and how far it was read.
type UnifiedLogOptions struct {
	// Programs are DefaultPrograms when empty.
	Programs Programs
	// Position returns the position of the last event that was stored, or "".
	Position func(ctx context.Context) (string, error)
	// ShowTime bounds one reading of the past; 5 minutes when 0.
	ShowTime time.Duration
	// RetryTime is how long after a reading of the past the next one is begun at
	// the earliest; 10 seconds when 0.
	RetryTime time.Duration
}

// NewUnifiedLog returns a source that reads nothing until Run.
func NewUnifiedLog(o UnifiedLogOptions) *UnifiedLog {
	if o.Programs == (Programs{}) {
		o.Programs = DefaultPrograms()
	}
	if o.ShowTime == 0 {
		o.ShowTime = logShowTime
	}
	if o.RetryTime == 0 {
		o.RetryTime = logShowEvery
	}
	return &UnifiedLog{
		health: source.New(kmodquery.SourceUnifiedLog), options: o,
		headerPatience: headerPatience, lookBackPatience: lookBackPatience,
	}
}

// Name is the source's name in the tables.
func (s *UnifiedLog) Name() string { return s.health.Name() }

// Sync returns when what the log handed out before the call, and a moment after
// it, was given to emit; at once when the source is not running.
func (s *UnifiedLog) Sync(ctx context.Context) error { return s.health.Sync(ctx) }

// Sensor is the source's own account of itself.
func (s *UnifiedLog) Sensor() kmodquery.Sensor { return s.health.Sensor() }

// LookBack bounds how far back the next Run looks: another source saw what
// happened before since. The zero time is no bound but the boot, or the position.
// It must not be called while Run does its work.
func (s *UnifiedLog) LookBack(since time.Time) { s.since = since }

// Run emits what the log says of kernel extensions until ctx ends, beginning with
// what it says since the position that was stored, or since the boot. It calls
// ready once, when it has read that, or has waited for it for long. What was
// refused again and again is one row a minute, or a Sync.
func (s *UnifiedLog) Run(ctx context.Context, ready func(), emit func(kmodquery.Event)) (err error) {
	defer func() { s.health.Stopped(err) }()
	stored, err := s.health.Resume(ctx, s.options.Position)
	if err != nil {
		return err
	}
	stream, err := startLog(ctx, s.options.Programs.Log, func() { s.health.DecodeErrors.Add(1) }, "stream", "--level", "info")
	if err != nil {
		return err
	}
	r := newLogReader(s, stream, parseLogPosition(stored), emit)
	err = r.run(ctx, ready)
	stream.stop()
	r.past.stop()
	r.flush(time.Now())
	return err
}

// A logReader is one Run's reading.
type logReader struct {
	source *UnifiedLog
	stream *logCommand
	emit   func(kmodquery.Event)
	past   logPast
	after  *logPosition // up to which an earlier Run told; nil where there was none

	live     *logJoiner
	told     *toldRecords
	refusals refusals
	latest   time.Time // moment of the last record of the stream, or when it began
	hasBegun bool      // the stream
	isSilent bool      // it has not said so
}

func newLogReader(s *UnifiedLog, stream *logCommand, after *logPosition, emit func(kmodquery.Event)) *logReader {
	r := &logReader{source: s, stream: stream, emit: emit, after: after, live: newLogJoiner(), told: newToldRecords(after), latest: time.Now()}
	r.past = logPast{options: &s.options, every: s.options.RetryTime, skipped: func() { s.health.DecodeErrors.Add(1) }}
	from := time.Time{}
	if after != nil && after.Mark > 0 {
		from = time.Unix(0, after.Mark)
	}
	if now := time.Now(); from.After(now) { // the clock was set back
		r.after, from = &logPosition{}, now
	}
	if s.since.After(from) {
		from = s.since
	}
	if oldest := time.Now().Add(-logReach); !from.IsZero() && from.Before(oldest) {
		from = oldest
	}
	r.past.want(from, time.Now())
	return r
}

// run reads until ctx ends, or the stream.
func (r *logReader) run(ctx context.Context, ready func()) error {
	s := r.source
	patience := time.Now().Add(s.lookBackPatience)
	header := time.Now().Add(s.headerPatience)
	var pending source.Pending
	var grace time.Time
	defer func() { pending.Release() }()
	for {
		if len(pending) == 0 && r.hasBegun {
			if pending = s.health.TakePending(); len(pending) > 0 {
				grace = time.Now().Add(logGrace)
			}
		}
		if r.hasBegun {
			if err := r.past.start(ctx, time.Now()); err != nil {
				return err
			}
		}
		next := earliest(r.refusals.next(), r.past.due(), grace, patience, header)
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case b, ok := <-r.stream.lines:
			if !ok {
				timer.Stop()
				return r.ended(ctx)
			}
			r.take(b)
		case b, ok := <-r.past.lines():
			if ok {
				r.recall(b)
				break
			}
			if err := r.passed(ctx); err != nil {
				timer.Stop()
				return err
			}
		case <-s.health.Requests():
		case <-timer.C:
		}
		timer.Stop()
		now := time.Now()
		if !header.IsZero() && (r.hasBegun || !now.Before(header)) {
			r.begin(!r.hasBegun)
			header = time.Time{}
		}
		if due := r.refusals.next(); !due.IsZero() && !now.Before(due) {
			r.flush(now)
		}
		isCalm := len(r.stream.lines) == 0 || now.Sub(grace) > logSyncMost
		if len(pending) > 0 && !now.Before(grace) && isCalm {
			r.flush(now)
			pending.Release()
			pending, grace = nil, time.Time{}
		}
		if !patience.IsZero() && r.hasBegun && (r.past.isDone() || !now.Before(patience)) {
			ready()
			patience = time.Time{}
		}
	}
}

// begin notes that the source watches.
func (r *logReader) begin(isSilent bool) {
	s := r.source
	r.hasBegun, r.isSilent = true, isSilent
	limits := ""
	if isSilent {
		limits = fmt.Sprintf("log stream has not said within %v that it began", s.headerPatience)
	}
	s.health.Started([]string{"log stream: " + logPredicate()}, limits, nil)
}

// ended returns why the stream has.
func (r *logReader) ended(ctx context.Context) error {
	err := r.stream.wait()
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		err = errors.New("it should have gone on")
	case errors.Is(err, kmodquery.ErrNotSupported):
		return err
	}
	return fmt.Errorf("log stream ended: %w", err)
}

// take reads a line of the stream.
func (r *logReader) take(b []byte) {
	line, ok := r.parse(b)
	if ok && line.Kind != kextlog.Note {
		if r.isSilent {
			r.isSilent = false
			r.source.health.SetReason("")
		}
		r.hasBegun = true
	}
	switch {
	case !ok:
	case line.Kind == kextlog.Dropped:
		// What was logged before the last record has come, but for some that is late.
		now := time.Now()
		if r.latest.After(now) { // the clock was set back
			r.latest = now
		}
		r.past.want(r.latest.Add(-logOverlap), now)
	case line.Kind == kextlog.Entry:
		if at := line.Record.Time; at.After(r.latest) || r.latest.Sub(at) > clockStep {
			r.latest = at
		}
		r.tell(r.live, &line.Record, b, false)
	}
}

// recall reads a line of the past.
func (r *logReader) recall(b []byte) {
	line, ok := r.parse(b)
	switch {
	case !ok:
	case line.Kind == kextlog.Entry:
		at := line.Record.Time
		r.past.reached = at
		wasTold := r.after != nil && at.UnixNano() < r.after.Mark || !r.source.since.IsZero() && at.Before(r.source.since)
		r.tell(r.past.join, &line.Record, b, wasTold)
	}
}

func (r *logReader) parse(b []byte) (kextlog.Line, bool) {
	line, err := kextlog.ParseLine(b)
	if err != nil {
		r.source.health.Received.Add(1)
		r.source.health.DecodeErrors.Add(1)
		return line, false
	}
	if line.Kind == kextlog.Entry {
		r.source.health.Received.Add(1)
	}
	return line, true
}

// tell emits the events of a record that was not told of.
func (r *logReader) tell(join *logJoiner, record *kextlog.Record, raw []byte, wasTold bool) {
	events := join.add(record, string(raw))
	if len(events) == 0 {
		return
	}
	key := keyOf(record)
	if wasTold || r.told.has(key) {
		return
	}
	now := time.Now()
	var wanted []kmodquery.Event
	for _, e := range events {
		if !r.refusals.fold(e, now) {
			wanted = append(wanted, e)
		}
	}
	r.told.add(key, record.Time, join == r.live)
	for i, e := range wanted {
		if i == len(wanted)-1 {
			e.Position = r.told.position(r.past.missing())
		}
		r.give(e)
	}
}

func (r *logReader) give(e kmodquery.Event) {
	r.source.health.Emitted(&e)
	r.emit(e)
}

// flush emits what was folded.
func (r *logReader) flush(now time.Time) {
	for _, e := range r.refusals.flush(now) {
		r.give(e)
	}
}

// passed notes that a reading of the past has ended, and how.
func (r *logReader) passed(ctx context.Context) error {
	isOver, err := r.past.end(time.Now())
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, kmodquery.ErrNotSupported):
		return err
	case err == nil:
		r.live.inherit(r.past.join)
		if r.past.began.After(r.latest) {
			r.latest = r.past.began
		}
	case isOver:
		r.source.health.Lost.Add(1)
		r.source.health.AddReason(fmt.Sprintf("what the log says of the time from %s to %s could not be read: %v", momentText(r.past.rest()), momentText(r.past.began), err))
	}
	return nil
}

// momentText is a moment as a sensor's reason has it.
func momentText(t time.Time) string {
	if t.IsZero() {
		return "the boot"
	}
	return t.UTC().Format(time.RFC3339)
}

// earliest returns the first of some moments that are not zero.
func earliest(moments ...time.Time) time.Time {
	first := time.Now().Add(time.Hour)
	for _, t := range moments {
		if !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}
