package osqueryhost

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"
)

// A worker is one run of osqueryd's worker process. The tables that extensions registered,
// their connections and the worker's SQLite end with it.
type worker struct {
	host     *Host
	registry *registry
	server   *server
	engine   engine
	ctx      context.Context // ends when the worker does, with the reason
	cancel   context.CancelCauseFunc
	gone     chan struct{} // closed when it has left its socket
	once     sync.Once     // closes gone

	mu    sync.Mutex
	cells int64 // that running queries hold
}

func newWorker(h *Host) *worker {
	w := &worker{host: h, registry: newRegistry(), gone: make(chan struct{})}
	w.ctx, w.cancel = context.WithCancelCause(context.Background())
	w.registry.core = coreTables(w)
	return w
}

// listen lets extensions connect.
func (w *worker) listen() (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		return nil // it was killed before it began to serve
	}
	w.server, err = listen(w.host.options.Socket, &manager{worker: w})
	return err
}

// leave ends the worker's connections and releases its SQLite. It may be called twice.
func (w *worker) leave() error {
	defer w.once.Do(func() { close(w.gone) })
	w.mu.Lock()
	server := w.server
	w.mu.Unlock()
	var err error
	if server != nil {
		err = server.close()
	}
	w.engine.close()
	return err
}

// A supervision is the state of the watcher process (WatcherRunner, watcher.cpp).
type supervision struct {
	mu        sync.Mutex
	worker    *worker   // the latest one, running or not
	spawned   time.Time // when it started; zero if before the clock was set
	due       time.Time // when the next one may start
	restarts  int       // that were too quick
	report    WatchdogReport
	ended     error // why osqueryd itself ended
	closed    bool
	replacing sync.WaitGroup
}

var errNoWorker = errors.New("osqueryd's worker is not running")

func (h *Host) worker() *worker {
	h.supervision.mu.Lock()
	defer h.supervision.mu.Unlock()
	return h.supervision.worker
}

// running returns the worker, after starting the next one if it is due. It fails while
// there is none.
func (h *Host) running() (*worker, error) {
	w := h.worker()
	if w.ctx.Err() != nil {
		<-w.gone
		h.respawn()
		w = h.worker()
	}
	h.supervision.mu.Lock()
	defer h.supervision.mu.Unlock()
	switch {
	case h.supervision.ended != nil:
		return nil, h.supervision.ended
	case w.ctx.Err() != nil:
		return nil, errNoWorker
	}
	return w, nil
}

// Delays of the watcher in seconds (kWatchdogLimits, watcher.cpp). respawnLimit is also
// the number of quick restarts after which osqueryd ends.
const (
	respawnLimit = 4
	respawnDelay = 5
)

// bury ends a worker for a reason and determines when the next one starts: at once, unless
// the worker ran for less than four seconds (WatcherRunner::createWorker). After four such
// restarts osqueryd ends with its next worker. The caller holds the lock.
func (s *supervision) bury(reason error, now time.Time, maxDelay int64) {
	s.worker.cancel(reason)
	s.worker.registry.clear()
	s.due = now
	switch {
	case s.restarts == respawnLimit:
		s.ended = errors.New("osqueryd has ended: Too many worker restarts")
	case now.Sub(s.spawned) < respawnLimit*time.Second:
		s.restarts++
		s.due = now.Add(time.Duration(min(respawnDelay+int64(1)<<s.restarts, maxDelay)) * time.Second)
	}
}

// respawn starts the next worker if the former one is gone and the watcher's delay has
// passed. Like a new process, the worker reads its configuration again: it runs the
// discovery queries before any extension has registered, except those of
// --extensions_require, for which it waits (Initializer::start, init.cpp).
func (h *Host) respawn() {
	h.schedule.mu.Lock()
	defer h.schedule.mu.Unlock()
	s := &h.supervision
	s.mu.Lock()
	now := h.clock.now()
	former := s.worker
	if former.ctx.Err() == nil || s.closed || s.ended != nil || now.Before(s.due) || !isClosed(former.gone) {
		s.mu.Unlock()
		return
	}
	w := newWorker(h)
	s.worker, s.spawned = w, now
	s.mu.Unlock()

	required := h.required()
	if len(required) == 0 {
		h.rediscover(w)
	}
	if err := w.listen(); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ended = err
		return
	}
	if len(required) > 0 {
		w.await(required)
		h.rediscover(w)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// end ends osqueryd itself for a reason.
func (h *Host) end(reason error) {
	s := &h.supervision
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil && !s.closed {
		s.ended = reason
		h.replace(reason)
	}
}

// replace ends the worker and starts the next one in the background. The caller holds the
// lock.
func (h *Host) replace(reason error) {
	s := &h.supervision
	w := s.worker
	s.bury(reason, h.clock.now(), h.set.int("watchdog_max_delay"))
	s.replacing.Go(func() {
		_ = w.leave() // what is left of a killed process does not matter
		h.respawn()
	})
}

// required are the extensions that a new worker waits for before it reads its
// configuration.
func (h *Host) required() []string {
	return strings.FieldsFunc(h.set["extensions_require"], func(r rune) bool { return r == ',' })
}

// await waits until the required extensions have registered and respond, at most the
// extensions' timeout altogether (startExtensionManager, extensions.cpp).
func (w *worker) await(required []string) {
	ctx, cancel := context.WithTimeout(w.ctx, w.host.options.Timeout)
	defer cancel()
	for _, name := range required {
		for ctx.Err() == nil && !w.serves(ctx, name) {
			time.Sleep(latency)
		}
	}
}

func (w *worker) serves(ctx context.Context, name string) bool {
	extensions, _, _ := w.registry.snapshot()
	for uuid, extension := range extensions {
		if extension.info.Name == name && ping(ctx, w.host.extensionSocket(uuid), activeTimeout) == nil {
			return true
		}
	}
	return false
}
