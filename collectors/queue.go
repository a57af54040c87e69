package collectors

import (
	"reflect"

	"github.com/kmodquery/kmodquery"
)

// A queue holds events in order and can drop the least valuable one.
type queue struct {
	ordinary, unprivileged []queued
	next                   uint64 // number of the next event
	bytes                  int    // of all events, as weigh estimates them
}

// A queued event has a number, so that both kinds leave in one order.
type queued struct {
	number   uint64
	weight   int
	delivery kmodquery.Delivery
}

func (q *queue) len() int { return len(q.ordinary) + len(q.unprivileged) }

func (q *queue) push(d kmodquery.Delivery) {
	entry := queued{number: q.next, weight: weigh(&d), delivery: d}
	q.next++
	q.bytes += entry.weight
	if d.Event.IsUnprivileged() {
		q.unprivileged = append(q.unprivileged, entry)
	} else {
		q.ordinary = append(q.ordinary, entry)
	}
}

// pop removes the oldest event. The queue must not be empty.
func (q *queue) pop() kmodquery.Delivery {
	if len(q.unprivileged) == 0 || len(q.ordinary) > 0 && q.ordinary[0].number < q.unprivileged[0].number {
		return q.take(&q.ordinary)
	}
	return q.take(&q.unprivileged)
}

// drop removes the oldest of the events that unprivileged users can cause, or the
// oldest event if there is none of them.
func (q *queue) drop() (d kmodquery.Delivery, ok bool) {
	switch {
	case len(q.unprivileged) > 0:
		return q.take(&q.unprivileged), true
	case len(q.ordinary) > 0:
		return q.take(&q.ordinary), true
	}
	return kmodquery.Delivery{}, false
}

func (q *queue) take(from *[]queued) kmodquery.Delivery {
	head := (*from)[0]
	(*from)[0].delivery = kmodquery.Delivery{} // the array lives on; its strings need not
	if *from = (*from)[1:]; len(*from) == 0 {
		*from = nil
	}
	q.bytes -= head.weight
	return head.delivery
}

// queuedSize is the size of an event without what it points to.
var queuedSize = int(reflect.TypeFor[queued]().Size())

// weigh estimates the bytes of memory that an event takes.
func weigh(d *kmodquery.Delivery) int {
	bytes := queuedSize + len(d.Position) + len(d.Key)
	value := reflect.ValueOf(&d.Event).Elem()
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
