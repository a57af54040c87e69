//go:build linux

package audit

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/host"
)

// maxDeniedKinds bounds the kinds of denied calls that are kept apart between
// two reports.
const maxDeniedKinds = 256

// foldFor is how long denied calls of one kind are counted before a row reports
// them.
const foldFor = time.Minute

// denials fold the calls that the kernel refused before it took a byte, as
// denials do those that the eBPF programs see: any user can make as many as they
// like. The first of each kind is told of and stands for the others. The zero
// value is ready; the methods must not be called concurrently.
type denials struct {
	kinds  map[deniedKind]int // places in told
	told   []kmodquery.Event  // the first of each kind, in their order
	others map[string]int     // by system call, those of kinds that found no place: places in told
	first  emitted            // that no row stands for
	due    time.Time          // of the next report
}

// A deniedKind is a kind of denied calls.
type deniedKind struct {
	call, path string
	uid        int64
}

// add takes a denied call.
func (d *denials) add(e kmodquery.Event, told emitted, now time.Time) {
	if len(d.told) == 0 {
		d.kinds, d.others = map[deniedKind]int{}, map[string]int{}
		d.first, d.due = told, now.Add(foldFor)
	}
	kind := deniedKind{call: e.EventName, path: e.ProcessPath, uid: -1}
	if e.UID != nil {
		kind.uid = *e.UID
	}
	if at, ok := d.kinds[kind]; ok {
		*d.told[at].Count++
		return
	}
	if len(d.kinds) < maxDeniedKinds {
		d.kinds[kind] = len(d.told)
		d.told = append(d.told, e)
		return
	}
	if at, ok := d.others[e.EventName]; ok {
		*d.told[at].Count++
		return
	}
	d.others[e.EventName] = len(d.told)
	d.told = append(d.told, anonymous(e))
}

// anonymous is a denied call of which no more is said than what holds for all.
func anonymous(e kmodquery.Event) kmodquery.Event {
	blank := kmodquery.Event{
		Time: e.Time, TimeNanos: e.TimeNanos, Uptime: e.Uptime, BootID: e.BootID,
		EventName: e.EventName, Source: e.Source, Count: e.Count,
		Result: new(-int64(unix.EPERM)), Error: host.ErrnoName(-int64(unix.EPERM)),
	}
	blank.Missing.Add("pid", "uid", "process_path", "cmdline")
	return blank
}

// report emits a row for each kind of denied calls that were made since the last
// report, the last of them with the position.
func (d *denials) report(position string, emit func(kmodquery.Delivery)) {
	for i, e := range d.told {
		delivery := kmodquery.Delivery{Event: e}
		if i == len(d.told)-1 {
			delivery.Position = position
		}
		emit(delivery)
	}
	*d = denials{}
}

// oldest is the first call that no row tells of, and when one will at the
// latest. It is not ok where there is none.
func (d *denials) oldest() (first emitted, due time.Time, ok bool) {
	return d.first, d.due, len(d.told) > 0
}
