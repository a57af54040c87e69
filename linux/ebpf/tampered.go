//go:build linux

package ebpf

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/host"
)

const (
	// filterPause is the shortest interval between two events about filtered records, and
	// between two about changes.
	filterPause = time.Minute
	// maxRanges bounds the ranges of numbers that such an event names.
	maxRanges = 16
)

// tampered emits an event that says how the source was kept from observing.
func (r *reader) tampered(reason string) {
	e := r.translate.blank(host.SinceBoot(), r.clock.BootTime())
	e.EventName, e.Reason = kmodquery.EventSensorTampered, reason
	r.attempts.update(func() { r.attempts.send(nil, kmodquery.Delivery{Event: e}) })
}

// reportFailure emits an event about what a check of the hooks has found, once in a run, and
// once more if only their pins were gone before. That more hooks can be attached is no tampering.
func (r *run) reportFailure(err error) {
	isWorse := errors.Is(r.tampered, bpf.ErrUnpinned) && !errors.Is(err, bpf.ErrUnpinned)
	if r.tampered != nil && !isWorse || errors.Is(err, bpf.ErrMoreHooks) {
		return
	}
	r.tampered = err
	r.reader.tampered(source.OneLine(err))
}

// reportChange emits an event about what another process has changed and a check has restored:
// at once, and then at most every filterPause.
func (r *run) reportChange(err error) {
	r.changed = err
	if now := time.Now(); !now.Before(r.changeDue) {
		r.reader.tampered(source.OneLine(err))
		r.changeDue = now.Add(filterPause)
	}
}

// reportFiltered counts records that did not arrive, and emits an event about them: at
// once, and then at most every filterPause, unless the run ends.
func (r *run) reportFiltered(found []bpf.Filtered, now time.Time) {
	r.source.health.Filtered.Add(int64(min(count(found), math.MaxInt32))) // root can write any number
	r.filtered = append(r.filtered, found...)
	if len(r.filtered) == 0 || now.Before(r.filterDue) && !r.isLast {
		return
	}
	r.reader.tampered(filterReason(r.filtered))
	r.canary.cause(now)
	r.filtered, r.filterDue = nil, now.Add(filterPause)
}

// count returns the number of filtered records.
func count(filtered []bpf.Filtered) (n uint64) {
	for _, f := range filtered {
		n += f.Last - f.First + 1
	}
	return n
}

// filterReason names filtered records, by kind.
func filterReason(filtered []bpf.Filtered) string {
	slices.SortFunc(filtered, func(a, b bpf.Filtered) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.CPU, b.CPU), cmp.Compare(a.First, b.First))
	})
	var ranges []string
	for _, f := range filtered[:min(len(filtered), maxRanges)] {
		numbers := fmt.Sprint(f.First)
		if f.Last > f.First {
			numbers = fmt.Sprintf("%d to %d", f.First, f.Last)
		}
		ranges = append(ranges, fmt.Sprintf("%s %s of processor %d", f.Kind, numbers, f.CPU))
	}
	if more := count(filtered[len(ranges):]); more > 0 {
		ranges = append(ranges, fmt.Sprintf("%d more", more))
	}
	return fmt.Sprintf("%d records that the hooks sent did not arrive, although there was room for them, so code in the kernel filters them: %s",
		count(filtered), strings.Join(ranges, ", "))
}
