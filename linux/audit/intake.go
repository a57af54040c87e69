//go:build linux

package audit

import (
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/audit/record"
)

// An intake turns records into events. It emits them in the order in which they
// began. So everything before the first event that was not emitted is done, and the
// next Run can continue there. Its methods must not be called concurrently.
type intake struct {
	translator translator
	since      time.Time // nothing older is emitted
	emit       func(kmodquery.Delivery)

	assembler *record.Assembler
	denials   denials
	end       record.Place // of the last record
	// position returns the Position after the event last, if the next Run continues
	// at next. It is nil if there is no log to continue in.
	position func(last eventRef, next record.Place) string
	// wasEmitted reports whether an earlier Run emitted an event. It may be nil.
	wasEmitted func(record.ID) bool
}

// An eventRef identifies an event.
type eventRef struct {
	id    record.ID
	start record.Place
}

func newIntake(t translator, since time.Time, emit func(kmodquery.Delivery)) *intake {
	i := &intake{translator: t, since: since, emit: emit}
	i.assembler = record.NewAssembler(i.takeEvent)
	return i
}

// add adds the next record, which lies between two places.
func (i *intake) add(r record.Record, start, end record.Place, now time.Time) {
	i.end = end
	i.assembler.Add(r, start, now)
}

// takeEvent handles the next event.
func (i *intake) takeEvent(from record.Event) {
	if from.ID.Time().Before(i.since) || i.wasEmitted != nil && i.wasEmitted(from.ID) {
		return
	}
	ref := eventRef{id: from.ID, start: from.Start}
	e := i.translator.event(from)
	if e.IsUnprivileged() {
		i.denials.add(e, ref, time.Now())
		return
	}
	// A position stands for everything before it.
	i.reportDenied(from.Start)
	i.emit(kmodquery.Delivery{Event: e, Position: i.positionAt(ref, i.next())})
}

// next returns the place where the first event begins that is still incomplete.
func (i *intake) next() record.Place {
	if start, _, ok := i.assembler.Oldest(); ok {
		return start
	}
	return i.end
}

func (i *intake) positionAt(last eventRef, next record.Place) string {
	if i.position == nil {
		return ""
	}
	return i.position(last, next)
}

// reportDenied emits the denied calls that were counted.
func (i *intake) reportDenied(next record.Place) {
	if first, _, ok := i.denials.oldest(); ok {
		i.denials.report(i.positionAt(first, next), i.emit)
	}
}

// expire emits the events that are due.
func (i *intake) expire(now time.Time) {
	i.assembler.Expire(now)
	if _, due, ok := i.denials.oldest(); ok && !due.After(now) {
		i.reportDenied(i.next())
	}
}

// due returns when expire must be called, or the zero time.
func (i *intake) due() time.Time {
	_, due, ok := i.assembler.Oldest()
	if _, denied, isDenied := i.denials.oldest(); isDenied && (!ok || denied.Before(due)) {
		due = denied
	}
	return due
}

// idle reports whether no event is incomplete.
func (i *intake) idle() bool {
	_, _, ok := i.assembler.Oldest()
	return !ok
}

// finish emits all events, complete or not.
func (i *intake) finish() {
	i.assembler.Flush()
	i.reportDenied(i.next())
}

// oldestFile returns the number of the file in which the first event begins that was
// not emitted.
func (i *intake) oldestFile() int {
	file := i.next().File
	if first, _, ok := i.denials.oldest(); ok {
		file = min(file, first.start.File)
	}
	return file
}
