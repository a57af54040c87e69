package source

import "time"

// A Barrier groups the Sync calls that a run loop serves into rounds. A round
// begins with all calls that wait at that time and ends when the loop has emitted
// every record that existed then. Calls that come during a round wait for the next
// one. Only the goroutine of the run loop may use a Barrier:
//
//	sync := health.NewBarrier(2 * time.Second)
//	defer sync.Release()
//	for {
//		sync.Begin()
//		// read the records there are and emit their events
//		if sync.IsDue(quiet) {
//			// emit what was held back
//			sync.Release()
//		}
//		// wait for a record, for health.Requests() or until sync.Due(quiet)
//	}
//
// In this loop quiet is the time at which the source considers everything read,
// or the zero time as long as it knows that there is more.
type Barrier struct {
	health  *Health
	limit   time.Duration
	pending Pending
	began   time.Time // zero between rounds
}

// NewBarrier returns a barrier whose rounds take no longer than limit, whatever the
// source still has to read.
func (h *Health) NewBarrier(limit time.Duration) *Barrier {
	return &Barrier{health: h, limit: limit}
}

// Begin begins a round if a Sync call waits and no round is in progress. The run loop
// calls it once each time round, so it also counts as [Health.Progress].
func (b *Barrier) Begin() {
	b.health.Progress()
	if !b.began.IsZero() {
		return
	}
	if b.pending = b.health.TakePending(); len(b.pending) > 0 {
		b.began = time.Now()
	}
}

// BeginLast is Begin for the last round of a run: it begins also if no Sync call waits.
func (b *Barrier) BeginLast() {
	if b.Begin(); b.began.IsZero() {
		b.began = time.Now()
	}
}

// Restart begins the current round again, for the same calls.
func (b *Barrier) Restart() { b.began = time.Now() }

// Began returns the time at which the current round began, or the zero time.
func (b *Barrier) Began() time.Time { return b.began }

// Due returns when the current round ends: at quiet, and no later than the
// limit after its beginning. It returns the zero time between rounds.
func (b *Barrier) Due(quiet time.Time) time.Time {
	if b.began.IsZero() {
		return time.Time{}
	}
	return Earliest(quiet, b.began.Add(b.limit))
}

// IsDue reports whether the current round must end now.
func (b *Barrier) IsDue(quiet time.Time) bool {
	due := b.Due(quiet)
	return !due.IsZero() && !time.Now().Before(due)
}

// Release ends the current round: its Sync calls return. It does nothing between
// rounds.
func (b *Barrier) Release() {
	b.pending.Release()
	b.pending, b.began = nil, time.Time{}
}

// Earliest returns the first of the times, or the zero time if there is none. It
// ignores zero times.
func Earliest(times ...time.Time) time.Time {
	var first time.Time
	for _, t := range times {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}
