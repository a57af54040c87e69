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

// Source is the source that reads the kernel's audit records of system calls. With
// CAP_AUDIT_CONTROL and CAP_AUDIT_READ in the host's namespaces it reads them from the
// kernel, with rules of its own, beside the audit daemon or without one. With fewer
// rights it follows the audit daemon's log, which has the calls that the daemon's rules
// record. Audit records neither loads from inside the kernel, nor calls of processes that
// started before it was first switched on, nor, unless something else than a rule makes it,
// calls of x32 programs: their numbers are beyond the mask of a rule (audit_in_mask in
// kernel/auditsc.c).
type Source struct {
	health   *source.Health
	log      string // path of the audit daemon's log
	position func(ctx context.Context) (string, error)
	open     func() (kernelConn, error)
	clock    host.BootClock  // of Run
	canaries func() []uint64 // see LeaveOut; may be nil

	mu    sync.Mutex // guards since
	since time.Time
}

// New returns a source that reads nothing until Run. position returns the position of the
// source's last stored event, or "". It may be nil.
func New(position func(ctx context.Context) (string, error)) *Source {
	return &Source{
		health: source.New(kmodquery.SourceAudit), log: "/var/log/audit/audit.log", position: position, open: openKernel,
	}
}

// LeaveOut makes Run leave out the calls by which earlier processes tested the hooks of eBPF,
// besides those of this process. canaries returns what identifies them (host.CanaryOf). It must be
// called before Run.
func (s *Source) LeaveOut(canaries func() []uint64) { s.canaries = canaries }

// Name returns the source's name in the tables.
func (s *Source) Name() string { return s.health.Name() }

// Sync returns when the events of all records were emitted that the kernel had made, or
// the audit daemon had written, before the call; at once if the source does not run.
func (s *Source) Sync(ctx context.Context) error { return s.health.Sync(ctx) }

// Sensor returns the source's state and counters.
func (s *Source) Sensor() kmodquery.Sensor { return s.health.Sensor() }

// LastRound returns when the event loop of Run last completed a round, or the zero time
// while it does not run.
func (s *Source) LastRound() time.Time { return s.health.LastRound() }

// Backfill makes the next Run emit no events from before since, which another source
// has seen. The zero time removes the bound. It watches, so it has no other.
func (s *Source) Backfill(since, _ time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = since
}

// Run calls ready once it reads records, and emits the events in the order of the calls
// until ctx ends. Before it returns it removes its rules, and switches audit off if it
// was off before. An error that matches kmodquery.ErrNotSupported means that this host
// cannot support the source before the next boot; other errors may pass.
func (s *Source) Run(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) error {
	err := s.listen(ctx, ready, emit)
	if errors.Is(err, errForbidden) {
		err = s.follow(ctx, ready, emit, err)
	}
	s.health.Stopped(err)
	return err
}

// intake returns the intake of one Run. It counts the events that it emits.
func (s *Source) intake(emit func(kmodquery.Delivery)) (*intake, error) {
	bootID, err := host.BootID()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	since := s.since
	s.mu.Unlock()
	translator := translator{bootID: bootID, bootTime: s.clock.BootTime()}
	i := newIntake(translator, since, func(d kmodquery.Delivery) {
		s.health.Emitted(&d)
		emit(d)
	})
	if s.canaries != nil {
		i.canaries = s.canaries()
	}
	i.leftOut = func(records int) { s.health.Received.Add(-int64(records)) }
	return i, nil
}
