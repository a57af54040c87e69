//go:build linux

package linux

import (
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

// A reader makes events of the records of one run of the programs: it puts
// together what several records say. Its methods, but for found, must not be
// called concurrently.
type reader struct {
	translate translator
	clock     bootClock
	processes processes
	requests  requests
	join      *joiner
	denials   *denials
	emit      func(kmodquery.Event)
	want      func(wantedImage) error

	mu     sync.Mutex
	images []foundImage // that were read and not joined yet
}

type foundImage struct {
	loadID string
	evidence
}

func newReader(t translator, counts deniedCounts, emit func(kmodquery.Event)) *reader {
	return &reader{translate: t, join: newJoiner(emit), denials: newDenials(counts, time.Now()), emit: emit}
}

// add takes the next record and emits what is complete.
func (r *reader) add(record bpf.Record, now time.Time) error {
	switch record.Kind {
	case bpf.ProcessPath, bpf.ProcessArgs:
		r.processes.add(record)
		return nil
	case bpf.ImageTaken:
		return r.takeImage(record)
	case bpf.ParamsTaken:
		r.join.addParams(r.translate.loadID(record.Attempt, record.Tid), *record.Params, now)
		return nil
	}
	p := r.processes.of(record)
	e := r.translate.event(record, p, r.clock.bootTime())
	switch {
	case record.Kind == bpf.ModuleRequest:
		r.requests.add(&e)
		r.emit(e)
		return nil
	case record.Kind == bpf.SystemCall && record.Call.Denied != nil:
		r.denials.add(*record.Call.Denied, e)
		return nil
	case record.Kind == bpf.ReadFile && record.Attempt != 0:
		r.processes.read(record)
	}
	if record.Request != 0 {
		if by, ok := r.requests.get(r.translate.loadID(record.Request, record.RequestTid)); ok {
			e.RequestedBy = by
		} else {
			e.Miss("requested_by")
		}
	}
	r.join.add(e, now)
	return nil
}

// takeImage has the image of an attempt read.
func (r *reader) takeImage(record bpf.Record) error {
	w := wantedImage{
		id:     contextID{record.Attempt, record.Tid},
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
	r.join.expectImage(w.loadID)
	return r.want(w)
}

// found takes what was read of an image. It may be called from any goroutine;
// expire joins it.
func (r *reader) found(loadID string, found evidence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images = append(r.images, foundImage{loadID, found})
}

// expire joins the images that were read and emits what has waited long enough.
func (r *reader) expire(now time.Time) error {
	r.mu.Lock()
	images := r.images
	r.images = nil
	r.mu.Unlock()
	for _, image := range images {
		r.join.addImage(image.loadID, image.evidence)
	}
	r.join.expire(now)
	if now.Before(r.denials.due) {
		return nil
	}
	return r.reportDenials(now)
}

// finish emits everything that is held back of what had begun by a time.
func (r *reader) finish(by time.Time) error {
	r.join.finish(by)
	return r.reportDenials(time.Now())
}

func (r *reader) reportDenials(now time.Time) error {
	return r.denials.report(now, r.translate.blank(bootTimeNow(), r.clock.bootTime()), r.emit)
}

// deadline is when expire must be called though no record came.
func (r *reader) deadline(f *flush) time.Time {
	next := f.deadline(r.join)
	if next.IsZero() || r.denials.due.Before(next) {
		return r.denials.due
	}
	return next
}
