package es

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/source"
)

// A reader reads the output of one eslogger during one Run. It is not safe for
// concurrent use.
type reader struct {
	source  *Source
	program *eslogger
	output  *output
	ready   func() // nil once called
	emit    func(kmodquery.Delivery)

	next        uint64 // expected number of the next message
	isContinued bool   // a message was read before, so a gap in the numbers is a loss
	unread      uint64 // lines without a number since that message
}

func (r *reader) run(ctx context.Context) error {
	reading, stop := context.WithCancel(context.WithoutCancel(ctx)) // drain reads on when ctx has ended
	defer stop()
	go r.output.readLines(reading)
	timeouts, health := r.source.timeouts, r.source.health
	sync := health.NewBarrier(timeouts.sync)
	defer sync.Release()
	alive, look := time.Now().Add(timeouts.alive), time.Now().Add(timeouts.look)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		sync.Begin()
		quiet := r.quiet(sync.Began())
		if sync.IsDue(quiet) {
			sync.Release()
			continue
		}
		timer.Reset(time.Until(source.Earliest(alive, look, sync.Due(quiet))))
		select {
		case <-ctx.Done(): // eslogger is being killed
			r.drain()
			return nil
		case line, ok := <-r.output.lines:
			if !ok {
				return r.end(ctx)
			}
			r.take(line)
		case <-r.program.ended:
			r.drain()
			return r.end(ctx)
		case <-health.Requests():
		case <-timer.C:
		}
		now := time.Now()
		if !alive.IsZero() && !now.Before(alive) {
			r.start()
			alive = time.Time{}
		}
		if now.Before(look) {
			continue
		}
		look = now.Add(timeouts.look)
		r.program.resume()
		if r.output.isHalf(now.Add(-timeouts.half)) {
			health.DecodeErrors.Add(1)
			return fmt.Errorf("eslogger left a record incomplete for %s; it is started again", timeouts.half)
		}
	}
}

// start marks the source as active and calls ready. Further calls do nothing.
func (r *reader) start() {
	if r.ready == nil {
		return
	}
	// An error that eslogger printed is no reason to stop as long as it runs.
	r.source.health.Started(esloggerHooks(), r.program.stderr.Line(), nil)
	r.ready()
	r.ready = nil
}

// quiet returns when everything that was printed before a time has been read, or
// the zero time while there is more to read.
func (r *reader) quiet(before time.Time) time.Time {
	last := r.output.idleSince()
	if last.IsZero() {
		return last
	}
	if before.After(last) {
		last = before
	}
	return last.Add(r.source.timeouts.quiet)
}

// take handles one line. Nil is an incomplete one.
func (r *reader) take(line []byte) {
	s := r.source
	text := bytes.TrimSpace(line) // the terminal ends lines with \r\n
	if line != nil && len(text) == 0 {
		return
	}
	s.health.Received.Add(1)
	parsed, err := parseRecord(text)
	if err != nil {
		s.health.DecodeErrors.Add(1)
		r.unread++
		return
	}
	r.start()
	r.count(parsed.GlobalSeqNum.value)
	now := time.Now()
	e, ok := newEvent(&parsed, text, s.options.Boot(), now)
	if !ok {
		return // an event that was not subscribed to
	}
	delivery := kmodquery.Delivery{Event: e}
	s.health.Emitted(&delivery)
	r.emit(delivery)
}

// count counts the messages that are missing before one with this number, nil if
// it has none. Lines that could not be read account for as many messages.
func (r *reader) count(number *uint64) {
	if number == nil {
		r.unread++
		return
	}
	if r.isContinued && *number > r.next {
		gap := *number - r.next
		r.source.health.Lost.Add(int64(min(gap-min(gap, r.unread), 1<<40)))
	}
	r.next, r.isContinued, r.unread = *number+1, true, 0
}

// drain reads the remaining output of an eslogger that has ended or is being
// killed.
func (r *reader) drain() {
	timeout := time.NewTimer(r.source.timeouts.drain)
	defer timeout.Stop()
	for {
		select {
		case line, ok := <-r.output.lines:
			if !ok {
				return
			}
			r.take(line)
		case <-timeout.C:
			return // another process holds the terminal
		}
	}
}

// end returns why eslogger ended. It returns an error for an eslogger that closed
// its output and still runs; close then kills it.
func (r *reader) end(ctx context.Context) error {
	select {
	case <-r.program.ended:
	case <-ctx.Done():
		return nil
	case <-time.After(r.source.timeouts.drain):
		return errors.New("eslogger closed its output and still runs; it is started again")
	}
	if ctx.Err() != nil {
		return nil
	}
	return explainExit(r.program.err, r.program.stderr)
}
