package es

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/source"
)

// A reader is one Run's reading of one eslogger. Nothing of it is
// called concurrently.
type reader struct {
	source  *Source
	program *ptyProgram
	lines   *lineReader
	ready   func() // nil once it was called
	emit    func(kmodquery.Event)

	next        uint64 // number of the message that should come
	isContinued bool   // there was one before: a gap is a loss
	unread      uint64 // lines since it that have no number

	pending source.Pending
	asked   time.Time // when the last of them came
	until   time.Time // when the first of them has waited long enough
}

func newReader(s *Source, p *ptyProgram, ready func(), emit func(kmodquery.Event)) *reader {
	return &reader{source: s, program: p, lines: newLineReader(), ready: ready, emit: emit}
}

func (r *reader) run(ctx context.Context) error {
	go r.lines.read(r.program.out)
	defer close(r.lines.done)
	patience := r.source.patience
	alive := time.NewTimer(patience.alive)
	defer alive.Stop()
	look := time.NewTicker(patience.look)
	defer look.Stop()
	settled := time.NewTimer(math.MaxInt64)
	defer settled.Stop()
	defer func() { r.answer() }()
	for {
		select {
		case <-ctx.Done(): // it is being killed
			r.drain()
			return nil
		case line, ok := <-r.lines.to:
			if !ok {
				return r.end(ctx)
			}
			r.take(line)
		case <-r.program.ended:
			r.drain()
			return r.end(ctx)
		case <-alive.C:
			r.begin()
		case <-r.source.health.Requests():
			settled.Reset(r.await())
		case <-settled.C:
			if wait := r.settles(); wait > 0 {
				settled.Reset(wait)
			} else {
				r.answer()
			}
		case now := <-look.C:
			r.program.resume()
			if r.lines.isHalf(now.Add(-patience.half)) {
				r.source.health.DecodeErrors.Add(1)
				return fmt.Errorf("eslogger began a record and did not end it within %s; it is started again", patience.half)
			}
		}
	}
}

// begin calls ready, once.
func (r *reader) begin() {
	if r.ready == nil {
		return
	}
	// What eslogger complained of is no reason to give up while it goes on.
	r.source.health.Started(esloggerHooks(), r.program.said.Line(), nil)
	r.ready()
	r.ready = nil
}

// take reads one line.
func (r *reader) take(line outputLine) {
	s := r.source
	s.health.Received.Add(1)
	var parsed record
	var err error
	if !line.isCut {
		parsed, err = parseRecord(line.text)
	}
	if line.isCut || err != nil {
		s.health.DecodeErrors.Add(1)
		r.unread++
		return
	}
	r.begin()
	r.count(parsed.GlobalSeqNum.value)
	now := time.Now()
	e, ok := kextEvent(&parsed, line.text, s.options.Boot(), now)
	if !ok {
		return // it is told of other things too
	}
	s.health.Emitted(&e)
	r.emit(e)
}

// count counts what is missing between two numbers, beyond the lines that were
// there and told none.
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

// await takes on the Syncs of the moment, and returns when to look whether they
// have what they wait for.
func (r *reader) await() time.Duration {
	now := time.Now()
	if len(r.pending) == 0 {
		r.until = now.Add(r.source.patience.sync)
	}
	r.pending, r.asked = append(r.pending, r.source.health.TakePending()...), now
	return min(r.source.patience.quiet, r.until.Sub(now))
}

// settles is how long, at least, those that wait have still to do so. What is
// being handed over at this moment is taken first.
func (r *reader) settles() time.Duration {
	now := time.Now()
	for now.Before(r.until) {
		select {
		case line, ok := <-r.lines.to:
			if !ok {
				return 0
			}
			r.take(line)
			now = time.Now()
			continue
		default:
		}
		since := r.asked
		if last := r.lines.quietSince(); last.After(since) {
			since = last
		}
		return min(since.Add(r.source.patience.quiet).Sub(now), r.until.Sub(now))
	}
	return 0
}

func (r *reader) answer() {
	r.pending.Release()
	r.pending = nil
}

// drain reads what an eslogger that has ended, or is being killed, had printed.
func (r *reader) drain() {
	patience := time.NewTimer(r.source.patience.drain)
	defer patience.Stop()
	for {
		select {
		case line, ok := <-r.lines.to:
			if !ok {
				return
			}
			r.take(line)
		case <-patience.C:
			return // something else has the terminal
		}
	}
}

// end says why eslogger ended. One that has closed its terminal and goes on is
// ended.
func (r *reader) end(ctx context.Context) error {
	select {
	case <-r.program.ended:
	case <-ctx.Done():
		return nil
	case <-time.After(r.source.patience.drain):
		return errors.New("eslogger closed its output and went on; it is started again")
	}
	if ctx.Err() != nil {
		return nil
	}
	return explain(r.program.err, r.program.said.Line())
}
