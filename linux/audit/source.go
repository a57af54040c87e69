//go:build linux

package audit

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/host"
)

// Source is the source that reads the kernel's audit. It listens to the kernel
// beside the audit daemon or without one, with rules of its own, and needs
// CAP_AUDIT_CONTROL and CAP_AUDIT_READ in the host's namespaces for that; or it
// follows the audit daemon's log where it may read no more, and then sees what
// the daemon's rules have recorded. It sees system calls: a module that is
// loaded from inside the kernel, and a call of a process that was started before
// audit was first switched on, have no record.
type Source struct {
	health  *source.Health
	options Options
	open    func() (kernelConn, error)
	clock   host.BootClock // of Run

	mu    sync.Mutex // guards since
	since time.Time
}

// Options say where the source reads.
type Options struct {
	// Log is the audit daemon's log; empty for /var/log/audit/audit.log.
	Log string
	// Position returns the Position of the source's last stored event, or "".
	// It may be nil.
	Position func(ctx context.Context) (string, error)
}

const defaultLog = "/var/log/audit/audit.log"

// New returns a source that watches nothing until Run.
func New(o Options) *Source {
	if o.Log == "" {
		o.Log = defaultLog
	}
	return &Source{health: source.New(kmodquery.SourceAudit), options: o, open: openKernel}
}

// Name is the source's name in the tables.
func (s *Source) Name() string { return s.health.Name() }

// Sync returns when every record that the kernel had made before the call, or the
// audit daemon had written, was given to emit; at once when the source is not
// running.
func (s *Source) Sync(ctx context.Context) error { return s.health.Sync(ctx) }

// Sensor is the source's own account of itself.
func (s *Source) Sensor() kmodquery.Sensor { return s.health.Sensor() }

// LastRound returns when the event loop of Run last completed a round, or the zero time
// while it does not run.
func (s *Source) LastRound() time.Time { return s.health.LastRound() }

// Backfill says that what happened before since was seen by another source, so
// that the next Run emits nothing older. The zero time takes that back.
func (s *Source) Backfill(since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = since
}

// Run listens until ctx ends, calls ready once, and gives the events to emit in
// the order in which the calls were made. Its rules are gone when it returns, and
// audit is off again where it was. An error that matches
// kmodquery.ErrNotSupported says that this host will never do before its next
// boot; any other may pass.
func (s *Source) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error {
	err := s.listen(ctx, ready, emit)
	if errors.Is(err, errForbidden) {
		err = s.follow(ctx, ready, emit, err)
	}
	s.health.Stopped(err)
	return err
}

// intake returns what turns the run's records into events.
func (s *Source) intake(emit func(kmodquery.Delivery)) (*intake, error) {
	bootID, err := host.BootID()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	since := s.since
	s.mu.Unlock()
	translator := translator{bootID: bootID, bootTime: s.clock.BootTime()}
	return newIntake(translator, since, func(d kmodquery.Delivery) {
		s.health.Emitted(&d)
		emit(d)
	}), nil
}
