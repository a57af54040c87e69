//go:build linux

package ebpf

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/host"
)

const (
	// grace is how long a Sync waits for the names and results of loads that are
	// under way. A load takes milliseconds, unless its module's init blocks.
	grace = 250 * time.Millisecond
	// imageGrace is how long a Sync waits for images to be read. A large image takes
	// about 0.1 s.
	imageGrace = 5 * time.Second
)

// A run is the event loop of Source.Run.
type run struct {
	source   *Source
	programs *bpf.Programs
	shown    shown // programs
	reader   *reader
	deaths   *deathLog
	hooks    liveness
	arming   *rearming

	sync   *source.Barrier
	left   int  // bytes of the ring buffer that were unread when the round began, and are
	isLast bool // the run ends with the round

	canary canary
	seen   time.Time // last check that found the hooks attached

	tampered  error          // what an event says of these programs; nil if nothing
	changed   error          // what another process changed and the last check restored; nil if nothing
	changeDue time.Time      // when the next event may say so
	filtered  []bpf.Filtered // those that no event names yet
	filterDue time.Time      // when the next event may name some
}

// newRun starts the goroutines that read images. They end when the programs are
// closed.
func (s *Source) newRun(programs *bpf.Programs, emit func(kmodquery.Delivery), arming *rearming) (*run, error) {
	bootID, err := host.BootID()
	if err != nil {
		return nil, err
	}
	attempts := newAttempts(s.acks, programs, func(d kmodquery.Delivery) {
		s.health.Emitted(&d)
		emit(d)
	})
	deaths := newDeathLog(s.options.Reading, s.options.KeepReading, &s.skipped)
	reader := newReader(translator{bootID: bootID, types: programs}, s.denials, attempts, nil)
	if programs.AreNew() {
		reader.attached = host.SinceBoot()
	}
	if !programs.WereThere() {
		reader.complete = host.SinceBoot()
	}
	reading := &images{
		attempts: attempts, read: programs.ReadImage, flush: programs.FlushImages, wake: programs.Flush,
		deaths: deaths, loop: s.health.AddLoop(), jobs: make(chan imageJob, maxJobs),
		fail: s.markUnreliable, files: &s.files,
	}
	reader.want = reading.want
	go reading.run()
	r := &run{
		source: s, programs: programs, shown: programs, deaths: deaths, arming: arming,
		reader: reader,
		sync:   s.health.NewBarrier(imageGrace),
	}
	if s.options.HasCanary && programs.HasCanary() {
		r.canary = canary{programs: programs, call: callCanary, doubt: s.markUnreliable}
		r.canary.begin(time.Now())
	}
	r.hooks.isUrgent = programs.HasHoles
	r.hooks.check = func() error {
		_ = programs.FlushImages() // completes a round of its loop; fails only after Close
		r.reportFiltered(programs.Filtered(), time.Now())
		if arming.done != nil {
			return nil // Renew and Repin allow no Check
		}
		err := programs.Check()
		if errors.Is(err, bpf.ErrChanged) {
			programs.Restore()
		}
		return err
	}
	return r, nil
}

// loop reads records until ctx ends, an error ends the run, or other programs have replaced
// these. It returns those; the run is to be continued with them.
func (r *run) loop(ctx context.Context) (next *bpf.Programs, err error) {
	defer r.deaths.stop()
	for next == nil && err == nil {
		if next, err = r.maintainHooks(ctx); next != nil || err != nil {
			break
		}
		r.begin(ctx)
		switch {
		case !r.isDue():
			err = r.readNext()
		case !r.isLast:
			err = r.reader.finish(r.sync.Began())
			r.sync.Release()
		case ctx.Err() != nil:
			return nil, r.end(nil)
		default:
			return nil, r.end(r.source.failure())
		}
	}
	if err != nil {
		err = r.end(err)
	}
	return next, err
}

