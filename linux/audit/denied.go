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

// denials fold the calls that the kernel refused before it read a byte of the module:
// any user can make as many as they like. The first call of each kind becomes an event
// that counts the others. The zero value is ready for use. The methods must not be
// called concurrently.
type denials struct {
	rows   []kmodquery.Event  // the first call of each kind
	kinds  map[deniedKind]int // indexes of rows
	others map[string]int     // indexes of rows for further kinds, by system call
	first  eventRef           // the oldest call in rows
	due    time.Time          // of the next report
}

// A deniedKind identifies the calls that are counted together.
type deniedKind struct {
	call, path string
	uid        int64
}

// add counts a denied call.
func (d *denials) add(e kmodquery.Event, ref eventRef, now time.Time) {
	if len(d.rows) == 0 {
		d.kinds, d.others = map[deniedKind]int{}, map[string]int{}
		d.first, d.due = ref, now.Add(foldFor)
	}
	kind := deniedKind{call: e.EventName, path: e.ProcessPath, uid: -1}
	if e.UID != nil {
		kind.uid = *e.UID
	}
	if at, ok := d.kinds[kind]; ok {
		*d.rows[at].Count++
		return
	}
	if len(d.kinds) < maxDeniedKinds {
		d.kinds[kind] = len(d.rows)
		d.rows = append(d.rows, e)
		return
	}
	if at, ok := d.others[e.EventName]; ok {
		*d.rows[at].Count++
		return
	}
	d.others[e.EventName] = len(d.rows)
	d.rows = append(d.rows, anonymous(e))
}

// anonymous returns a denied call without the fields that differ between the calls of
// one system call.
func anonymous(e kmodquery.Event) kmodquery.Event {
	blank := kmodquery.Event{
		Time: e.Time, TimeNanos: e.TimeNanos, Uptime: e.Uptime, BootID: e.BootID,
		EventName: e.EventName, Source: e.Source, Count: e.Count,
		Result: new(-int64(unix.EPERM)), Error: host.ErrnoName(-int64(unix.EPERM)),
	}
	blank.Missing.Add("pid", "uid", "process_path", "cmdline")
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

// oldest returns the oldest call that was not reported, and when the next report is
// due. ok is false if there is no such call.
func (d *denials) oldest() (first eventRef, due time.Time, ok bool) {
	return d.first, d.due, len(d.rows) > 0
}
