package ulog

import (
	"fmt"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// foldTime is the time within which repeated refusals of an extension are
	// folded.
	foldTime = time.Minute
	// maxRefused bounds the extensions that are counted separately within that
	// time: any user can request the load of any number of names.
	maxRefused = 64
)

// refusals folds repeated refusals: the first one of an extension is emitted at
// once, and all others of the next minute as one event with their count.
type refusals struct {
	until  time.Time
	seen   map[string]*kmodquery.Event // folded events by event name, extension and error; nil if there is none yet
	others *kmodquery.Event            // the folded event of all extensions beyond maxRefused
}

func isRefusal(e *kmodquery.Event) bool {
	return e.EventName == kmodquery.EventKextBlocked || e.EventName == kmodquery.EventKextload && e.Result != nil && *e.Result != 0
}

// fold adds a repeated refusal to a folded event. It returns false for any other
// event, which must be emitted.
func (r *refusals) fold(e kmodquery.Event, now time.Time) bool {
	if !isRefusal(&e) {
		return false
	}
	if len(r.seen) == 0 {
		r.seen, r.until = map[string]*kmodquery.Event{}, now.Add(foldTime)
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

// count returns the folded event of one more event. folded may be nil.
func count(folded *kmodquery.Event, e kmodquery.Event) *kmodquery.Event {
	e.Count = new(int64(1))
	if folded != nil {
		*e.Count += *folded.Count
	}
	return &e
}

// due returns when flush must be called, or the zero time if nothing was refused.
func (r *refusals) due() time.Time {
	if len(r.seen) == 0 {
		return time.Time{}
	}
	return r.until
}

// flush returns the folded events. If the minute is over, the next refusal begins a
// new one.
func (r *refusals) flush(now time.Time) []kmodquery.Event {
	var events []kmodquery.Event
	for key, e := range r.seen {
		if e != nil {
			events = append(events, *e)
			r.seen[key] = nil
		}
	}
	if e := r.others; e != nil {
		e.Reason = fmt.Sprintf("more than %d kernel extensions were refused within %v; this event counts this one and others", maxRefused, foldTime)
		events = append(events, *e)
		r.others = nil
	}
	if !now.Before(r.until) {
		r.seen = nil
	}
	return events
}
