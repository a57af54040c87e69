//go:build linux

package ebpf

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery/linux/host"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

const (
	// foldFor is how long denied calls of one kind are counted before a row
	// tells of them, unless a query asks sooner.
	foldFor = time.Minute
	// idleReports is after how many reports without another call a kind of
	// denied calls is forgotten.
	idleReports = 5
)

// deniedCounts are the counts that the programs keep of denied calls.
type deniedCounts interface {
	CountDenied(bpf.DeniedCalls) (uint64, error)
	ForgetDenied(bpf.DeniedCalls) (uint64, error)
	NextEpoch() error
	DeniedKinds() ([]bpf.DeniedCalls, error)
	Period() string
	CountOf(bpf.ReportedCalls) (uint64, bool)
	Reported(bpf.DeniedCalls) (uint64, error)
	SetReported(bpf.ReportedCalls) error
}

// denials fold the system calls that were refused before the kernel took a
// byte: any user can make as many as they like. The kernel counts them; one of
// each kind is told of and stands for the others. Its methods must not be
// called concurrently.
type denials struct {
	counts deniedCounts
	kinds  map[bpf.DeniedCalls]*denial
	due    time.Time // of the next report
}

// A denial is one kind of denied calls.
type denial struct {
	told     *kmodquery.Event // since the last report; nil where none was
	last     kmodquery.Event  // that was reported
	reported uint64           // how many rows already stand for
	idle     int              // reports in a row without another one
}

func newDenials(counts deniedCounts, now time.Time) *denials {
	return &denials{counts: counts, kinds: map[bpf.DeniedCalls]*denial{}, due: now.Add(foldFor)}
}

// recall goes on with what an earlier process, or run, left: the calls that no row
// stands for, of which only what the programs count them by is known. underway are
// the receipts of rows that are still to be stored. blank is an event that tells of
// no process.
func (d *denials) recall(blank kmodquery.Event, underway []string) error {
	told := map[bpf.DeniedCalls]uint64{}
	for _, receipt := range underway {
		r, ok := parseDeniedReceipt(receipt)
		if !ok {
			continue
		}
		if count, ok := d.counts.CountOf(r); ok {
			told[r.DeniedCalls] = max(told[r.DeniedCalls], count)
		}
	}
	kinds, err := d.counts.DeniedKinds()
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		reported, err := d.counts.Reported(kind)
		if err != nil {
			return err
		}
		last := blank
		last.EventName = kind.Call()
		last.Result, last.Error = new(-int64(unix.EPERM)), host.ErrnoName(-int64(unix.EPERM))
		if kind.IsOther() {
			last.Missing.Add("pid", "uid", "process_path", "cmdline")
		} else {
			last.UID, last.EUID = number(kind.UID()), number(kind.EUID())
			last.Missing.Add("pid", "process_path", "cmdline")
		}
		d.kinds[kind] = &denial{last: last, reported: max(reported, told[kind])}
	}
	return nil
}

// deniedMark begins the receipt of a row of denied calls.
const deniedMark = "~"

// deniedReceipt names the row that stands for the denied calls of a kind up to a
// number of those that were counted in a period.
func deniedReceipt(period string, kind bpf.DeniedCalls, count uint64) string {
	return fmt.Sprintf("%s%s_%s_%016x", deniedMark, period, kind, count)
}

func isOfDenied(receipt string) bool { return strings.HasPrefix(receipt, deniedMark) }

// parseDeniedReceipt is deniedReceipt's inverse. Other receipts are not ok, nor is
// what is none: a damaged store must not keep anything from being watched.
func parseDeniedReceipt(receipt string) (r bpf.ReportedCalls, ok bool) {
	parts := strings.Split(strings.TrimPrefix(receipt, deniedMark), "_")
	if !isOfDenied(receipt) || len(parts) != 3 {
		return r, false
	}
	kind, err := bpf.ParseDeniedCalls(parts[1])
	count, other := strconv.ParseUint(parts[2], 16, 64)
	return bpf.ReportedCalls{DeniedCalls: kind, Period: parts[0], Count: count}, err == nil && other == nil
}

