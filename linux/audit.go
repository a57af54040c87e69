//go:build linux

package linux

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

// Audit is the source that reads the kernel's audit. It listens to the kernel
// beside the audit daemon or without one, with rules of its own, and needs
// CAP_AUDIT_CONTROL and CAP_AUDIT_READ in the host's namespaces for that; or it
// follows the audit daemon's log where it may read no more, and then sees what
// the daemon's rules have recorded. It sees system calls: a module that is
// loaded from inside the kernel, and a call of a process that was started before
// audit was first switched on, have no record.
type Audit struct {
	options AuditOptions
	open    func() (auditKernel, error)
	clock   bootClock // of Run

	mu      sync.Mutex
	sensor  kmodquery.Sensor
	since   time.Time
	wake    func()        // makes Run look at waiting; nil while it does not run
	ended   chan struct{} // closed when Run has ended
	waiting []chan struct{}

	received, lost, decodeErrors, incomplete, folded, lastEvent atomic.Int64
}

// AuditOptions say where the source reads.
type AuditOptions struct {
	// Log is the audit daemon's log; empty for /var/log/audit/audit.log.
	Log string
	// Position returns the Position of the source's last stored event, or "".
	// It may be nil.
	Position func(ctx context.Context) (string, error)
}

const defaultAuditLog = "/var/log/audit/audit.log"

// NewAudit returns a source that watches nothing until Run.
func NewAudit(o AuditOptions) *Audit {
	if o.Log == "" {
		o.Log = defaultAuditLog
	}
	return &Audit{options: o, open: openAudit, sensor: kmodquery.Sensor{
		Source: kmodquery.SourceAudit,
		State:  kmodquery.StateStandby,
		Since:  time.Now().Unix(),
	}}
}

// Name is the source's name in the tables.
func (s *Audit) Name() string { return kmodquery.SourceAudit }

// LookBack says that what happened before since was seen by another source, so
// that the next Run emits nothing older. The zero time takes that back.
func (s *Audit) LookBack(since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = since
}

// Run listens until ctx ends, calls ready once, and gives the events to emit in
// the order in which the calls were made. Its rules are gone when it returns, and
// audit is off again where it was. An error that matches
// kmodquery.ErrNotSupported says that this host will never do before its next
// boot; any other may pass.
func (s *Audit) Run(ctx context.Context, ready func(), emit func(kmodquery.Event)) error {
	err := s.listen(ctx, ready, emit)
	if errors.Is(err, errAuditForbidden) {
		err = s.follow(ctx, ready, emit, err)
	}
	s.settle(err)
	return err
}

// intake returns what turns the run's records into events.
func (s *Audit) intake(emit func(kmodquery.Event)) (*auditIntake, error) {
	bootID, err := readBootID()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	since := s.since
	s.mu.Unlock()
	translator := auditTranslator{bootID: bootID, bootTime: s.clock.bootTime()}
	return newAuditIntake(translator, since, func(e kmodquery.Event) {
		if e.Missing != "" {
			s.incomplete.Add(1)
		}
		s.folded.Add(*e.Count - 1)
		s.lastEvent.Store(e.Time)
		emit(e)
	}), nil
}

// Sync returns when every record that the kernel had made before the call, or
// that the log held, was given to emit; at once when the source is not running.
func (s *Audit) Sync(ctx context.Context) error {
	s.mu.Lock()
	if s.wake == nil {
		s.mu.Unlock()
		return nil
	}
	done, ended := make(chan struct{}), s.ended
	s.waiting = append(s.waiting, done)
	s.wake()
	s.mu.Unlock()
	select {
	case <-done:
	case <-ended:
	case <-ctx.Done():
		return fmt.Errorf("wait for audit's records: %w", ctx.Err())
	}
	return nil
}

// takeWaiting returns the Syncs of the moment.
func (s *Audit) takeWaiting() []chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.waiting
	s.waiting = nil
	return waiting
}

// Sensor is the source's own account of itself.
func (s *Audit) Sensor() kmodquery.Sensor {
	s.mu.Lock()
	defer s.mu.Unlock()
	sensor := s.sensor
	sensor.Received = s.received.Load()
	sensor.Lost = s.lost.Load()
	sensor.DecodeErrors = s.decodeErrors.Load()
	sensor.EnrichErrors = s.incomplete.Load()
	sensor.Denied = s.folded.Load()
	sensor.LastEventTime = s.lastEvent.Load()
	return sensor
}

// begin notes that the source watches. From here on wake, which must not block,
// is called for each Sync. The limits are what a reader should know though all is
// well.
func (s *Audit) begin(hooks []string, limits string, wake func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake, s.ended = wake, make(chan struct{})
	text, _ := json.Marshal(hooks)
	s.sensor.Hooks = string(text)
	s.sensor.State, s.sensor.Reason, s.sensor.Since = kmodquery.StateActive, limits, time.Now().Unix()
}

// note says more of what the source cannot see, once.
func (s *Audit) note(limit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !strings.Contains(s.sensor.Reason, limit) && len(s.sensor.Reason) < maxReason {
		s.sensor.Reason += "; " + oneLine(errors.New(limit))
	}
}

// maxReason bounds the reason column, in bytes: what is noted comes from a log.
const maxReason = 1024

// settle notes that the source watches no more.
func (s *Audit) settle(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake != nil {
		s.wake = nil
		close(s.ended)
	}
	s.waiting = nil
	s.sensor.Hooks = ""
	s.sensor.State, s.sensor.Reason, s.sensor.Since = kmodquery.StateStandby, "", time.Now().Unix()
	if err == nil {
		return
	}
	s.sensor.State, s.sensor.Reason = kmodquery.StateFailed, oneLine(err)
	if errors.Is(err, kmodquery.ErrNotSupported) {
		s.sensor.State = kmodquery.StateUnavailable
	}
}
