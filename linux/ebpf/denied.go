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
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/host"
)

const (
	// foldFor is the interval between two reports of denied calls. A query causes a
	// report at once.
	foldFor = time.Minute
	// idleReports is the number of reports without a new call after which the kernel's
	// count of a kind is removed.
	idleReports = 5
)

// deniedCounts are the programs' counts of denied calls (bpf.Programs).
type deniedCounts interface {
	NextEpoch()
	DeniedCounts() ([]bpf.DeniedCount, error)
	AckDenied(bpf.DeniedCount)
	ForgetDenied(bpf.DeniedCalls) (uint64, error)
}

// denials folds the system calls that the kernel refused before it took a byte. Any user
// can make any number of them. The programs count the calls of each kind, and send a
// record of the first call after each report. A report emits one row for each kind that
// has new calls: the event of that record, with the number of calls.
//
// The kernel keeps the counts when the process ends. The dedup key of a row has the count
// up to which the row covers the calls, and a later process continues from the keys of the
// stored rows. Each call is therefore in a stored row at least once.
//
// A denials is used by every run of a source. Any goroutine may call ack. The other
// methods must not be called concurrently.
type denials struct {
	due time.Time // time of the next report

	mu     sync.Mutex   // guards the fields below
	counts deniedCounts // nil between two runs
	kinds  map[bpf.DeniedCalls]*denial
}

// A denial is one kind of denied calls. Its counts are those of the kernel's count that
// began at since (bpf.DeniedCount).
type denial struct {
	event   *kmodquery.Event // of the last known call; nil if none is known
	isNew   bool             // the call was made since the last report
	since   time.Duration
	emitted uint64 // number of calls in emitted rows
	acked   uint64 // number of calls in stored rows
	idle    int    // number of reports since the last new call
}

func newDenials() *denials { return &denials{kinds: map[bpf.DeniedCalls]*denial{}} }

// begin starts a run of the programs. stored are the dedup keys in the event store.
func (d *denials) begin(counts deniedCounts, stored []string, now time.Time) {
	for _, key := range stored {
		d.ack(key)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts, d.due = counts, source.Earliest(d.due, now.Add(foldFor)) // attaching hooks again delays no report
}

// end ends a run, before its programs are closed.
func (d *denials) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts = nil
}

// deniedMark is the prefix of the dedup keys of rows of denied calls. A bpf.DeniedCount
// follows.
const deniedMark = "~"

func isOfDenied(key string) bool { return strings.HasPrefix(key, deniedMark) }

// ack notes that the row with a dedup key is stored. It ignores the keys of other events,
// and invalid keys, because the source must run even if the store is damaged.
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
		return // the kernel's count was removed since
	}
	known.reset(c.Since)
	known.acked = max(known.acked, c.Count)
	known.emitted = max(known.emitted, c.Count)
	if d.counts != nil {
		d.counts.AckDenied(c)
	}
}

func (d *denials) of(calls bpf.DeniedCalls) *denial {
	if d.kinds[calls] == nil {
		d.kinds[calls] = &denial{}
	}
	return d.kinds[calls]
}

// reset sets the counts to zero if the kernel has begun another count.
func (d *denial) reset(since time.Duration) {
	if d.since != since {
		d.since, d.emitted, d.acked, d.idle = since, 0, 0, 0
	}
}

// add adds the event of a denied call.
func (d *denials) add(calls bpf.DeniedCalls, e kmodquery.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.of(calls); !known.isNew {
		known.event, known.isNew = &e, true
	}
}

// report emits a row for each kind of calls that has new calls. Every record made until
// read, on the boot clock, was added. blank is an event with only the present time. After
// an error some kinds are not reported.
func (d *denials) report(now time.Time, read time.Duration, blank kmodquery.Event,
	emit func(kmodquery.Delivery)) error {
	d.due = now.Add(foldFor)
	rows, err := d.rows(read, blank)
	slices.SortStableFunc(rows, func(a, b kmodquery.Delivery) int {
		return cmp.Or(cmp.Compare(a.Event.TimeNanos, b.Event.TimeNanos), cmp.Compare(a.Key, b.Key))
	})
	for _, row := range rows { // without the mutex, because emit may wait for an ack
		emit(row)
	}
	return err
}

// rows returns the rows of a report.
func (d *denials) rows(read time.Duration, blank kmodquery.Event) (rows []kmodquery.Delivery, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// Before the counts are read, so that a call made in between sends a record, which
	// the next report uses.
	d.counts.NextEpoch()
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
		switch {
		case known.event == nil && c.Since > read:
			continue // the record may still be in the ring buffer
		case c.Count > known.emitted:
			rows = append(rows, known.row(c, blank, deniedMark+c.String()))
			continue
		}
		known.isNew = false // a row covers the call already
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
			rows = append(rows, known.row(c, blank, "")) // no key: no later process sees this count
		}
		delete(d.kinds, c.DeniedCalls)
	}
	for calls, known := range unlisted {
		if known.idle > idleReports {
			delete(d.kinds, calls) // the count was removed, or its set of programs
		}
	}
	return rows, nil
}

// row returns the row for the calls that no row covers yet.
func (d *denial) row(c bpf.DeniedCount, blank kmodquery.Event, key string) kmodquery.Delivery {
	if d.event == nil {
		d.event = unknownCaller(c.DeniedCalls, blank)
	}
	e := *d.event
	if !d.isNew { // the record was lost; the kind is the same
		e.Time, e.TimeNanos, e.Uptime = blank.Time, blank.TimeNanos, blank.Uptime
	}
	e.Count = new(int64(c.Count - d.emitted))
	d.isNew, d.emitted, d.idle = false, c.Count, 0
	return kmodquery.Delivery{Event: e, Key: key}
}

// unknownCaller returns an event with what the kind of the calls tells about them.
func unknownCaller(calls bpf.DeniedCalls, e kmodquery.Event) *kmodquery.Event {
	e.EventName = calls.Call()
	e.Result, e.Error = new(-int64(unix.EPERM)), host.ErrnoName(-int64(unix.EPERM))
	e.Missing.Add("pid")
	if calls.IsOther() {
		e.Missing.Add("uid")
	} else {
		e.UID, e.EUID = number(calls.UID()), number(calls.EUID())
	}
	e.Missing.Add("process_path", "cmdline", "container_id")
	return &e
}
