package collectors

import (
	"reflect"

	"github.com/kmodquery/kmodquery"
)

// A queue holds events in order and can drop the least valuable one.
type queue struct {
	ordinary, unprivileged []queued
	next                   uint64 // number of the next event
}

// A queued event has a number, so that both kinds leave in one order.
type queued struct {
	kmodquery.Delivery
	number uint64
	weight int // as weigh estimated it when the event was added
}

func (q *queue) len() int { return len(q.ordinary) + len(q.unprivileged) }

func (q *queue) push(d kmodquery.Delivery, weight int) {
	to := &q.ordinary
	if d.Event.IsUnprivileged() {
		to = &q.unprivileged
	}
	*to = append(*to, queued{Delivery: d, number: q.next, weight: weight})
	q.next++
}

// pop removes the oldest event. The queue must not be empty.
func (q *queue) pop() queued {
	if len(q.unprivileged) == 0 || len(q.ordinary) > 0 && q.ordinary[0].number < q.unprivileged[0].number {
		return take(&q.ordinary)
	}
	return take(&q.unprivileged)
}

// drop removes the oldest of the events that unprivileged users can cause, or the
// oldest event if there is none of them. The queue must not be empty.
func (q *queue) drop() queued {
	if len(q.unprivileged) > 0 {
		return take(&q.unprivileged)
	}
	return take(&q.ordinary)
}

func take(from *[]queued) queued {
	head := (*from)[0]
	(*from)[0] = queued{} // the array lives on; its strings need not
	if *from = (*from)[1:]; len(*from) == 0 {
		*from = nil
	}
	return head
}

// weigh estimates the bytes of memory that an event takes.
func weigh(d *kmodquery.Delivery) int {
	bytes := int(reflect.TypeFor[queued]().Size()) + len(d.Position) + len(d.Key)
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
