package collectors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/progress"
)

const (
	// maxQueue bounds the events that wait in memory for a sink that accepts
	// events. Beyond it the sources block, and their records wait in the kernel.
	maxQueue = 16384
	// maxWaiting and maxWaitingBytes bound the events that wait for a sink that
	// refuses them. Beyond these bounds events are dropped.
	maxWaiting      = 65536
	maxWaitingBytes = 64 << 20
	// maxBatch bounds the events of one Append.
	maxBatch = 512
	// The first batch is delayed if its first event is older than belated: until it
	// is full, no event came for lastPause, or firstPause is over. The kernel hands
	// over at once what happened while no recorder ran, and a recorder that is
	// killed again and again advances by full batches. Later batches are not
	// delayed: the kernel may crash after any event.
	firstPause = time.Second
	lastPause  = 100 * time.Millisecond
	belated    = time.Second
	// retryDelay is the pause after an Append that failed.
	retryDelay = time.Second
)

// A writer appends events to a sink in order. A batch holds the events that arrived
// while the last one was being stored. A batch that the sink refuses is offered again,
// in smaller parts if the sink has little room. While the sink refuses, no caller
// waits for it: events gather in memory, and beyond the bounds the least valuable are
// dropped and counted.
type writer struct {
	sink    Sink
	stored  func([]kmodquery.Delivery) // called with each stored batch
	dropped func([]kmodquery.Delivery) // called with the events that are dropped, from any goroutine
	report  func(error)

	mu       sync.Mutex
	changed  *sync.Cond
	queue    queue
	inFlight []queued  // the oldest events, given to the sink or next in turn
	bytes    int       // of all events that wait, as weigh estimates them
	size     int       // of the next batch
	firstAt  time.Time // when the first event ever added happened
	added    uint64    // events ever added
	acked    uint64    // events ever stored or dropped

	offered  time.Time        // when the sink was given the batch that it has, or zero
	late     time.Time        // when a sync last gave up waiting, or zero
	failure  error            // of the last batch; nil if it was stored
	cause    error            // of the last failure; nil once no event waits
	reported map[string]bool  // reasons that were reported since then
	drops    map[string]int64 // dropped events, by source

	closing bool // no event is added any more
}

func newWriter(sink Sink, stored, dropped func([]kmodquery.Delivery), report func(error)) *writer {
	w := &writer{
		sink: sink, stored: stored, dropped: dropped, report: report, size: maxBatch,
		reported: map[string]bool{}, drops: map[string]int64{},
	}
	w.changed = sync.NewCond(&w.mu)
	return w
}

// add queues an event. If the queue is full, it blocks while the sink accepts events
// and drops events while the sink refuses them.
func (w *writer) add(d kmodquery.Delivery) {
	w.mu.Lock()
	weight := weigh(&d)
	for w.failure == nil && w.waiting() > 0 &&
		(w.waiting() >= maxQueue || w.bytes+weight > maxWaitingBytes) {
		w.changed.Wait()
	}
	w.queue.push(d, weight)
	w.bytes += weight
	if w.added++; w.added == 1 {
		w.firstAt = time.Unix(0, d.Event.TimeNanos)
	}
	var dropped []kmodquery.Delivery
	for w.failure != nil && w.queue.len() > 0 &&
		(w.waiting() > maxWaiting || w.bytes > maxWaitingBytes) {
		least := w.queue.drop()
		w.bytes -= least.weight
		w.acked++
		w.drops[least.Event.Source]++
		dropped = append(dropped, least.Delivery)
	}
	w.changed.Broadcast()
	w.mu.Unlock()
	if len(dropped) > 0 {
		w.dropped(dropped)
	}
}

func (w *writer) waiting() int { return len(w.inFlight) + w.queue.len() }

// run stores the events until close was called and no event is left, or the sink
// refuses the rest.
func (w *writer) run() {
	w.gather()
	for {
		batch := w.next()
		if len(batch) == 0 {
			return
		}
		// The events are stored even while the process is ending.
		err := w.sink.Append(context.Background(), batch)
		if err == nil {
			w.stored(batch)
		}
		more, pause := w.finish(len(batch), err)
		if !more {
			return
		}
		if pause {
			time.Sleep(retryDelay)
		}
	}
}

// gather waits for the first event and delays the first batch; see firstPause.
func (w *writer) gather() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.waiting() == 0 && !w.closing {
		w.changed.Wait()
	}
	if time.Since(w.firstAt) < belated {
		return
	}
	late := false
	end := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		late = true
		w.changed.Broadcast()
	}
	defer time.AfterFunc(firstPause, end).Stop()
	quiet := time.AfterFunc(lastPause, end)
	defer quiet.Stop()
	for w.waiting() < maxBatch && !w.closing && !late {
		w.changed.Wait()
		quiet.Reset(lastPause)
	}
}

