//go:build linux

package ebpf

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/host"
)

const (
	// foldFor is the interval between two rows about denied calls of one kind,
	// unless a query asks sooner.
	foldFor = time.Minute
	// idleReports is the number of reports without another call after which the
	// count of a kind is ended.
	idleReports = 5
)

// deniedCounts are the programs' counts of denied calls (bpf.Programs).
type deniedCounts interface {
	NextEpoch()
	DeniedCounts() ([]bpf.DeniedCount, error)
	AckDenied(bpf.DeniedCount)
	ForgetDenied(bpf.DeniedCalls) (uint64, error)
}

// denials folds the system calls that were refused before the kernel took a byte:
// any user can make as many as they like. The programs count them and send the
// record of one of each kind; a report turns that record and the count into one
// row. The counts stay in the kernel, and the dedup key of a stored row says which
// count it covers, so each call is in a stored row at least once. A denials
// outlives the programs. Its methods may be called concurrently, except begin, add
// and report.
type denials struct {
	due time.Time // time of the next report

	mu     sync.Mutex   // guards what follows
	counts deniedCounts // nil between two runs
	kinds  map[bpf.DeniedCalls]*denial
}

// A denial is one kind of denied calls.
type denial struct {
	first *kmodquery.Event // first event since the last report; nil if there was none
	last  *kmodquery.Event // event of the last row; nil if there was none

	since          time.Duration // DeniedCount.Since of what follows
	emitted, acked uint64        // counts that rows, and stored rows, cover
	idle           int           // reports in a row without another call
}

func newDenials() *denials { return &denials{kinds: map[bpf.DeniedCalls]*denial{}} }

// begin continues with the counts of a run of the programs. stored are the dedup
// keys in the event store.
func (d *denials) begin(counts deniedCounts, stored []string, now time.Time) {
	for _, key := range stored {
		d.ack(key)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts, d.due = counts, now.Add(foldFor)
}

// end notes that the programs are closed.
func (d *denials) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts = nil
}

// deniedMark begins the dedup key of a row of denied calls.
const deniedMark = "~"

func isOfDenied(key string) bool { return strings.HasPrefix(key, deniedMark) }

// deniedKey is the dedup key of the row that covers the calls up to a count.
func deniedKey(c bpf.DeniedCount) string { return deniedMark + c.String() }

// ack notes that the row with a dedup key is stored. It ignores the keys of other
// events, and keys that it cannot read: a damaged store must not keep the source
// from running.
func (d *denials) ack(key string) {
	text, ok := strings.CutPrefix(key, deniedMark)
	c, err := bpf.ParseDeniedCount(text)
	if !ok || err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.of(c.DeniedCalls)
	if known.since > c.Since {
		return // an earlier count of the same calls
	}
	known.reset(c.Since)
	known.acked = max(known.acked, c.Count)
	known.emitted = max(known.emitted, c.Count)
	if d.counts != nil {
		d.counts.AckDenied(c)
	}
}

func (d *denials) of(calls bpf.DeniedCalls) *denial {
	known := d.kinds[calls]
	if known == nil {
		known = &denial{}
		d.kinds[calls] = known
	}
	return known
}

// reset makes the counts those of the calls since a moment.
func (d *denial) reset(since time.Duration) {
	if d.since != since {
		d.since, d.emitted, d.acked, d.idle = since, 0, 0, 0
	}
}

// add takes the event of a denied call.
func (d *denials) add(calls bpf.DeniedCalls, e kmodquery.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.of(calls); known.first == nil {
		known.first = &e
	}
}

// report emits a row for each kind of denied calls that were made since the last
// report. The records of what happened until read, on the boot clock, were added.
// blank is an event without a process, for kinds whose record was lost.
func (d *denials) report(now time.Time, read time.Duration, blank kmodquery.Event, emit func(kmodquery.Delivery)) error {
	d.due = now.Add(foldFor)
	rows, err := d.rows(read, blank)
	slices.SortStableFunc(rows, func(a, b kmodquery.Delivery) int {
		return cmp.Or(cmp.Compare(a.Event.TimeNanos, b.Event.TimeNanos), cmp.Compare(a.Key, b.Key))
	})
	for _, row := range rows { // without the lock: emit may wait for a call of ack
		emit(row)
	}
	return err
}

// rows returns those of a report. After an error they are those of some kinds.
func (d *denials) rows(read time.Duration, blank kmodquery.Event) (rows []kmodquery.Delivery, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts.NextEpoch() // first, so that the record of a call made meanwhile is in the next row
	counts, err := d.counts.DeniedCounts()
	if err != nil {
		return nil, err
	}
	unlisted := maps.Clone(d.kinds)
	for _, known := range d.kinds {
		known.idle++
	}
	for _, c := range counts {
		known := d.of(c.DeniedCalls)
		known.reset(c.Since)
		delete(unlisted, c.DeniedCalls)
		if known.hasNoRecord() && c.Since > read {
			continue // it may be in the ring still
		}
		if c.Count > known.emitted {
			rows = append(rows, known.row(c, blank, deniedKey(c)))
			continue
		}
		if known.first != nil { // an earlier row covers it
			known.last, known.first = known.first, nil
		}
		if known.acked < c.Count {
			continue
		}
		d.counts.AckDenied(c)
		if known.idle <= idleReports || c.IsOther() {
			continue
		}
		if c.Count, err = d.counts.ForgetDenied(c.DeniedCalls); err != nil {
			return rows, err
		}
		if c.Count > known.emitted {
			rows = append(rows, known.row(c, blank, "")) // no count is left that would repeat it
		}
		delete(d.kinds, c.DeniedCalls)
	}
	for calls, known := range unlisted {
		if known.idle > idleReports {
			delete(d.kinds, calls) // its count was ended, or its set of programs is gone
		}
	}
	return rows, nil
}

func (d *denial) hasNoRecord() bool { return d.first == nil && d.last == nil }

// row is the event for the calls that no row covers yet.
func (d *denial) row(c bpf.DeniedCount, blank kmodquery.Event, key string) kmodquery.Delivery {
	switch {
	case d.first != nil:
		d.last = d.first
	case d.last == nil:
		d.last = unknownCaller(c.DeniedCalls, blank)
	default: // the record was lost; the others were like the last
		d.last.Time, d.last.TimeNanos, d.last.Uptime = blank.Time, blank.TimeNanos, blank.Uptime
	}
	e := *d.last
	e.Count = new(int64(c.Count - d.emitted))
	d.first, d.emitted, d.idle = nil, c.Count, 0
	return kmodquery.Delivery{Event: e, Key: key}
}

// unknownCaller is the event of calls of which no record is known.
func unknownCaller(calls bpf.DeniedCalls, e kmodquery.Event) *kmodquery.Event {
	e.EventName = calls.Call()
	e.Result, e.Error = new(-int64(unix.EPERM)), host.ErrnoName(-int64(unix.EPERM))
	if calls.IsOther() {
		e.Missing.Add("pid", "uid", "process_path", "cmdline")
	} else {
		e.UID, e.EUID = number(calls.UID()), number(calls.EUID())
		e.Missing.Add("pid", "process_path", "cmdline")
	}
	return &e
}
