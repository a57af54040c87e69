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
	until time.Time
	// seen has the folded events by event name, extension and error, and that of all
	// extensions beyond maxRefused by "". An event is nil if there is none yet.
	seen map[string]*kmodquery.Event
}

// fold adds a repeated refusal to a folded event. It returns false for any other
// event, which must be emitted.
func (r *refusals) fold(e kmodquery.Event, now time.Time) bool {
	if !e.IsUnprivileged() {
		return false
	}
	if len(r.seen) == 0 {
		r.seen, r.until = map[string]*kmodquery.Event{}, now.Add(foldTime)
	}
	key := e.EventName + " " + e.Name + " " + e.Error
	if _, isKnown := r.seen[key]; !isKnown {
		if len(r.seen) < maxRefused {
			r.seen[key] = nil
			return false
		}
		key = ""
	}
	e.Count = new(int64(1))
	if folded := r.seen[key]; folded != nil {
		*e.Count += *folded.Count
	}
	r.seen[key] = &e
	return true
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
		if e == nil {
			continue
		}
		if key == "" {
			e.Reason = fmt.Sprintf("more than %d kernel extensions were refused within %v; "+
				"this event counts this one and others", maxRefused, foldTime)
		}
		events = append(events, *e)
		r.seen[key] = nil
	}
	if !now.Before(r.until) {
		r.seen = nil
	}
	return events
}
