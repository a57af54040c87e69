//go:build linux

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/host"
)

// A run is the event loop of Source.Run.
type run struct {
	source   *Source
	programs *bpf.Programs
	reader   *reader
	hooks    liveness
	barrier  *barrier // nil if nothing waits for one
}

// newRun starts the goroutines that read images. They end when the programs are
// closed.
func (s *Source) newRun(programs *bpf.Programs, emit func(kmodquery.Delivery)) (*run, error) {
	bootID, err := host.BootID()
	if err != nil {
		return nil, err
	}
	attempts := newAttempts(s.acks, programs, func(d kmodquery.Delivery) {
		s.health.Emitted(&d)
		emit(d)
	})
	images := newImages(attempts, programs, s.health.AddLoop())
	go images.run()
	return &run{
		source: s, programs: programs,
		reader: newReader(translator{bootID: bootID, types: programs}, s.denials, attempts, images.want),
		hooks: liveness{check: func() error {
			_ = programs.FlushImages() // completes a round of its loop; fails only after Close
			return programs.Check()
		}},
	}, nil
}

// loop reads records until ctx ends or the hooks are unreliable.
func (r *run) loop(ctx context.Context) error {
	defer r.end()
	for {
		r.source.health.Progress()
		r.checkHooks()
		if r.barrier == nil {
			r.barrier = r.nextBarrier(ctx)
		}
		if !r.barrier.done(r.reader.attempts) {
			if err := r.readNext(); err != nil {
				return err
			}
			continue
		}
		if isLast, err := r.pass(); isLast || err != nil {
			return err
		}
	}
}

// checkHooks checks the hooks if a check is due.
func (r *run) checkHooks() {
	if err := r.hooks.failure(time.Now(), r.barrier == nil && r.source.health.HasPending()); err != nil {
		r.source.markUnreliable(err)
	} else {
		r.source.keepWatch(r.hooks.last)
	}
}

// nextBarrier returns a barrier for the Syncs that wait, or for the end of the run;
// nil if there are none.
func (r *run) nextBarrier(ctx context.Context) *barrier {
	cause := r.source.failure()
	if ctx.Err() != nil {
		cause = nil
	}
	pending, last := r.source.health.TakePending(), ctx.Err() != nil || cause != nil
	if len(pending) == 0 && !last {
		return nil
	}
	now := time.Now()
	return &barrier{
		pending: pending, last: last, cause: cause,
		left: r.programs.Pending(), asked: now, until: now.Add(grace), images: now.Add(imageGrace),
	}
}

// pass emits what the barrier waited for, and releases its Syncs. It reports whether
// the run ends, with which error. A run whose programs are pinned ends without giving
// up attempts, because the next run reads their records again.
func (r *run) pass() (isLast bool, err error) {
	b := r.barrier
	if !b.last || !r.programs.IsPinned() {
		if err := r.reader.finish(b.asked); err != nil {
			return true, err
		}
	}
	r.barrier = nil
	b.pending.Release()
	return b.last, b.cause
}

// readNext waits for the next record until something else is due.
func (r *run) readNext() error {
	deadline := r.reader.deadline(r.barrier)
	if due := r.hooks.due(); due.Before(deadline) {
		deadline = due
	}
	r.programs.SetDeadline(deadline)
	raw, position, err := r.programs.Read()
	switch {
	case errors.Is(err, bpf.ErrFlushed), errors.Is(err, os.ErrDeadlineExceeded):
		r.barrier.drained()
		return r.reader.drained(time.Now())
	case err != nil:
		return fmt.Errorf("read the ring buffer: %w", err)
	}
	r.source.health.Received.Add(1)
	r.barrier.took(raw)
	record, err := bpf.Decode(raw)
	if err != nil {
		r.source.health.DecodeErrors.Add(1)
		return nil
	}
	return r.reader.take(record, position, bpf.RingSize(len(raw)), time.Now())
}

// end emits what is still held, unless the next run reads it again.
func (r *run) end() {
	var err error
	if r.programs.IsPinned() {
		err = r.reader.leave()
	} else {
		err = r.reader.finish(time.Now())
	}
	if err != nil {
		r.source.health.DecodeErrors.Add(1)
	}
	if r.barrier != nil {
		r.barrier.pending.Release()
	}
}
