//go:build linux

package ebpf

import (
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/host"
)

// A reader converts the records of one run of the programs to events. Its methods
// must not be called concurrently.
type reader struct {
	translate translator
	clock     host.BootClock
	requests  recent[attemptID, loadRequest]
	inits     recent[attemptID, struct{}] // loads whose init may have started a program
	loads     recent[fileKey, fileLoad]
	attempts  *attempts
	denials   *denials
	want      func(imageJob) // requests an image; called with the attempts' mutex locked
	readUntil time.Time      // every record made before was read
	// complete is CLOCK_BOOTTIME when all hooks were attached, or 0 if no record is older.
	// A part of an attempt that began earlier may not have been seen.
	complete time.Duration
	// attached is CLOCK_BOOTTIME when this process had attached the hooks, or 0 if another one
	// had. They know no request that was made before, also if others recorded it.
	attached time.Duration
	// unbegun is for loads whose call began before the hooks were attached: the record of
	// the return has no other link to that of the module_load. By thread.
	unbegun map[uint32]unbegunLoad
}

// An unbegunLoad is the module_load of a load whose call began before the hooks were attached.
type unbegunLoad struct {
	loadID string
	caller caller
}

// A caller is what a thread cannot change during a system call, and what the programs can
// always read. Other threads of its process may change comm.
type caller struct {
	pid, uid uint32
	comm     string
}

func callerOf(r bpf.Record) caller { return caller{r.Pid, r.UID, r.Comm} }

// maxUnbegun bounds the loads of reader.unbegun. Beyond it all are forgotten: the events
// of their returns get load_ids of their own.
const maxUnbegun = 64

func newReader(t translator, d *denials, attempts *attempts, want func(imageJob)) *reader {
	return &reader{translate: t, denials: d, attempts: attempts, want: want, unbegun: map[uint32]unbegunLoad{}}
}

// take adds the next record and emits the events that are complete. size is the
// record's size in the ring buffer.
func (r *reader) take(record bpf.Record, position bpf.Position, size int, now time.Time) error {
	read := now.Add(record.Boot - host.SinceBoot())
	r.attempts.update(func() {
		a := r.attempts.get(idOf(record), now)
		r.attempts.bound()
		r.attempts.records.add(a, position, size)
		r.add(a, record, position, now)
		r.attempts.expire(read, now)
	})
	return r.wasRead(read, now)
}

// add adds the next record of an attempt.
func (r *reader) add(a *attempt, record bpf.Record, position bpf.Position, now time.Time) {
	switch record.Kind {
	case bpf.SystemCall:
		if isCanary(&record) {
			r.attempts.forget(a)
			return
		}
	case bpf.ProcessPath, bpf.ProcessArgs:
		a.process.add(record)
		return
	case bpf.ParamsTaken:
		a.params = record.Params
		return
	case bpf.ImageTaken:
		r.attempts.expectImage(a)
		job := imageJob{attempt: a, loadID: r.loadID(a, record), sent: record.Image.Sent, file: a.file, pid: record.Pid}
		if record.Unread.Has(bpf.UnreadUntyped) {
			job.size, job.flags = number(record.Image.Size), number(record.Image.Flags)
		}
		r.want(job)
		return
	}
	e := r.translate.event(record, &a.process, r.clock.BootTime())
	e.LoadID = r.loadID(a, record)
	switch {
	case record.Kind == bpf.SystemCall && record.Call.Denied != nil:
		r.denials.add(record.Call.Denied.In(position), e)
		r.attempts.forget(a)
		return
	case record.Attempt == 0 && (record.Kind == bpf.ModuleLoad || record.Kind == bpf.SystemCall && record.Call.Name != bpf.DeleteModule):
		r.addUnbegun(a, record, &e)
	case record.Kind == bpf.ModuleRequest:
		r.requests.add(a.id, requestOf(&e), maxRequests)
	case record.Request != 0:
		id := attemptID{record.Request, record.RequestTid}
		request, isKnown := r.requests.byKey[id]
		_, isInit := r.inits.byKey[id]
		e.RequestedBy = request.column
		if !isInit && !isKnown || request.isPartial {
			e.Missing.Add("requested_by")
		}
	case record.IsRequestUnknown, record.Boot < r.attached+helperTime && a.process.isHelper():
		e.Missing.Add("requested_by")
	}
	if record.Kind == bpf.ModuleLoad {
		r.inits.add(a.id, struct{}{}, maxRequests)
	}
	d := kmodquery.Delivery{Event: e, Key: keyOf(position)}
	if record.Attempt == 0 || record.Kind == bpf.ModuleRequest {
		r.attempts.send(a, d)
		r.attempts.forget(a)
		return
	}
	delete(r.unbegun, record.Tid) // that call has returned, or its thread has ended
	r.link(a, &record, &d.Event)
	r.attempts.add(a, d, now)
}

// loadID returns the load_id of a record's attempt.
func (r *reader) loadID(a *attempt, record bpf.Record) string {
	if a.loadID == "" && record.Attempt != 0 {
		a.loadID = r.translate.loadID(a.id)
	}
	return a.loadID
}

// addUnbegun completes an event of a load whose call began before the hooks were attached.
// Such a load has one event or two, and the first reports it.
func (r *reader) addUnbegun(a *attempt, record bpf.Record, e *kmodquery.Event) {
	live := r.unbegun[record.Tid]
	delete(r.unbegun, record.Tid)
	e.LoadID = r.translate.loadID(attemptID{record.Boot, record.Tid})
	e.Missing.Remove("load_id")
	switch {
	case record.Kind == bpf.ModuleLoad:
		if len(r.unbegun) >= maxUnbegun {
			clear(r.unbegun)
		}
		r.unbegun[record.Tid] = unbegunLoad{e.LoadID, callerOf(record)}
		e.ReportsLoad = new(int64(1))
	case live.loadID != "" && live.caller == callerOf(record):
		e.LoadID, e.ReportsLoad = live.loadID, new(int64(0))
	}
	if a.process.isHelper() {
		e.Missing.Add("requested_by")
	}
	a.isLive = record.Kind == bpf.ModuleLoad
	a.isTaken = a.isLive
	r.link(a, &record, e)
	a.complete(e)
}

// drained notes that the ring buffer was seen empty, and emits the events that need
// not wait longer.
func (r *reader) drained(now time.Time) error {
	r.attempts.update(func() {
		r.attempts.drained(now)
		r.attempts.expire(now, now)
	})
	return r.wasRead(now, now)
}

// finish emits the events of every attempt that began by a time.
func (r *reader) finish(by time.Time) error {
	r.attempts.update(func() { r.attempts.finish(by) })
	r.denials.due = time.Time{} // at once
	return r.wasRead(by, time.Now())
}

// wasRead notes that every record made before a time was read. It emits the denied
// calls if their report is due.
func (r *reader) wasRead(until, now time.Time) error {
	if until.After(r.readUntil) {
		r.readUntil = until
	}
	if now.Before(r.denials.due) {
		return nil
	}
	return r.reportDenials(now)
}

// reportDenials emits the denied calls.
func (r *reader) reportDenials(now time.Time) error {
	boot := host.SinceBoot()
	blank := r.translate.blank(boot, r.clock.BootTime())
	return r.denials.report(now, boot-now.Sub(r.readUntil), blank, func(d kmodquery.Delivery) {
		r.attempts.update(func() { r.attempts.send(nil, d) })
	})
}

// deadline returns when to call drained if no record comes.
func (r *reader) deadline() time.Time { return source.Earliest(r.attempts.next(), r.denials.due) }
