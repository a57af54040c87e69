package ulog

import (
	"fmt"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// refusedEvery is how often a refusal of the same extension is a row.
	refusedEvery = time.Minute
	// maxRefused bounds the extensions whose refusals are told apart within that
	// time: anybody may ask for as many as they can name.
	maxRefused = 64
)

// refusals fold what is refused again and again: the first is a row at once, and
// the others of the next minute are one row with their count.
type refusals struct {
	until  time.Time
	seen   map[string]*kmodquery.Event // the folded ones by what they have in common; nil where there are none
	others *kmodquery.Event            // of more extensions than are told apart
}

func isRefusal(e *kmodquery.Event) bool {
	return e.EventName == kmodquery.EventKextBlocked || e.EventName == kmodquery.EventKextload && e.Result != nil && *e.Result != 0
}

// fold takes an event into a later row, or returns false.
func (r *refusals) fold(e kmodquery.Event, now time.Time) bool {
	if !isRefusal(&e) {
		return false
	}
	if len(r.seen) == 0 {
		r.seen, r.until = map[string]*kmodquery.Event{}, now.Add(refusedEvery)
	}
	key := e.EventName + " " + e.Name + " " + e.Error
	folded, isKnown := r.seen[key]
	switch {
	case isKnown:
		r.seen[key] = count(folded, e)
	case len(r.seen) < maxRefused:
		r.seen[key] = nil
		return false
	default:
		r.others = count(r.others, e)
	}
	return true
}

// count makes of a folded row and one more event the row for both.
func count(folded *kmodquery.Event, e kmodquery.Event) *kmodquery.Event {
	e.Count = new(int64(1))
	if folded != nil {
		*e.Count += *folded.Count
	}
	return &e
}

// next is when flush must be called; the zero time where nothing waits.
func (r *refusals) next() time.Time {
	if len(r.seen) == 0 {
		return time.Time{}
	}
	return r.until
}

// flush returns the rows of what was folded. The minute begins anew with the next
// refusal if it is over.
func (r *refusals) flush(now time.Time) []kmodquery.Event {
	var rows []kmodquery.Event
	for key, e := range r.seen {
		if e != nil {
			rows = append(rows, *e)
			r.seen[key] = nil
		}
	}
	if e := r.others; e != nil {
		e.Reason = fmt.Sprintf("more than %d kernel extensions were refused within %v, this one and others; the others are in count only", maxRefused, refusedEvery)
		rows = append(rows, *e)
		r.others = nil
	}
	if !now.Before(r.until) {
		r.seen = nil
	}
	return rows
}
