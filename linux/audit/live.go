//go:build linux

package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/audit/record"
)

const (
	// checkInterval is how often the source checks audit's settings.
	checkInterval = 10 * time.Second
	// drainTimeout bounds the part of a Sync in which the kernel empties its backlog.
	// A slow audit daemon delays that.
	drainTimeout = 2 * time.Second
	// drainPause is the pause before the kernel is asked again for its backlog.
	drainPause = 5 * time.Millisecond
	// grace is how long a Sync waits for the remaining records of incomplete events.
	grace = 250 * time.Millisecond
	// clockTick is how far the clock of records may be behind the wall clock.
	clockTick = 10 * time.Millisecond
)

// listen runs the source on the records that the kernel sends.
func (s *Source) listen(ctx context.Context, ready func(), emit func(kmodquery.Delivery)) (err error) {
	kernel, err := s.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kernel.Close()) }()
	intake, err := s.intake(emit)
	if err != nil {
		return err
	}
	intake.translator.isLive = true
	setup := &setup{kernel: kernel, keepsRecords: isOnAtBoot()}
	if err := setup.start(); err != nil {
		return errors.Join(err, setup.stop())
	}
	defer func() { err = errors.Join(err, setup.stop()) }()

	l := &listener{
		source: s, kernel: kernel, setup: setup, intake: intake, check: time.Now().Add(checkInterval),
		sync: s.health.NewBarrier(drainTimeout + grace),
	}
	s.health.Started(setup.hooks(), setup.limits(), l.wake)
	if setup.hiding != "" {
		s.health.Degraded(fmt.Errorf("the audit rule %q keeps some calls out of audit; remove it from /etc/audit/rules.d", setup.hiding))
	}
	ready()
	stop := context.AfterFunc(ctx, l.end)
	defer stop()
	return l.run()
}

// A listener reads the kernel's records during one Run.
type listener struct {
	source *Source
	kernel kernelConn
	setup  *setup
	intake *intake
	check  time.Time // when to check audit's settings next
	drops  int64     // records that the socket has dropped, when last counted
	ended  atomic.Bool

	// sync ends its rounds when everything was read that the kernel had at their
	// beginning.
	sync    *source.Barrier
	empty   bool      // the socket was empty once since the kernel was last asked for its backlog
	out     bool      // the kernel has no records from before the round
	drained time.Time // when the socket had none either; zero before that
}

// wake makes Record return.
func (l *listener) wake() { _ = l.kernel.SetDeadline(time.Now()) }

// end lets run return once everything was read that the kernel has now.
func (l *listener) end() {
	_ = l.source.health.Sync(context.Background()) // it cannot fail
	l.ended.Store(true)
	l.wake()
}

// run emits the events of the kernel's records until end has returned.
func (l *listener) run() error {
	defer l.sync.Release()
	defer l.intake.finish()
	for !l.ended.Load() {
		l.source.health.Progress()
		l.advance()
		l.setDeadline()
		kind, text, err := l.kernel.Record()
		now := time.Now()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			l.empty = true
			if l.out && l.drained.IsZero() {
				l.drained = now
			}
		case errors.Is(err, unix.ENOBUFS):
			l.countDrops()
		case errors.Is(err, errNotKernels):
			l.source.health.DecodeErrors.Add(1)
		case err != nil:
			return fmt.Errorf("read audit's records: %w", err)
		default:
			l.take(kind, text, now)
		}
		l.intake.expire(now)
		if !now.Before(l.check) {
			l.check = now.Add(checkInterval)
			l.countDrops()
			lost, err := l.setup.check()
			l.source.health.Lost.Add(lost)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// take handles one message.
func (l *listener) take(kind auparse.AuditMessageType, text []byte, now time.Time) {
	if kind == auparse.AUDIT_CONFIG_CHANGE {
		l.check = now // it may concern the settings that the source needs
	}
	if !record.IsOfModuleCall(kind) {
		return
	}
	l.source.health.Received.Add(1)
	r, err := record.ParseMessage(kind, string(text))
	if err != nil {
		l.source.health.DecodeErrors.Add(1)
		return
	}
	// Records come in the order in which calls return, so all records from before
	// the round have come before this one.
	if began := l.sync.Began(); !began.IsZero() && l.drained.IsZero() && r.ID.Time().After(began.Add(clockTick)) {
		l.out, l.drained = true, now
	}
	l.intake.translator.bootTime = l.source.clock.BootTime()
	l.intake.assembler.Add(r, 0, now)
}

// countDrops counts the records that the socket had no room for as lost.
func (l *listener) countDrops() {
	drops := l.kernel.Drops()
	l.source.health.Lost.Add(drops - l.drops)
	l.drops = drops
}

// advance begins a round if a Sync waits, asks the kernel whether it has records left,
// and ends the round.
func (l *listener) advance() {
	if l.sync.Began().IsZero() {
		l.sync.Begin()
		l.empty, l.out, l.drained = true, false, time.Time{}
	}
	began := l.sync.Began()
	if began.IsZero() {
		return
	}
	if l.empty && !l.out {
		l.empty = false
		status, err := l.kernel.Status()
		// The record that kauditd is sending is the end of an event at most, and the
		// intake knows that this event is incomplete.
		l.out = err != nil || status.Backlog == 0 || time.Since(began) >= drainTimeout
		if !l.out {
			time.Sleep(drainPause)
		}
	}
	if l.sync.IsDue(l.quiet()) {
		l.intake.finish()
		l.sync.Release()
	}
}

// quiet returns when everything from before the round was read, or the zero time
// while the kernel or the socket may have more.
func (l *listener) quiet() time.Time {
	if l.drained.IsZero() || l.intake.idle() {
		return l.drained
	}
	return l.drained.Add(grace)
}

// setDeadline sets when Record returns at the latest.
func (l *listener) setDeadline() {
	deadline := source.Earliest(l.check, l.intake.due())
	if !l.sync.Began().IsZero() {
		deadline = time.Now()
		if !l.drained.IsZero() {
			deadline = source.Earliest(l.check, l.intake.due(), l.sync.Due(l.quiet()))
		}
	}
	_ = l.kernel.SetDeadline(deadline)
	// A wake before the deadline was set had no effect.
	if l.sync.Began().IsZero() && l.source.health.HasPending() || l.ended.Load() {
		l.wake()
	}
}
