//go:build linux

package linux

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

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
	NextEpoch() (uint64, error)
	Set() uint64
	DeniedKinds() ([]bpf.DeniedCalls, error)
	Reported(bpf.DeniedCalls) (uint64, error)
	SetReported(bpf.DeniedCalls, uint64) error
	Counters() (bpf.Counters, error)
}

// denials fold the system calls that were refused before the kernel took a
// byte: any user can make as many as they like. The kernel counts them; one of
// each kind is told of and stands for the others. Its methods must not be
// called concurrently.
type denials struct {
	counts deniedCounts
	kinds  map[bpf.DeniedCalls]*denial
	others map[string]uint64 // by system call, those of kinds that found no place: as reported
	due    time.Time         // of the next report
}

// A denial is one kind of denied calls.
type denial struct {
	told     *kmodquery.Event // since the last report; nil where none was
	last     kmodquery.Event  // that was reported
	reported uint64           // how many rows already stand for
	idle     int              // reports in a row without another one
}

func newDenials(counts deniedCounts, now time.Time) *denials {
	return &denials{counts: counts, kinds: map[bpf.DeniedCalls]*denial{}, others: map[string]uint64{}, due: now.Add(foldFor)}
}

// recall goes on with what an earlier process, or run, left: the calls that no row
// stands for, of which only what the programs count them by is known. underway are
// the receipts of rows that are still to be stored. blank is an event that tells of
// no process.
func (d *denials) recall(blank kmodquery.Event, underway []string) error {
	counters, err := d.counts.Counters()
	if err != nil {
		return err
	}
	d.others = counters.Denied
	told := map[bpf.DeniedCalls]uint64{}
	for _, receipt := range underway {
		kind, count, err := standsFor(d.counts, receipt)
		if err != nil {
			return err
		}
		told[kind] = max(told[kind], count)
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
		last.UID, last.EUID = number(kind.UID()), number(kind.EUID())
		last.Result, last.Error = new(-int64(unix.EPERM)), errnoName(-int64(unix.EPERM))
		last.Miss("pid", "process_path", "cmdline")
		d.kinds[kind] = &denial{last: last, reported: max(reported, told[kind])}
	}
	return nil
}

// deniedMark begins the receipt of a row of denied calls.
const deniedMark = "~"

// deniedReceipt names the row that stands for the denied calls of a kind up to a
// number, as a set of programs counts them. A kind that was forgotten is counted
// anew: the epoch tells its rows from those of before.
func deniedReceipt(set, epoch uint64, kind bpf.DeniedCalls, count uint64) string {
	return fmt.Sprintf("%s%016x_%016x_%s_%016x", deniedMark, set, epoch, kind, count)
}

func isDeniedReceipt(receipt string) bool { return strings.HasPrefix(receipt, deniedMark) }

// standsFor returns up to which of the calls that the programs count the row of a
// receipt stands for them: 0 where it tells of anything else, or of calls that
// these programs do not count, or not any more.
func standsFor(counts deniedCounts, receipt string) (kind bpf.DeniedCalls, count uint64, err error) {
	own := fmt.Sprintf("%s%016x_", deniedMark, counts.Set())
	parts := strings.Split(strings.TrimPrefix(receipt, own), "_")
	if !strings.HasPrefix(receipt, own) || len(parts) != 3 {
		return kind, 0, nil
	}
	if kind, err = bpf.ParseDeniedCalls(parts[1]); err != nil {
		return kind, 0, err
	}
	if count, err = strconv.ParseUint(parts[2], 16, 64); err != nil {
		return kind, 0, fmt.Errorf("read receipt %q: %w", receipt, err)
	}
	made, err := counts.CountDenied(kind)
	if err != nil || made < count {
		return kind, 0, err
	}
	return kind, count, nil
}

// keepReported notes, in the kernel, that a row of denied calls is safe. It does
// nothing with the receipts of other events.
func keepReported(counts deniedCounts, receipt string) error {
	kind, count, err := standsFor(counts, receipt)
	if err != nil || count == 0 {
		return err
	}
	reported, err := counts.Reported(kind)
	if err != nil || reported >= count {
		return err
	}
	return counts.SetReported(kind, count)
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
// last report. blank is an event that tells of no process, for those that found
// no place.
func (d *denials) report(now time.Time, blank kmodquery.Event, emit func(kmodquery.Event)) error {
	d.due = now.Add(foldFor)
	// First, so that a call made meanwhile is told of in the next row.
	epoch, err := d.counts.NextEpoch()
	if err != nil {
		return err
	}
	kinds := slices.SortedFunc(maps.Keys(d.kinds), func(a, b bpf.DeniedCalls) int {
		return cmp.Compare(d.kinds[a].time(), d.kinds[b].time())
	})
	for _, kind := range kinds {
		if err := d.reportKind(kind, epoch, blank, emit); err != nil {
			return err
		}
	}
	counters, err := d.counts.Counters()
	if err != nil {
		return err
	}
	for _, call := range slices.Sorted(maps.Keys(counters.Denied)) {
		count := counters.Denied[call]
		if made := count - d.others[call]; made > 0 {
			e := blank
			e.EventName = call
			e.Result, e.Error = new(-int64(unix.EPERM)), errnoName(-int64(unix.EPERM))
			e.Count = new(int64(made))
			e.Miss("pid", "uid", "process_path", "cmdline")
			emit(e)
		}
		d.others[call] = count
	}
	return nil
}

func (d *denials) reportKind(kind bpf.DeniedCalls, epoch uint64, blank kmodquery.Event, emit func(kmodquery.Event)) error {
	known := d.kinds[kind]
	count, err := d.counts.CountDenied(kind)
	if err != nil {
		return err
	}
	if known.write(count, blank, deniedReceipt(d.counts.Set(), epoch, kind, count), emit) {
		known.idle = 0
		return nil
	}
	if known.idle++; known.idle < idleReports {
		return nil
	}
	if count, err = d.counts.ForgetDenied(kind); err != nil {
		return err
	}
	known.write(count, blank, "", emit)
	delete(d.kinds, kind)
	return nil
}

// write emits a row for the calls that no row stands for, and reports whether
// there are any.
func (d *denial) write(count uint64, blank kmodquery.Event, receipt string, emit func(kmodquery.Event)) bool {
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
	e.Count, e.Receipt = new(int64(made)), receipt
	emit(e)
	return true
}

func (d *denial) time() int64 {
	if d.told != nil {
		return d.told.TimeNanos
	}
	return d.last.TimeNanos
}
