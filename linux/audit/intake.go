//go:build linux

package audit

import (
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/audit/record"
)

// An intake turns records into events. It emits them in the order in which
// they began, so that the place where the first begins of which no event tells
// parts what was told from what was not. Its methods must not be called
// concurrently.
type intake struct {
	translator translator
	since      time.Time // nothing older is emitted
	emit       func(kmodquery.Delivery)

	assembler *record.Assembler
	denials   denials
	end       record.Place // behind the last record
	// position says where to go on at a place, once everything up to and with
	// the event of an id, which begins at another place, was told. Nil where
	// there is no log to go on in.
	position func(told emitted, next record.Place) string
	// isTold reports whether an event was told before this run. It may be nil.
	isTold func(record.ID) bool
}

// An emitted is an event that was told.
type emitted struct {
	id    record.ID
	start record.Place
}

func newIntake(t translator, since time.Time, emit func(kmodquery.Delivery)) *intake {
	i := &intake{translator: t, since: since, emit: emit}
	i.assembler = record.NewAssembler(i.take)
	return i
}

// add takes the next record, which stands between two places.
func (i *intake) add(r record.Record, start, end record.Place, now time.Time) {
	i.end = end
	i.assembler.Add(r, start, now)
}

// take takes the next event.
func (i *intake) take(from record.Event) {
	if from.ID.Time().Before(i.since) || i.isTold != nil && i.isTold(from.ID) {
		return
	}
	told := emitted{id: from.ID, start: from.Start}
	e := i.translator.event(from)
	if e.IsUnprivileged() {
		i.denials.add(e, told, time.Now())
		return
	}
	// So that nothing is untold before an event that is told.
	i.reportDenied(from.Start)
	i.emit(kmodquery.Delivery{Event: e, Position: i.positionAt(told, i.next())})
}

// next is where the first event begins that was not handed on.
func (i *intake) next() record.Place {
	if start, _, ok := i.assembler.Oldest(); ok {
		return start
	}
	return i.end
}

func (i *intake) positionAt(told emitted, next record.Place) string {
	if i.position == nil {
		return ""
	}
	return i.position(told, next)
}

func (i *intake) reportDenied(next record.Place) {
	if first, _, ok := i.denials.oldest(); ok {
		i.denials.report(i.positionAt(first, next), i.emit)
	}
}

// expire emits what waits for too long by now.
func (i *intake) expire(now time.Time) {
	i.assembler.Expire(now)
	if _, due, ok := i.denials.oldest(); ok && !due.After(now) {
		i.reportDenied(i.next())
	}
}

// due is when expire has something to do, or zero.
func (i *intake) due() time.Time {
	_, due, ok := i.assembler.Oldest()
	if _, denied, isDenied := i.denials.oldest(); isDenied && (!ok || denied.Before(due)) {
		due = denied
	}
	return due
}

// idle reports whether the records of all events came.
func (i *intake) idle() bool {
	_, _, ok := i.assembler.Oldest()
	return !ok
}

// finish emits everything that there is.
func (i *intake) finish() {
	i.assembler.Flush()
	i.reportDenied(i.next())
}

// oldestFile is the file of the first event of which no event tells.
func (i *intake) oldestFile() int {
	file := i.next().File
	if first, _, ok := i.denials.oldest(); ok {
		file = min(file, first.start.File)
	}
	return file
}
