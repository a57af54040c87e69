//go:build linux

package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/audit/record"
)

const (
	// checkInterval is how often the source looks whether audit still works for it.
	checkInterval = 10 * time.Second
	// drainTimeout bounds the part of a Sync in which records come out of the
	// kernel, which keeps them waiting for the audit daemon too.
	drainTimeout = 2 * time.Second
	// drainPause is the pause before the kernel is asked again whether all
	// records have come out.
	drainPause = 5 * time.Millisecond
	// grace is how long a Sync waits for the remaining records of an event that
	// has begun.
	grace = 250 * time.Millisecond
	// clockTick is how far the clock of records may be behind.
	clockTick = 10 * time.Millisecond
)

// listen runs the source on the kernel's own records.
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
	watch := newSetup(kernel, isOnAtBoot())
	if err := watch.start(); err != nil {
		return errors.Join(err, watch.stop())
	}
	defer func() { err = errors.Join(err, watch.stop()) }()

	l := &listener{source: s, kernel: kernel, watch: watch, intake: intake, check: time.Now().Add(checkInterval)}
	s.health.Started(watch.hooks(), watch.limits(), l.wake)
	ready()
	stop := context.AfterFunc(ctx, l.wake)
	defer stop()
	return l.run(ctx)
}

// isOnAtBoot reports whether the kernel was booted with audit on. Then it
// keeps records for a daemon to come, and counts those that it has no room for
// as lost though the group for readers got them.
func isOnAtBoot() bool {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false
	}
	for word := range strings.FieldsSeq(string(line)) {
		if word == "audit=1" || word == "audit=on" {
			return true
		}
	}
	return false
}

// A listener is the source's one reader of the kernel's records.
type listener struct {
	source *Source
	kernel kernelConn
	watch  *setup
	intake *intake
	check  time.Time // when to look after audit's rules and status
	drops  int64     // as last counted
	sync   *drain
}

// A drain is the reading of everything that the kernel had at one moment.
type drain struct {
	pending source.Pending
	last    bool      // the source ends with it
	asked   time.Time // what began later is not waited for
	grace   time.Time // end of patience with records of events that have begun
	until   time.Time // end of all patience
	empty   bool      // the socket has none, since the kernel was last asked
	out     bool      // the kernel has none left that it had then
	drained bool      // nor has the socket
}

// wake makes run look at what it is asked for.
func (l *listener) wake() { _ = l.kernel.SetDeadline(time.Now()) }

func (l *listener) run(ctx context.Context) error {
	defer l.intake.finish()
	for {
		if l.sync == nil {
			l.sync = l.nextFlush(ctx)
		}
		if l.sync != nil {
			if isLast := l.flush(); isLast {
				return nil
			}
		}
		l.setDeadline(ctx)
		kind, text, err := l.kernel.Record()
		now := time.Now()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if l.sync != nil {
				l.sync.empty, l.sync.drained = true, l.sync.out
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
			lost, err := l.watch.check()
			l.source.health.Lost.Add(lost)
			if err != nil {
				return err
			}
		}
	}
}

// take takes one message.
func (l *listener) take(kind auparse.AuditMessageType, text []byte, now time.Time) {
	switch kind {
	case auparse.AUDIT_CONFIG_CHANGE:
		l.check = now // perhaps it is about what the source needs
	case auparse.AUDIT_SYSCALL, auparse.AUDIT_KERN_MODULE, auparse.AUDIT_PATH, auparse.AUDIT_CWD,
		auparse.AUDIT_EXECVE, auparse.AUDIT_PROCTITLE, auparse.AUDIT_EOE:
		l.source.health.Received.Add(1)
		r, err := record.ParseMessage(kind, string(text))
		if err != nil {
			l.source.health.DecodeErrors.Add(1)
			return
		}
		// Records come in the order in which calls return, so that this one
		// comes after all that were there when the flush was asked for.
		if l.sync != nil && r.ID.Time().After(l.sync.asked.Add(clockTick)) {
			l.sync.out, l.sync.drained = true, true
		}
		l.intake.translator.bootTime = l.source.clock.BootTime()
		l.intake.add(r, record.Place{}, record.Place{}, now)
	}
}

// countDrops adds the records that the socket had no room for.
func (l *listener) countDrops() {
	drops := l.kernel.Drops()
	l.source.health.Lost.Add(drops - l.drops)
	l.drops = drops
}

// setDeadline says when Record shall return at the latest.
func (l *listener) setDeadline(ctx context.Context) {
	deadline := l.check
	if due := l.intake.due(); !due.IsZero() && due.Before(deadline) {
		deadline = due
	}
	switch {
	case l.sync == nil:
	case !l.sync.drained:
		deadline = time.Now()
	case l.sync.grace.Before(deadline):
		deadline = l.sync.grace
	}
	_ = l.kernel.SetDeadline(deadline)
	// Only now: a wake before the deadline was set has had no effect.
	if l.sync == nil && (l.source.health.HasPending() || ctx.Err() != nil) {
		l.wake()
	}
}

// nextFlush is what the Syncs of the moment, or the end of ctx, wait for; nil
// where there is neither.
func (l *listener) nextFlush(ctx context.Context) *drain {
	pending, last := l.source.health.TakePending(), ctx.Err() != nil
	if len(pending) == 0 && !last {
		return nil
	}
	now := time.Now()
	return &drain{pending: pending, last: last, asked: now, until: now.Add(drainTimeout), empty: true}
}

// flush goes on with the flush of the moment, and reports whether the source is
// at its end.
func (l *listener) flush() (isLast bool) {
	f, now := l.sync, time.Now()
	if f.empty && !f.out {
		f.empty = false
		status, err := l.kernel.Status()
		// What kauditd has in its hand is the end of an event at most, of which
		// the intake knows that more must come.
		f.out = err != nil || status.Backlog == 0 || !now.Before(f.until)
		if !f.out {
			time.Sleep(drainPause)
		}
	}
	if f.drained && f.grace.IsZero() {
		f.grace = now.Add(grace)
	}
	isDone := f.drained && (l.intake.idle() || !now.Before(f.grace))
	if !isDone && now.Before(f.until.Add(grace)) {
		return false
	}
	l.intake.finish()
	f.pending.Release()
	l.sync = nil
	return f.last
}
