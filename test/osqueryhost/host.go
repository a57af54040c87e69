package osqueryhost

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

// A Host is a running osquery core. Its methods may be called from several
// goroutines at once; queries of the schedule run one at a time, as in
// osqueryd.
type Host struct {
	options     Options
	set         flagSet
	clock       *clock
	supervision supervision
	schedule    schedule
	liveMu      sync.Mutex // held by the live query that runs
	children    children

	stopWatching context.CancelFunc
	watchers     sync.WaitGroup
	closeOnce    sync.Once
	closeErr     error
}

// Start starts a host that serves extensions on the socket. It removes stale sockets of
// a former host at the same path. The host runs until Close; ctx bounds only the start.
func Start(ctx context.Context, options Options) (*Host, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	set, err := parseFlags(options.Flags)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start osquery host: %w", err)
	}
	state, err := openState(filepath.Join(options.Dir, "osquery.db"))
	if err != nil {
		return nil, err
	}
	if err := state.recover(set.memoryLimit() > 0); err != nil {
		return nil, err
	}
	log, err := openResultsLog(options, set)
	if err != nil {
		return nil, err
	}
	h := &Host{options: options, set: set, clock: &clock{}}
	h.schedule.state, h.schedule.log, h.schedule.performance = state, log, map[string]performance{}
	w := newWorker(h)
	h.supervision.worker, h.supervision.spawned = w, h.clock.now()
	if err := w.listen(); err != nil {
		return nil, errors.Join(err, log.Close())
	}

	watching, cancel := context.WithCancel(context.Background())
	h.stopWatching = cancel
	if options.Interval > 0 {
		h.every(watching, func() { h.PingExtensions(watching) })
		h.every(watching, h.PollChildren)
		h.every(watching, h.respawn)
	}
	return h, nil
}

// every calls round at each interval until ctx ends. Rounds of one watcher
// never overlap.
func (h *Host) every(ctx context.Context, round func()) {
	// As in ExtensionWatcher's constructor, extensions.cpp: at most once every 200 ms.
	ticker := time.NewTicker(max(h.options.Interval, 200*time.Millisecond))
	h.watchers.Go(func() {
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				round()
			}
		}
	})
}

// Socket returns the path that extensions get as --socket.
func (h *Host) Socket() string { return h.options.Socket }

// Close ends the host as SIGTERM ends osqueryd. Its extension processes get SIGTERM
// and, after Options.StopTimeout, SIGKILL. Extensions that were started by hand are
// asked to shut down. Then the socket is removed. The state of the differentials stays
// in Options.Dir.
func (h *Host) Close() error {
	h.closeOnce.Do(func() {
		h.stopWatching()
		err := h.children.stop(h.options.StopTimeout)
		h.watchers.Wait()
		w := h.freeze(errStopped)
		h.shutdownExtensions()
		err = errors.Join(err, w.leave())
		h.closeErr = errors.Join(err, h.schedule.log.Close())
	})
	return h.closeErr
}

var (
	errStopped = errors.New("osqueryd has been stopped")
	errKilled  = errors.New("osqueryd has been killed")
)

// freeze prevents further workers for a reason and returns the last one.
func (h *Host) freeze(reason error) *worker {
	s := &h.supervision
	s.mu.Lock()
	s.closed = true
	if s.ended == nil {
		s.ended = reason
	}
	s.mu.Unlock()
	s.replacing.Wait()
	return h.worker()
}

// Vanish removes the socket without notifying the extensions, as when osqueryd is
// killed. Extension processes stay until Close. The scheduled query that runs meanwhile
// is on the denylist of the next host of this Options.Dir, if that has a watchdog.
func (h *Host) Vanish() error {
	h.stopWatching()
	h.watchers.Wait()
	err := h.schedule.state.interrupt(h.clock.now())
	w := h.freeze(errKilled)
	w.cancel(errKilled)
	return errors.Join(err, w.leave())
}
