//go:build linux

package linux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// A logSource is what the sources that read logs have in common: their account
// of themselves, and who waits for them.
type logSource struct {
	mu      sync.Mutex
	sensor  kmodquery.Sensor
	running bool
	ended   chan struct{} // closed when Run has ended
	waiting []chan struct{}
	since   time.Time
	emitted string        // the last position, which may not be stored yet
	wake    chan struct{} // has room for one

	position                                            func(ctx context.Context) (string, error)
	received, lost, decodeErrors, incomplete, lastEvent atomic.Int64
}

func newLogSource(name string, position func(ctx context.Context) (string, error)) *logSource {
	return &logSource{
		position: position,
		wake:     make(chan struct{}, 1),
		sensor:   kmodquery.Sensor{Source: name, State: kmodquery.StateStandby, Since: time.Now().Unix()},
	}
}

// Name is the source's name in the tables.
func (s *logSource) Name() string { return s.sensor.Source }

// LookBack bounds how far back the next Run looks: another source saw what
// happened before since. The zero time is no bound but the boot. It must not be
// called while Run does its work.
func (s *logSource) LookBack(since time.Time) { s.since = since }

// Sync returns when everything that stood in the log before the call was given
// to emit, or at once when the source is not running.
func (s *logSource) Sync(ctx context.Context) error {
	s.mu.Lock()
	if !s.running {
		s.mu.Unlock()
		return nil
	}
	done, ended := make(chan struct{}), s.ended
	s.waiting = append(s.waiting, done)
	s.mu.Unlock()

	select {
	case s.wake <- struct{}{}:
	default: // somebody woke it already
	}
	select {
	case <-done:
	case <-ended:
	case <-ctx.Done():
		return fmt.Errorf("wait for the %s source: %w", s.Name(), ctx.Err())
	}
	return nil
}

// Sensor is the source's own account of itself.
func (s *logSource) Sensor() kmodquery.Sensor {
	s.mu.Lock()
	defer s.mu.Unlock()
	sensor := s.sensor
	sensor.Received = s.received.Load()
	sensor.Lost = s.lost.Load()
	sensor.DecodeErrors = s.decodeErrors.Load()
	sensor.EnrichErrors = s.incomplete.Load()
	sensor.LastEventTime = s.lastEvent.Load()
	return sensor
}

// start notes that the source reads what hooks names.
func (s *logSource) start(hooks ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running, s.ended = true, make(chan struct{})
	text, _ := json.Marshal(hooks)
	s.sensor.Hooks = string(text)
	s.sensor.State, s.sensor.Reason, s.sensor.Since = kmodquery.StateActive, "", time.Now().Unix()
}

// stop notes why Run ends, nil where it was asked to.
func (s *logSource) stop(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		s.running = false
		close(s.ended)
	}
	answer(s.waiting)
	s.waiting = nil
	s.sensor.Hooks = ""
	s.sensor.State, s.sensor.Since = kmodquery.StateStandby, time.Now().Unix()
	switch {
	case errors.Is(cause, kmodquery.ErrNotSupported):
		s.sensor.State, s.sensor.Reason = kmodquery.StateUnavailable, oneLine(cause)
	case cause != nil:
		s.sensor.State, s.sensor.Reason = kmodquery.StateFailed, oneLine(cause)
	}
}

// takeWaiting returns those who wait now.
func (s *logSource) takeWaiting() []chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.waiting
	s.waiting = nil
	return waiting
}

// remark changes the sensor's reason while the source is active.
func (s *logSource) remark(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sensor.Reason = reason
}

// joiner makes the events of one Run, and counts them.
func (s *logSource) joiner(emit func(kmodquery.Event)) *lineJoiner {
	return &lineJoiner{source: s.Name(), since: s.since, isBuiltin: builtins(), emit: func(e kmodquery.Event) {
		if e.Missing != "" {
			s.incomplete.Add(1)
		}
		s.lastEvent.Store(e.Time)
		if e.Position != "" {
			s.emitted = e.Position
		}
		emit(e)
	}}
}

// lastPosition is where an earlier Run, of this process or another, came to.
func (s *logSource) lastPosition(ctx context.Context) (string, error) {
	if s.emitted != "" || s.position == nil {
		return s.emitted, nil
	}
	position, err := s.position(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the store how far the log was read: %w", err)
	}
	return position, nil
}

// builtins reports what is built into the running kernel: what its list of
// modules says, and what /sys/module has without the state that a loaded module
// has there (kernel/module/main.c, modinfo_initstate).
func builtins() func(name string) bool {
	var uts unix.Utsname
	_ = unix.Uname(&uts) // it cannot fail with a valid pointer
	list, _ := os.ReadFile("/lib/modules/" + unix.ByteSliceToString(uts.Release[:]) + "/modules.builtin")
	names := map[string]bool{}
	for path := range strings.Lines(string(list)) {
		file := path[strings.LastIndexByte(path, '/')+1:]
		name, _, _ := strings.Cut(file, ".ko")
		names[strings.ReplaceAll(name, "-", "_")] = true
	}
	return func(name string) bool {
		name = strings.ReplaceAll(name, "-", "_")
		if names[name] {
			return true
		}
		dir := "/sys/module/" + strings.ReplaceAll(name, "/", "!")
		_, err := os.Stat(dir)
		_, stateErr := os.Stat(dir + "/initstate")
		return err == nil && errors.Is(stateErr, fs.ErrNotExist)
	}
}
