//go:build linux

package ebpf

import (
	"cmp"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery/linux/host"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

// A reader makes events of the records of one run of the programs: it puts
// together what several records say. Its methods, but for found, must not be
// called concurrently.
type reader struct {
	translate translator
	clock     host.BootClock
	processes processes
	requests  requests
	attempts  *attempts
	acks      *ackTracker
	denials   *denials
	emit      func(kmodquery.Delivery)
	want      func(wantedImage) error
	read      time.Time // the records of what happened until then were read

	mu     sync.Mutex
	images []foundImage // that were read and not joined yet
}

type foundImage struct {
	loadID string
	imageInfo
}

// newReader returns a reader that gives an event to emit once, whether this
// process or an earlier one reads its record.
func newReader(t translator, d *denials, c *ackTracker, emit func(kmodquery.Delivery)) *reader {
	r := &reader{translate: t, acks: c, denials: d}
	r.emit = func(d kmodquery.Delivery) {
		if d.Key != "" {
			position, isNew := c.reserve(d.Key)
			if !isNew {
				return
			}
			d.Position = position
		}
		emit(d)
	}
	r.attempts = newAttempts(r.emit, c.isKnown, func(id string) { c.close(id, time.Now()) })
	return r
}

// take takes the next record, of a size in the ring buffer, and emits what has
// waited long enough.
func (r *reader) take(record bpf.Record, position bpf.Position, size int, now time.Time) error {
	// One that belongs to nothing stays until its own event is stored.
	attempt := cmp.Or(r.attemptOf(record), keyOf(position))
	r.acks.track(position, size, attempt, now)
	isOver, err := r.add(record, keyOf(position), now)
	if isOver {
		r.acks.close(attempt, now)
	}
	if err != nil {
		return err
	}
	return r.expire(now.Add(record.Boot-host.SinceBoot()), now)
}

// attemptOf is the load_id of the attempt that a record belongs to, or of what it
// has in common with others where there is no attempt.
func (r *reader) attemptOf(record bpf.Record) string {
	return r.translate.loadID(cmp.Or(record.Attempt, record.Context), record.Tid)
}

// add emits what is complete with a record. It reports whether nothing more is to
// come of this one and those before it.
func (r *reader) add(record bpf.Record, key string, now time.Time) (isOver bool, err error) {
	switch record.Kind {
	case bpf.ProcessPath, bpf.ProcessArgs:
		r.processes.add(record)
		return false, nil
	case bpf.ImageTaken:
		return false, r.takeImage(record)
	case bpf.ParamsTaken:
		r.attempts.addParams(r.translate.loadID(record.Attempt, record.Tid), *record.Params, now)
		return false, nil
	}
	p := r.processes.of(record)
	e := r.translate.event(record, p, r.clock.BootTime())
	switch {
	case record.Kind == bpf.ModuleRequest:
		r.requests.add(&e)
		r.emit(kmodquery.Delivery{Event: e, Key: key})
		return true, nil
	case record.Kind == bpf.SystemCall && record.Call.Denied != nil:
		r.denials.add(record.Call.Denied.In(positionOf(key)), e)
		return true, nil
	case record.Kind == bpf.ReadFile && record.Attempt != 0:
		r.processes.read(record)
	}
	if record.Request != 0 {
		if by, ok := r.requests.get(r.translate.loadID(record.Request, record.RequestTid)); ok {
			e.RequestedBy = by
		} else {
			e.Missing.Add("requested_by")
		}
	}
	r.attempts.add(kmodquery.Delivery{Event: e, Key: key}, now)
	return e.LoadID == "", nil
}

// takeImage has the image of an attempt read.
func (r *reader) takeImage(record bpf.Record) error {
	w := wantedImage{
		id:     contextID{record.Image.Attempt, record.Tid},
		loadID: r.translate.loadID(record.Attempt, record.Tid),
		sent:   record.Image.Sent,
		pid:    record.Pid,
	}
	if record.Unread.Has(bpf.UnreadUntyped) {
		w.size, w.flags = number(record.Image.Size), number(record.Image.Flags)
	}
	if p, ok := r.processes.get(contextID{record.Context, record.Tid}); ok {
		w.file = p.file
	}
	r.attempts.expectImage(w.loadID)
	return r.want(w)
}

// found takes what was read of an image. It may be called from any goroutine;
// expire joins it.
func (r *reader) found(loadID string, found imageInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images = append(r.images, foundImage{loadID, found})
}

// expire joins the images that were read and emits what has waited long enough,
// where the records of what happened until a time were read.
func (r *reader) expire(read, now time.Time) error {
	r.mu.Lock()
	images := r.images
	r.images = nil
	r.mu.Unlock()
	for _, image := range images {
		r.attempts.addImage(image.loadID, image.imageInfo)
	}
	r.attempts.expire(read, now)
	r.wasRead(read)
	if now.Before(r.denials.due) {
		return nil
	}
	return r.reportDenials(now)
}

// finish emits everything that is held back of what had begun by a time.
func (r *reader) finish(by time.Time) error {
	r.attempts.finish(by)
	r.wasRead(by)
	return r.reportDenials(time.Now())
}

func (r *reader) wasRead(until time.Time) {
	if until.After(r.read) {
		r.read = until
	}
}

// leave emits what can be told without giving up an attempt: the next one that
// reads the same ring buffer goes on with those.
func (r *reader) leave() error { return r.reportDenials(time.Now()) }

func (r *reader) reportDenials(now time.Time) error {
	boot := host.SinceBoot()
	return r.denials.report(now, boot-now.Sub(r.read), r.translate.blank(boot, r.clock.BootTime()), r.emit)
}

// deadline is when expire must be called though no record came.
func (r *reader) deadline(b *barrier) time.Time {
	next := b.deadline(r.attempts)
	if next.IsZero() || r.denials.due.Before(next) {
		return r.denials.due
	}
	return next
}
