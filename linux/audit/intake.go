//go:build linux

package audit

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/audit/record"
	"github.com/kmodquery/kmodquery/linux/host"
)

// An intake turns records into events. It emits them in the order in which they
// began. So everything before the last event that was emitted is done, and the next Run
// can continue there. Its methods must not be called concurrently.
type intake struct {
	translator translator
	since      time.Time // nothing older is emitted
	emit       func(kmodquery.Delivery)
	isLog      bool // the records come from a log, and events have a Position in it
	canaries   []uint64
	leftOut    func(records int) // is called for each canary; may be nil

	assembler *record.Assembler
	denials   denials
	// wasEmitted reports whether an earlier Run emitted an event. It may be nil.
	wasEmitted func(record.ID) bool
}

func newIntake(t translator, since time.Time, emit func(kmodquery.Delivery)) *intake {
	i := &intake{translator: t, since: since, emit: emit}
	i.assembler = record.NewAssembler(i.takeEvent)
	return i
}

// takeEvent handles the next event.
func (i *intake) takeEvent(from record.Event) {
	if from.ID.Time().Before(i.since) || i.wasEmitted != nil && i.wasEmitted(from.ID) {
		return
	}
	if i.isCanary(&from) {
		if i.leftOut != nil {
			i.leftOut(len(from.Records))
		}
		return
	}
	ref := eventRef{id: from.ID, start: from.Start}
	e := i.translator.event(from)
	if e.IsUnprivileged() {
		i.denials.add(e, ref, time.Now())
		return
	}
	i.reportDenied() // a position stands for everything before it
	i.emit(kmodquery.Delivery{Event: e, Position: i.position(ref)})
}

// isCanary reports whether a call was made to test the hooks of eBPF, by this process or an earlier
// one. The kernel denies such a call.
func (i *intake) isCanary(from *record.Event) bool {
	call := from.Records[0].Fields
	argument, _ := call.Hex("a2")
	exit, ok := call.Int("exit")
	if from.Call != kmodquery.EventInitModule || !ok || exit != -int64(unix.EPERM) {
		return false
	}
	id := host.CanaryOf(argument)
	return id == host.Canary() || slices.Contains(i.canaries, id)
}

func (i *intake) position(last eventRef) string {
	if !i.isLog {
		return ""
	}
	return last.String()
}

// reportDenied emits the denied calls that were counted.
func (i *intake) reportDenied() { i.denials.report(i.position(i.denials.last), i.emit) }

// expire emits the events that are due.
func (i *intake) expire(now time.Time) {
	i.assembler.Expire(now)
	if !i.denials.due.IsZero() && !i.denials.due.After(now) {
		i.reportDenied()
	}
}

// due returns when expire must be called, or the zero time.
func (i *intake) due() time.Time { return source.Earliest(i.assembler.Due(), i.denials.due) }

// idle reports whether no event is incomplete.
func (i *intake) idle() bool { return i.assembler.Due().IsZero() }

// finish emits all events, complete or not.
func (i *intake) finish() {
	i.assembler.Flush()
	i.reportDenied()
}