// keepReported notes, in the kernel, that a row of denied calls is safe. It does
// nothing with the receipts of other events.
func keepReported(counts deniedCounts, receipt string) error {
	if r, ok := parseDeniedReceipt(receipt); ok {
		return counts.SetReported(r)
	}
	return nil
}

// add takes the event of a denied call.
func (d *denials) add(kind bpf.DeniedCalls, e kmodquery.Event) {
	known := d.kinds[kind]
	if known == nil {
		known = &denial{}
		d.kinds[kind] = known
	}
	if known.told == nil {
		known.told = &e
	}
}

// report emits a row for each kind of denied calls that were made since the
// last report. blank is an event that tells of no process, for those whose record
// was lost.
func (d *denials) report(now time.Time, blank kmodquery.Event, emit func(kmodquery.Delivery)) error {
	d.due = now.Add(foldFor)
	// First, so that a call made meanwhile is told of in the next row.
	if err := d.counts.NextEpoch(); err != nil {
		return err
	}
	if err := d.forget(blank, emit); err != nil {
		return err
	}
	kinds := slices.SortedFunc(maps.Keys(d.kinds), func(a, b bpf.DeniedCalls) int {
		return cmp.Or(cmp.Compare(d.kinds[a].time(), d.kinds[b].time()), cmp.Compare(a.String(), b.String()))
	})
	for _, kind := range kinds {
		if err := d.reportKind(kind, blank, emit); err != nil {
			return err
		}
	}
	return nil
}

func (d *denials) reportKind(kind bpf.DeniedCalls, blank kmodquery.Event, emit func(kmodquery.Delivery)) error {
	known := d.kinds[kind]
	count, err := d.counts.CountDenied(kind)
	if err != nil {
		return err
	}
	if count > known.reported { // a row may have been on its way when this began
		reported, err := d.counts.Reported(kind)
		if err != nil {
			return err
		}
		known.reported = max(known.reported, reported)
	}
	if known.write(count, blank, deniedReceipt(d.counts.Period(), kind, count), emit) {
		known.idle = 0
	} else {
		known.idle++
	}
	return nil
}

// forget makes room for other kinds than those of which nothing has come for
// long. It waits until every row is safe, and comes before those of a report: with
// it a period ends, and of another one's receipts nothing is kept.
func (d *denials) forget(blank kmodquery.Event, emit func(kmodquery.Delivery)) error {
	var idle []bpf.DeniedCalls
	for kind, known := range d.kinds {
		if known.idle >= idleReports && !kind.IsOther() {
			idle = append(idle, kind)
		}
	}
	if len(idle) == 0 {
		return nil
	}
	for kind, known := range d.kinds {
		if reported, err := d.counts.Reported(kind); err != nil || reported < known.reported {
			return err
		}
	}
	for _, kind := range idle {
		known := d.kinds[kind]
		count, err := d.counts.CountDenied(kind)
		if err != nil {
			return err
		}
		if count > known.reported {
			continue
		}
		if count, err = d.counts.ForgetDenied(kind); err != nil {
			return err
		}
		known.write(count, blank, "", emit)
		delete(d.kinds, kind)
	}
	return nil
}

// write emits a row for the calls that no row stands for, and reports whether
// there are any.
func (d *denial) write(count uint64, blank kmodquery.Event, receipt string, emit func(kmodquery.Delivery)) bool {
	if count <= d.reported {
		if d.told != nil { // a row already stands for it
			d.last, d.told = *d.told, nil
		}
		return false
	}
	made := count - d.reported
	if d.told != nil {
		d.last = *d.told
	} else {
		// The record of the first was lost: the others were like the last.
		d.last.Time, d.last.TimeNanos, d.last.Uptime = blank.Time, blank.TimeNanos, blank.Uptime
	}
	d.told, d.reported = nil, count
	e := d.last
	e.Count = new(int64(made))
	emit(kmodquery.Delivery{Event: e, Key: receipt})
	return true
}

func (d *denial) time() int64 {
	if d.told != nil {
		return d.told.TimeNanos
	}
	return d.last.TimeNanos
}