// next waits for events and returns the oldest ones. It returns none once the writer is
// closed and no event is left.
func (w *writer) next() []kmodquery.Delivery {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.waiting() == 0 && !w.closing {
		w.changed.Wait()
	}
	if len(w.inFlight) == 0 {
		for len(w.inFlight) < maxBatch && w.queue.len() > 0 {
			w.inFlight = append(w.inFlight, w.queue.pop())
		}
	}
	batch := make([]kmodquery.Delivery, min(len(w.inFlight), w.size))
	for i := range batch {
		batch[i] = w.inFlight[i].Delivery
	}
	if len(batch) > 0 {
		w.offered = time.Now()
	}
	return batch
}

// finish takes the result of a batch of n events. It returns whether to go on, and
// whether to pause before.
func (w *writer) finish(n int, err error) (more, pause bool) {
	w.mu.Lock()
	reason := w.note(n, err)
	if err != nil {
		// A sink may have room for a part of the batch, also when closing.
		more = !w.closing || n > 1
		pause = !w.closing && n == 1
		w.size = max(1, n/2)
	} else {
		more = true
		w.size = min(maxBatch, w.size+w.size/4+1)
	}
	w.changed.Broadcast()
	w.mu.Unlock()
	if reason != nil {
		w.report(reason)
	}
	return more, pause
}

// note counts a batch. It returns what to report: each failure once a reason, and that
// the sink accepts events again.
func (w *writer) note(n int, err error) (report error) {
	w.failure, w.offered = err, time.Time{}
	if err != nil {
		w.cause = err
		if reason := reasonOf(err); !w.reported[reason] {
			w.reported[reason] = true
			return fmt.Errorf("store events: %w; they wait in memory", err)
		}
		return nil
	}
	w.acked += uint64(n)
	for i := range w.inFlight[:n] {
		w.bytes -= w.inFlight[i].weight
	}
	w.inFlight = slices.Delete(w.inFlight, 0, n)
	if w.cause == nil || w.waiting() > 0 {
		return nil // on a disk that is nearly full one batch may fit now and then
	}
	w.cause = nil
	clear(w.reported)
	return fmt.Errorf("the store takes events again; none waits any more, and since the start %s", w.dropsText())
}

func (w *writer) dropsText() string {
	var all int64
	for _, n := range w.drops {
		all += n
	}
	if all == 1 {
		return "1 was dropped"
	}
	return fmt.Sprintf("%d were dropped", all)
}

// reasonOf returns the part of a sink's error that depends on its cause only.
func reasonOf(err error) string {
	var refusal interface{ Reason() string }
	if errors.As(err, &refusal) {
		return refusal.Reason()
	}
	return err.Error()
}

// sync returns when the events that were added before the call are stored, or with the
// sink's error if the sink refuses them.
func (w *writer) sync(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changed.Broadcast()
	})
	defer stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for target := w.added; w.acked < target; w.changed.Wait() {
		if w.failure != nil {
			return fmt.Errorf("%w: %w", kmodquery.ErrNotStored, w.failure)
		}
		if err := ctx.Err(); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				w.late = time.Now()
			}
			return fmt.Errorf("wait for %d events to be stored: %w", target-w.acked, err)
		}
	}
	w.late = time.Time{}
	return nil
}

// describe adds to a source's sensor what became of its events.
func (w *writer) describe(s *kmodquery.Sensor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Shed += w.drops[s.Source]
	waiting := fmt.Sprintf("%d events wait in memory, %s", w.waiting(), w.dropsText())
	switch {
	case w.cause != nil:
		s.StoreReason = fmt.Sprintf("%s; %s", reasonOf(w.cause), waiting)
	case !w.offered.IsZero() && time.Since(w.offered) >= progress.Limit:
		s.StoreReason = fmt.Sprintf("it has not answered since %s; restart kmodquery if it does not recover; %s", timeText(w.offered), waiting)
	case !w.late.IsZero():
		s.StoreReason = fmt.Sprintf("a query at %s did not get its last events in time; %s", timeText(w.late), waiting)
	}
}

// close makes run return once no event is left, or when the sink refuses one.
func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closing = true
	w.changed.Broadcast()
}

// ackedEvents returns how many events were ever stored or dropped.
func (w *writer) ackedEvents() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked
}

// unstored returns an error if run has left events behind. They are the youngest of
// each source, so no stored event implies that one of them was stored.
func (w *writer) unstored() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := w.waiting()
	switch {
	case left == 0:
		return nil
	case w.failure == nil:
		return fmt.Errorf("store the last %d events: the store does not answer", left)
	}
	return fmt.Errorf("store the last %d events: %w", left, w.failure)
}
