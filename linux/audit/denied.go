//go:build linux

package audit

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/host"
)

// maxDeniedKinds bounds the kinds of denied calls that are counted separately between
// two reports.
const maxDeniedKinds = 256

// foldFor is how long denied calls of one kind are counted before they are emitted as
// one event.
const foldFor = time.Minute

// Users of denied calls without a user: none is known, or there are several.
const (
	noUser       = -1
	severalUsers = -2
)

// denials fold the calls that the kernel refused before it read a byte of the module:
// any user can make as many as they like. The first call of each kind becomes an event
// that counts the others. The zero value is ready for use. The methods must not be
// called concurrently.
type denials struct {
	rows  []kmodquery.Event  // the first call of each kind
	kinds map[deniedKind]int // indexes of rows
	last  eventRef           // the last call that was counted
	due   time.Time          // of the next report; zero if nothing was counted
}

// A deniedKind identifies the calls that are counted together.
type deniedKind struct {
	call, path string
	uid        int64
}

// add counts a denied call. Calls are added in the order in which they begin.
func (d *denials) add(e kmodquery.Event, ref eventRef, now time.Time) {
	if len(d.rows) == 0 {
		d.kinds, d.due = map[deniedKind]int{}, now.Add(foldFor)
	}
	d.last = ref
	kind := deniedKind{call: e.EventName, path: e.ProcessPath, uid: noUser}
	if e.UID != nil {
		kind.uid = *e.UID
	}
	if _, ok := d.kinds[kind]; !ok && len(d.kinds) >= maxDeniedKinds {
		kind, e = deniedKind{call: e.EventName, uid: severalUsers}, anonymous(e)
	}
	if at, ok := d.kinds[kind]; ok {
		*d.rows[at].Count++
		return
	}
	d.kinds[kind] = len(d.rows)
	d.rows = append(d.rows, e)
}

// anonymous returns a denied call without the fields that differ between the calls of
// one system call.
func anonymous(e kmodquery.Event) kmodquery.Event {
	blank := kmodquery.Event{
		Time: e.Time, TimeNanos: e.TimeNanos, Uptime: e.Uptime, BootID: e.BootID,
		EventName: e.EventName, Source: e.Source, Count: e.Count,
		Result: new(-int64(unix.EPERM)), Error: host.ErrnoName(-int64(unix.EPERM)),
	}
	blank.Missing.Add("pid", "uid", "process_path", "cmdline", "container_id")
	return blank
}

// report emits an event for each kind of denied calls since the last report. The last
// of them has the position.
func (d *denials) report(position string, emit func(kmodquery.Delivery)) {
	for i, e := range d.rows {
		delivery := kmodquery.Delivery{Event: e}
		if i == len(d.rows)-1 {
			delivery.Position = position
		}
		emit(delivery)
	}
	*d = denials{}
}
