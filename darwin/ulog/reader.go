package ulog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/kextlog"
	"github.com/kmodquery/kmodquery/internal/source"
)

// A reader is one Run's reading.
type reader struct {
	source *Source
	stream *command
	emit   func(kmodquery.Event)
	past   past
	after  *position // up to which an earlier Run told; nil where there was none

	live     *joiner
	told     *toldRecords
	refusals refusals
	latest   time.Time // moment of the last record of the stream, or when it began
	hasBegun bool      // the stream
	isSilent bool      // it has not said so
}

func newReader(s *Source, stream *command, after *position, emit func(kmodquery.Event)) *reader {
	r := &reader{source: s, stream: stream, emit: emit, after: after, live: newJoiner(), told: newToldRecords(after), latest: time.Now()}
	r.past = past{options: &s.options, every: s.options.RetryTime, skipped: func() { s.health.DecodeErrors.Add(1) }}
	from := time.Time{}
	if after != nil && after.Mark > 0 {
		from = time.Unix(0, after.Mark)
	}
	if now := time.Now(); from.After(now) { // the clock was set back
		r.after, from = &position{}, now
	}
	if s.since.After(from) {
		from = s.since
	}
	if oldest := time.Now().Add(-reach); !from.IsZero() && from.Before(oldest) {
		from = oldest
	}
	r.past.want(from, time.Now())
	return r
}

// run reads until ctx ends, or the stream.
func (r *reader) run(ctx context.Context, ready func()) error {
	s := r.source
	patience := time.Now().Add(s.lookBackPatience)
	header := time.Now().Add(s.headerPatience)
	var pending source.Pending
	var grace time.Time
	defer func() { pending.Release() }()
	for {
		if len(pending) == 0 && r.hasBegun {
			if pending = s.health.TakePending(); len(pending) > 0 {
				grace = time.Now().Add(syncGrace)
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
		isCalm := len(r.stream.lines) == 0 || now.Sub(grace) > syncMost
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
func (r *reader) begin(isSilent bool) {
	s := r.source
	r.hasBegun, r.isSilent = true, isSilent
	limits := ""
	if isSilent {
		limits = fmt.Sprintf("log stream has not said within %v that it began", s.headerPatience)
	}
	s.health.Started([]string{"log stream: " + predicate()}, limits, nil)
}

// ended returns why the stream has.
func (r *reader) ended(ctx context.Context) error {
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
func (r *reader) take(b []byte) {
	line, ok := r.parse(b)
	if ok && line.HasStarted() {
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
		r.past.want(r.latest.Add(-overlap), now)
	case line.Kind == kextlog.Entry:
		if at := line.Record.Time; at.After(r.latest) || r.latest.Sub(at) > clockStep {
			r.latest = at
		}
		r.tell(r.live, &line.Record, b, false)
	}
}

// recall reads a line of the past.
func (r *reader) recall(b []byte) {
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

func (r *reader) parse(b []byte) (kextlog.Line, bool) {
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
func (r *reader) tell(join *joiner, record *kextlog.Record, raw []byte, wasTold bool) {
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

func (r *reader) give(e kmodquery.Event) {
	r.source.health.Emitted(&e)
	r.emit(e)
}

// flush emits what was folded.
func (r *reader) flush(now time.Time) {
	for _, e := range r.refusals.flush(now) {
		r.give(e)
	}
}

// passed notes that a reading of the past has ended, and how.
func (r *reader) passed(ctx context.Context) error {
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