// maintainHooks keeps the hooks running, and returns others that have replaced them. Once ctx has
// ended it does nothing: the next process completes what is under way.
func (r *run) maintainHooks(ctx context.Context) (next *bpf.Programs, err error) {
	if ctx.Err() != nil {
		return nil, nil
	}
	_ = r.checkHooks() // it has reported what is wrong
	if next, err = r.rearm(ctx); next == nil && err == nil {
		r.testHooks(time.Now())
	}
	return next, err
}

// continued returns the run that continues this one with other programs. It reads what is not
// released again; the events that were emitted are known.
func (r *run) continued(next *bpf.Programs, emit func(kmodquery.Delivery)) (*run, error) {
	after, err := r.source.newRun(next, emit, r.arming)
	if err != nil {
		r.sync.Release()
		return nil, err
	}
	after.reader.requests, after.reader.loads, after.reader.unbegun = r.reader.requests, r.reader.loads, r.reader.unbegun
	after.filtered, after.filterDue = r.filtered, r.filterDue
	after.changeDue, after.canary.causedAt = r.changeDue, r.canary.causedAt
	if after.sync = r.sync; !after.sync.Began().IsZero() {
		after.left = next.Pending()
	}
	return after, nil
}

// begin begins a round for the Syncs that wait, or for the end of the run, unless a
// round is in progress.
func (r *run) begin(ctx context.Context) {
	if !r.sync.Began().IsZero() {
		r.source.health.Progress()
		return
	}
	if r.isLast = ctx.Err() != nil || r.source.failure() != nil; r.isLast {
		r.sync.BeginLast()
	} else {
		r.sync.Begin()
	}
	if !r.sync.Began().IsZero() {
		r.left = r.programs.Pending()
	}
}

// isDue reports whether the round must end now. However long it takes, the records that
// the ring buffer held at its beginning are read first.
func (r *run) isDue() bool { return r.left <= 0 && r.sync.IsDue(r.quiet()) }

// took notes that bytes of the ring buffer were read. The round gives the last of its loads as
// long as others for their images.
func (r *run) took(n int) {
	if r.left > 0 && r.left <= n {
		r.sync.Restart()
	}
	r.left -= n
}

// quiet returns when the attempts have nothing more to wait for. It returns zero while
// an image is being read after the grace for results.
func (r *run) quiet() time.Time {
	began, attempts := r.sync.Began(), r.reader.attempts
	switch end := began.Add(grace); {
	case began.IsZero(), attempts.isIdle():
		return began
	case time.Now().Before(end), !attempts.isWaitingForImages():
		return end
	default:
		return time.Time{}
	}
}

// readNext waits for the next record until something else is due.
func (r *run) readNext() error {
	r.programs.SetDeadline(source.Earliest(r.reader.deadline(), r.hooks.due(), r.canaryDue(), r.sync.Due(r.quiet()), r.arming.due(r.source)))
	raw, position, err := r.programs.Read()
	switch {
	case errors.Is(err, bpf.ErrFlushed), errors.Is(err, os.ErrDeadlineExceeded):
		r.took(r.left)
		return r.reader.drained(time.Now())
	case err != nil:
		err = fmt.Errorf("read the records: %w", err)
		r.source.stop(err, errors.Is(err, bpf.ErrDamaged))
		if errors.Is(err, bpf.ErrDamaged) {
			r.reportFailure(err)
		}
		return err
	}
	size := bpf.RingSize(len(raw))
	defer r.took(size)
	record, err := r.programs.Decode(raw, position)
	if err == nil && isCanary(&record) {
		r.takeCanary(&record, position)
		return r.reader.take(record, position, size, time.Now())
	}
	r.source.health.Received.Add(1)
	if err != nil {
		r.source.health.DecodeErrors.Add(1)
		return nil
	}
	return r.reader.take(record, position, size, time.Now())
}

// end emits what is still held, unless the next Run reads it again, and returns the first
// error.
func (r *run) end(cause error) (err error) {
	defer r.sync.Release()
	r.isLast = true
	r.reportFiltered(r.programs.Filtered(), time.Now())
	if r.programs.IsPinned() {
		err = r.reader.reportDenials(time.Now())
	} else {
		err = r.reader.finish(time.Now())
	}
	return cmp.Or(cause, err)
}
