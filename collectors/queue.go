package collectors

import (
	"reflect"

	"github.com/kmodquery/kmodquery"
)

// A line is a queue of events that can also lose the least valuable of them.
type line struct {
	ordinary, cheap []place
	next            uint64 // number of the next place
	bytes           int    // of all events, as weigh has it
}

// A place is one event's, numbered so that both kinds leave in one order.
type place struct {
	number uint64
	weight int
	event  kmodquery.Event
}

func (l *line) len() int { return len(l.ordinary) + len(l.cheap) }

func (l *line) push(e kmodquery.Event) {
	p := place{number: l.next, weight: weigh(&e), event: e}
	l.next++
	l.bytes += p.weight
	if e.IsCheap() {
		l.cheap = append(l.cheap, p)
	} else {
		l.ordinary = append(l.ordinary, p)
	}
}

// pop takes the event that was pushed first. The line must not be empty.
func (l *line) pop() kmodquery.Event {
	if len(l.cheap) == 0 || len(l.ordinary) > 0 && l.ordinary[0].number < l.cheap[0].number {
		return l.take(&l.ordinary)
	}
	return l.take(&l.cheap)
}

// shed takes the oldest of the events that any user can cause, or of all where
// there is none of those.
func (l *line) shed() (e kmodquery.Event, ok bool) {
	switch {
	case len(l.cheap) > 0:
		return l.take(&l.cheap), true
	case len(l.ordinary) > 0:
		return l.take(&l.ordinary), true
	}
	return kmodquery.Event{}, false
}

func (l *line) take(of *[]place) kmodquery.Event {
	head := (*of)[0]
	(*of)[0].event = kmodquery.Event{} // the slice goes on without it; its texts need not
	if *of = (*of)[1:]; len(*of) == 0 {
		*of = nil
	}
	l.bytes -= head.weight
	return head.event
}

// placeSize is what an event takes whatever it holds.
var placeSize = int(reflect.TypeFor[place]().Size())

// weigh estimates the bytes of memory that an event takes.
func weigh(e *kmodquery.Event) int {
	bytes := placeSize
	value := reflect.ValueOf(e).Elem()
	for i := range value.NumField() {
		field := value.Field(i)
		if field.Kind() == reflect.Pointer {
			if field.IsNil() {
				continue
			}
			field = field.Elem()
			bytes += int(field.Type().Size())
		}
		if field.Kind() == reflect.String {
			bytes += field.Len()
		}
	}
	return bytes
}
