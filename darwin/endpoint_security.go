package darwin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmodquery/kmodquery"
)

// EndpointSecurity is the source that has eslogger tell of kernel extensions: who
// asked for which, and whether it was allowed. It needs macOS 13, root, and Full
// Disk Access for the responsible process.
//
// It does not see whether a kernel extension that was allowed came to work, nor
// those of the boot collection. What the log holds of both is for another source.
type EndpointSecurity struct {
	options  EndpointSecurityOptions
	patience esloggerPatience
	woken    chan struct{} // has room for one

	received, lost, decodeErrors, incomplete, lastEvent atomic.Int64

	mu      sync.Mutex
	sensor  kmodquery.Sensor
	ended   chan struct{} // closed when Run has ended; nil while it does not run
	waiting []chan struct{}
}

// EndpointSecurityOptions say how to watch.
type EndpointSecurityOptions struct {
	// Eslogger is the program's absolute path.
	Eslogger string
	// Boot asks for the present one.
	Boot func() Boot
}

// esloggerPatience is how long this source waits for what.
type esloggerPatience struct {
	alive time.Duration // until eslogger watches: it says nothing when it does, and ends when it cannot
	quiet time.Duration // after the last byte, until nothing more of before a Sync is expected
	sync  time.Duration // for that to be so at all
	half  time.Duration // for the rest of a line
	drain time.Duration // for the terminal to hang up, after eslogger has ended
	look  time.Duration // between looks at how eslogger is
}

// NewEndpointSecurity returns a source that starts nothing until Run.
func NewEndpointSecurity(o EndpointSecurityOptions) *EndpointSecurity {
	return &EndpointSecurity{
		options: o,
		patience: esloggerPatience{
			alive: time.Second,
			quiet: 100 * time.Millisecond,
			sync:  2 * time.Second,
			half:  10 * time.Second,
			drain: time.Second,
			look:  2 * time.Second,
		},
		woken:  make(chan struct{}, 1),
		sensor: kmodquery.Sensor{Source: kmodquery.SourceEndpointSecurity, State: kmodquery.StateStandby, Since: time.Now().Unix()},
	}
}

// Name is the source's name in the tables.
func (s *EndpointSecurity) Name() string { return kmodquery.SourceEndpointSecurity }

// Run emits what eslogger tells until ctx ends or eslogger does, which is an
// error that says what to do. It calls ready when eslogger has told of anything,
// or was there for a second: it gives up sooner where it cannot watch. A kernel
// extension that comes before then may go unseen.
func (s *EndpointSecurity) Run(ctx context.Context, ready func(), emit func(kmodquery.Event)) (err error) {
	defer func() { s.settle(err) }()
	if ctx.Err() != nil {
		return nil
	}
	program, err := startEslogger(ctx, s.options.Eslogger)
	if err != nil {
		return err
	}
	defer program.close()
	r := newEsloggerReader(s, program, ready, emit)
	return r.run(ctx)
}

// Sync returns when what eslogger had printed before the call was emitted; at
// once when it is not running. It takes that to be so when nothing more came for
// a tenth of a second, and after two seconds in any case.
func (s *EndpointSecurity) Sync(ctx context.Context) error {
	s.mu.Lock()
	ended := s.ended
	if ended == nil {
		s.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	s.waiting = append(s.waiting, done)
	s.mu.Unlock()
	select {
	case s.woken <- struct{}{}:
	default: // somebody woke it already
	}
	select {
	case <-done:
	case <-ended:
	case <-ctx.Done():
		return fmt.Errorf("wait for the records of %s: %w", s.Name(), ctx.Err())
	}
	return nil
}

// Sensor is the source's own account of itself.
func (s *EndpointSecurity) Sensor() kmodquery.Sensor {
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

// begin notes that the source watches. What eslogger complained of is no reason
// to give up while it goes on.
func (s *EndpointSecurity) begin(complaint string) {
	var hooks []string
	for _, event := range esloggerEvents {
		hooks = append(hooks, event+" (eslogger)")
	}
	text, _ := json.Marshal(hooks)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = make(chan struct{})
	s.sensor.Hooks = string(text)
	s.sensor.State, s.sensor.Since, s.sensor.Reason = kmodquery.StateActive, time.Now().Unix(), complaint
}

// takeWaiting returns the Syncs of the moment.
func (s *EndpointSecurity) takeWaiting() []chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.waiting
	s.waiting = nil
	return waiting
}

// settle notes that the source watches no more, and why: nil where it was asked
// to end.
func (s *EndpointSecurity) settle(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		close(s.ended)
		s.ended = nil
	}
	s.waiting = nil
	s.sensor.Hooks = ""
	s.sensor.State, s.sensor.Reason, s.sensor.Since = kmodquery.StateStandby, "", time.Now().Unix()
	if cause != nil {
		s.sensor.State, s.sensor.Reason = kmodquery.StateFailed, strings.Join(strings.Fields(cause.Error()), " ")
	}
	if errors.Is(cause, kmodquery.ErrNotSupported) {
		s.sensor.State = kmodquery.StateUnavailable
	}
}
