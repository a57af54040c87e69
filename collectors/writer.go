package collectors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// maxQueue bounds the events that wait in memory for a sink that takes
	// them. Beyond it the sources wait, and what they read from waits in the
	// kernel.
	maxQueue = 16384
	// maxWaiting and maxWaitingBytes bound what waits for a sink that refuses.
	// Beyond them events are shed.
	maxWaiting      = 65536
	maxWaitingBytes = 64 << 20
	// maxBatch bounds the events given to the sink at once.
	maxBatch = 512
	// firstPause is how long the first batch may gather where its events are older
	// than belated, and lastPause how long after the last one of them: what waited for
	// a recorder comes at once, and one that is killed again and again gets on by
	// whole batches. Others do not wait: the next event may end the kernel.
	firstPause = time.Second
	lastPause  = 100 * time.Millisecond
	belated    = time.Second
	// retryDelay is the pause after a batch that the sink did not take.
	retryDelay = time.Second
)

// A writer brings events to a sink, in order, in batches as large as have
// gathered while the last one was being stored. What the sink refuses stays in
// hand and is offered again, in smaller batches for a sink that has little room.
// While it refuses nobody waits for it: events gather in memory, and beyond the
// bounds the least valuable are shed and counted.
type writer struct {
	sink   Sink
	stored func([]kmodquery.Event) // told of each batch that the sink took
	shed   func([]kmodquery.Event) // told of the events that will never be offered; from any goroutine
	report func(error)

	mu      sync.Mutex
	changed *sync.Cond
	line    line
	hand    []kmodquery.Event // the oldest, in the sink's hands or about to be
	weight  int               // bytes of those in hand
	size    int               // of the next batch
	firstAt time.Time         // when the first event ever put into the line happened
	added   uint64            // events ever put into the line
	settled uint64            // events ever taken by the sink or shed

	failure error            // of the last batch; nil once a batch was taken
	cause   error            // of the last failure; nil once nothing waits any more
	told    map[string]bool  // reasons that were reported since then
	lost    map[string]int64 // events that were shed, by source

	closing bool // nothing is added any more
}

func newWriter(sink Sink, stored, shed func([]kmodquery.Event), report func(error)) *writer {
	w := &writer{
		sink: sink, stored: stored, shed: shed, report: report, size: maxBatch,
		told: map[string]bool{}, lost: map[string]int64{},
	}
	w.changed = sync.NewCond(&w.mu)
	return w
}

// add queues an event. While the queue is full it waits for a sink that takes
// events, and makes room for one that refuses.
func (w *writer) add(e kmodquery.Event) {
	w.mu.Lock()
	weight := weigh(&e)
	for w.failure == nil && w.waiting() > 0 && (w.waiting() >= maxQueue || w.bytes()+weight > maxWaitingBytes) {
		w.changed.Wait()
	}
	w.line.push(e)
	if w.added++; w.added == 1 {
		w.firstAt = time.Unix(0, e.TimeNanos)
	}
	var shed []kmodquery.Event
	for w.failure != nil && (w.waiting() > maxWaiting || w.bytes() > maxWaitingBytes) {
		least, ok := w.line.shed()
		if !ok {
			break // all is in hand
		}
		w.settled++
		w.lost[least.Source]++
		shed = append(shed, least)
	}
	w.changed.Broadcast()
	w.mu.Unlock()
	if len(shed) > 0 {
		w.shed(shed)
	}
}

func (w *writer) waiting() int { return len(w.hand) + w.line.len() }

func (w *writer) bytes() int { return w.weight + w.line.bytes }

// run gives the queue to the sink until close was called and the queue is
// empty, or the sink refuses what is left.
func (w *writer) run() {
	w.gather()
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
		more, pause := w.settle(len(batch), err)
		if !more {
			return
		}
		if pause {
			time.Sleep(retryDelay)
		}
	}
}

// gather waits for the first event, and if that had waited for this process, for a
// whole batch, as long as they come and no longer than firstPause.
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

// next waits for a batch, the oldest events; it is empty once there is nothing
// left to come.
func (w *writer) next() []kmodquery.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.waiting() == 0 && !w.closing {
		w.changed.Wait()
	}
	if len(w.hand) == 0 {
		for len(w.hand) < maxBatch && w.line.len() > 0 {
			e := w.line.pop()
			w.hand = append(w.hand, e)
			w.weight += weigh(&e)
		}
	}
	return w.hand[:min(len(w.hand), w.size)]
}

// settle notes what became of the batch of n events, and whether to go on, at
// once or after a pause.
func (w *writer) settle(n int, err error) (more, pause bool) {
	w.mu.Lock()
	reason := w.note(n, err)
	if err != nil {
		// A sink with room for a part of the batch takes that, also at the end.
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

// note keeps the books of a batch, and returns what is to be reported of it: a
// failure once a reason, and that the sink takes events again.
func (w *writer) note(n int, err error) (report error) {
	w.failure = err
	if err != nil {
		w.cause = err
		if reason := reasonOf(err); !w.told[reason] {
			w.told[reason] = true
			return fmt.Errorf("store events: %w; they wait in memory", err)
		}
		return nil
	}
	w.settled += uint64(n)
	for i := range w.hand[:n] {
		w.weight -= weigh(&w.hand[i])
	}
	if w.hand = w.hand[n:]; len(w.hand) == 0 {
		w.hand = nil // the batch is the stored callback's
	}
	if w.cause == nil || w.waiting() > 0 {
		return nil // not yet: on a disk that is nearly full now and then one fits
	}
	w.cause = nil
	clear(w.told)
	return fmt.Errorf("the store takes events again; none waits any more, and since the start %s", shedText(w.shedAll()))
}

func (w *writer) shedAll() int64 {
	var all int64
	for _, n := range w.lost {
		all += n
	}
	return all
}

func shedText(n int64) string {
	if n == 1 {
		return "1 was shed"
	}
	return fmt.Sprintf("%d were shed", n)
}

// reasonOf is the part of a sink's error that stays the same while its cause
// does.
func reasonOf(err error) string {
	var refusal interface{ Reason() string }
	if errors.As(err, &refusal) {
		return refusal.Reason()
	}
	return err.Error()
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
	for target := w.added; w.settled < target; w.changed.Wait() {
		if w.failure != nil {
			return w.refused()
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for %d events to be stored: %w", target-w.settled, err)
		}
	}
	return nil
}

func (w *writer) refused() error { return fmt.Errorf("%w: %w", kmodquery.ErrNotStored, w.failure) }

// account adds to what a source says of itself how its events fare.
func (w *writer) account(s *kmodquery.Sensor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Shed = w.lost[s.Source]
	if w.cause != nil {
		s.StoreReason = fmt.Sprintf("%s; %d events wait in memory, %s", reasonOf(w.cause), w.waiting(), shedText(w.shedAll()))
	}
}

// close lets run end once the queue is empty, or with the next refusal.
func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closing = true
	w.changed.Broadcast()
}

// unstored is what run has left behind: the youngest events of each source, so
// that what was stored is no sign that they were.
func (w *writer) unstored() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if left := w.waiting(); left > 0 {
		return fmt.Errorf("store the last %d events: %w", left, w.failure)
	}
	return nil
}
