package collectors

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// maxQueue bounds the events that wait in memory for the sink. Beyond it
	// the sources wait, and what they read from waits in the kernel.
	maxQueue = 16384
	// maxBatch bounds the events given to the sink at once.
	maxBatch = 512
	// retryDelay is the pause after a batch that the sink did not take.
	retryDelay = time.Second
)

// A writer brings events to a sink, in order, in batches as large as have
// gathered while the last one was being stored. A batch that the sink refuses
// stays at the head of the queue and is offered again.
type writer struct {
	sink   Sink
	stored func([]kmodquery.Event) // told of each batch that the sink took
	report func(error)

	mu      sync.Mutex
	changed *sync.Cond
	queue   []kmodquery.Event
	added   uint64 // events ever put into the queue
	taken   uint64 // events ever taken by the sink
	failure error  // of the last batch; nil once a batch was taken
	refused uint64 // events that found no place while the process was ending

	stopping bool // nobody may wait any more for a sink that refuses
	closing  bool // nothing is added any more
}

func newWriter(sink Sink, stored func([]kmodquery.Event), report func(error)) *writer {
	w := &writer{sink: sink, stored: stored, report: report}
	w.changed = sync.NewCond(&w.mu)
	return w
}

// add queues an event and waits while the queue is full.
func (w *writer) add(e kmodquery.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) >= maxQueue {
		if w.stopping && w.failure != nil {
			w.refused++
			return
		}
		w.changed.Wait()
	}
	w.queue = append(w.queue, e)
	w.added++
	w.changed.Broadcast()
}

// run gives the queue to the sink until close was called and the queue is
// empty, or the sink refuses what is left.
func (w *writer) run() {
	for {
		batch := w.next()
		if len(batch) == 0 {
			return
		}
		// What was seen is stored even while the process is ending.
		err := w.sink.Append(context.Background(), batch)
		if err == nil {
			w.stored(batch)
		}
		if more := w.settle(len(batch), err); !more {
			return
		}
		if err != nil {
			time.Sleep(retryDelay)
		}
	}
}

// next waits for the head of the queue; it is empty once there is nothing left
// to come.
func (w *writer) next() []kmodquery.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) == 0 && !w.closing {
		w.changed.Wait()
	}
	return w.queue[:min(len(w.queue), maxBatch)]
}

// settle notes what became of the batch at the head of the queue, and whether
// to go on.
func (w *writer) settle(n int, err error) (more bool) {
	w.mu.Lock()
	first := err != nil && w.failure == nil
	w.failure = err
	if err == nil {
		w.taken += uint64(n)
		w.queue = w.queue[n:]
		if len(w.queue) == 0 {
			w.queue = nil
		}
	}
	more = err == nil || !w.closing
	w.changed.Broadcast()
	w.mu.Unlock()
	if first {
		w.report(fmt.Errorf("store events: %w; they wait in memory", err))
	}
	return more
}

// sync returns when everything added before the call is stored, or with the
// sink's error when it does not take it.
func (w *writer) sync(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changed.Broadcast()
	})
	defer stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for target := w.added; w.taken < target; w.changed.Wait() {
		if w.failure != nil {
			return fmt.Errorf("events wait to be stored: %w", w.failure)
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for %d events to be stored: %w", target-w.taken, err)
		}
	}
	return nil
}

// refusal is the sink's error while it takes nothing.
func (w *writer) refusal() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure != nil {
		return fmt.Errorf("events wait to be stored: %w", w.failure)
	}
	return nil
}

// stop lets nobody wait any more for a sink that refuses.
func (w *writer) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopping = true
	w.changed.Broadcast()
}

// close lets run end once the queue is empty, or with the next refusal.
func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closing = true
	w.changed.Broadcast()
}

// unstored is what run has left behind.
func (w *writer) unstored() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if left := uint64(len(w.queue)) + w.refused; left > 0 {
		return fmt.Errorf("store the last %d events: %w", left, w.failure)
	}
	return nil
}
