//go:build linux

package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	libaudit "github.com/elastic/go-libaudit/v2"
	"github.com/elastic/go-libaudit/v2/auparse"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/source"
	"github.com/kmodquery/kmodquery/linux/audit/record"
)

const (
	// auditPoll is how often the source looks whether audit still works for it.
	auditPoll = 10 * time.Second
	// auditSync bounds the part of a Sync in which records come out of the
	// kernel, which keeps them waiting for the audit daemon too.
	auditSync = 2 * time.Second
	// auditPause is the pause before the kernel is asked again whether all
	// records have come out.
	auditPause = 5 * time.Millisecond
	// grace is how long a Sync waits for the remaining records of an event that
	// has begun.
	grace = 250 * time.Millisecond
	// auditTick is how far the clock of records may be behind.
	auditTick = 10 * time.Millisecond
)

// listen runs the source on the kernel's own records.
func (s *Source) listen(ctx context.Context, ready func(), emit func(kmodquery.Event)) (err error) {
	kernel, err := s.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kernel.Close()) }()
	intake, err := s.intake(emit)
	if err != nil {
		return err
	}
	watch := newAuditWatch(kernel, isAuditDefault())
	if err := watch.start(); err != nil {
		return errors.Join(err, watch.stop())
	}
	defer func() { err = errors.Join(err, watch.stop()) }()

	l := &auditListener{source: s, kernel: kernel, watch: watch, intake: intake, check: time.Now().Add(auditPoll)}
	s.health.Started(watch.hooks(), watch.limits(), l.wake)
	ready()
	stop := context.AfterFunc(ctx, l.wake)
	defer stop()
	return l.run(ctx)
}

// isAuditDefault reports whether the kernel was booted with audit on. Then it
// keeps records for a daemon to come, and counts those that it has no room for
// as lost though the group for readers got them.
func isAuditDefault() bool {
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

// An auditListener is the source's one reader of the kernel's records.
type auditListener struct {
	source *Source
	kernel auditKernel
	watch  *auditWatch
	intake *auditIntake
	check  time.Time // when to look after audit's rules and status
	drops  int64     // as last counted
	sync   *auditFlush
}

// An auditFlush is the reading of everything that the kernel had at one moment.
type auditFlush struct {
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
func (l *auditListener) wake() { _ = l.kernel.SetDeadline(time.Now()) }

func (l *auditListener) run(ctx context.Context) error {
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
			l.check = now.Add(auditPoll)
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
func (l *auditListener) take(kind auparse.AuditMessageType, text []byte, now time.Time) {
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
		if l.sync != nil && r.ID.Time().After(l.sync.asked.Add(auditTick)) {
			l.sync.out, l.sync.drained = true, true
		}
		l.intake.translator.bootTime = l.source.clock.BootTime()
		l.intake.add(r, record.Place{}, record.Place{}, now)
	}
}

// countDrops adds the records that the socket had no room for.
func (l *auditListener) countDrops() {
	drops := l.kernel.Drops()
	l.source.health.Lost.Add(drops - l.drops)
	l.drops = drops
}

// setDeadline says when Record shall return at the latest.
func (l *auditListener) setDeadline(ctx context.Context) {
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
func (l *auditListener) nextFlush(ctx context.Context) *auditFlush {
	pending, last := l.source.health.TakePending(), ctx.Err() != nil
	if len(pending) == 0 && !last {
		return nil
	}
	now := time.Now()
	return &auditFlush{pending: pending, last: last, asked: now, until: now.Add(auditSync), empty: true}
}

// flush goes on with the flush of the moment, and reports whether the source is
// at its end.
func (l *auditListener) flush() (isLast bool) {
	f, now := l.sync, time.Now()
	if f.empty && !f.out {
		f.empty = false
		status, err := l.kernel.Status()
		// What kauditd has in its hand is the end of an event at most, of which
		// the intake knows that more must come.
		f.out = err != nil || status.Backlog == 0 || !now.Before(f.until)
		if !f.out {
			time.Sleep(auditPause)
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

// An auditWatch keeps the source's rules in the kernel and looks whether they
// still work.
type auditWatch struct {
	kernel       auditKernel
	keepsRecords bool // the kernel counts records that wait for no daemon as lost

	wasOff  bool                 // audit was off, and is to be again
	since   bool                 // it was switched on by this run
	found   libaudit.AuditStatus // as it was then
	own     [][]byte             // the source's rules that are in the kernel
	texts   []string
	locked  bool
	lost    uint32 // as the kernel counted last
	started bool
}

func newAuditWatch(kernel auditKernel, keepsRecords bool) *auditWatch {
	return &auditWatch{kernel: kernel, keepsRecords: keepsRecords}
}

// auditBacklog is how many records may wait in the kernel, where nobody else had a
// say in it. What is more is lost, and counted.
const auditBacklog = 8192

// Values of the kernel's audit_enabled.
const (
	auditOff    = 0
	auditOn     = 1
	auditLocked = 2
)

// start sees to it that the system calls are recorded.
func (w *auditWatch) start() error {
	status, err := w.kernel.Status()
	if err != nil {
		return err
	}
	rules, err := w.rules()
	if err != nil {
		return err
	}
	if status.Enabled == auditOff && status.PID != 0 {
		return errors.New("audit is off though its daemon runs; switch it on with auditctl -e 1")
	}
	w.lost, w.locked, w.started = status.Lost, status.Enabled == auditLocked, true
	if err := w.addRules(rules, status); err != nil {
		return err
	}
	if status.Enabled == auditOff {
		// With the kernel's own settings for a host without a daemon, a load that
		// makes more records than 64 can wait a minute for room.
		if err := w.kernel.SetBacklog(max(status.BacklogLimit, auditBacklog), 0); err != nil {
			return err
		}
		if err := w.kernel.SetEnabled(true); err != nil {
			return err
		}
		w.since, w.found = true, *status
	}
	_, err = w.check()
	return err
}

// rules returns the kernel's rules, if they let system calls through at all.
func (w *auditWatch) rules() (auditRules, error) {
	raw, err := w.kernel.Rules()
	if err != nil {
		return nil, err
	}
	rules := auditRules(raw)
	if hiding := rules.hiding(); hiding != "" {
		return nil, fmt.Errorf("the audit rule %q keeps all system calls out of audit; take it out of /etc/audit/rules.d", hiding)
	}
	return rules, nil
}

// addRules adds the source's rules, where nobody else's do as well. What a killed
// process left is taken over.
func (w *auditWatch) addRules(rules auditRules, status *libaudit.AuditStatus) error {
	wasOff, err := buildAuditRules(auditKeyWasOff)
	if err != nil {
		return err
	}
	wasOn, err := buildAuditRules(auditKey)
	if err != nil {
		return err
	}
	w.wasOff = status.Enabled == auditOff || status.Enabled == auditOn && (rules.has(wasOff[0]) || rules.has(wasOff[1]))
	wanted, stale, key := wasOn, wasOff, auditKey
	if w.wasOff {
		wanted, stale, key = wasOff, wasOn, auditKeyWasOff
	}
	texts := auditRuleTexts(key)
	for i, rule := range wanted {
		switch {
		case rules.has(rule):
		case rules.without(stale[i]).covers(rule):
			continue
		case w.locked && rules.has(stale[i]):
			continue
		case w.locked:
			return &kmodquery.NotSupportedError{
				Missing: "audit's rules are locked until the next boot, and none has all module system calls recorded",
				Need:    fmt.Sprintf("the rule %q in /etc/audit/rules.d", auditRuleTexts(auditKey)[i]),
			}
		default:
			if err := w.kernel.AddRule(rule); err != nil {
				return noSystemCalls(err)
			}
		}
		w.own, w.texts = append(w.own, rule), append(w.texts, texts[i])
	}
	for _, rule := range stale {
		if rules.has(rule) && !w.locked {
			if err := w.kernel.DeleteRule(rule); err != nil {
				return err
			}
		}
	}
	return nil
}

// noSystemCalls tells a kernel that cannot audit system calls.
func noSystemCalls(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return &kmodquery.NotSupportedError{Missing: "this kernel's audit has no system calls", Need: "CONFIG_AUDITSYSCALL"}
	}
	return err
}

// buildAuditRules builds the source's rules with a key.
func buildAuditRules(key string) ([][]byte, error) {
	var rules [][]byte
	for _, text := range auditRuleTexts(key) {
		rule, err := buildAuditRule(text)
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// check fails when system calls are recorded no more, and returns how many
// records the kernel has lost since the last check.
func (w *auditWatch) check() (lost int64, err error) {
	status, err := w.kernel.Status()
	if err != nil {
		return 0, err
	}
	// The counter can be set to zero by others.
	if status.Lost > w.lost && (status.PID != 0 || !w.keepsRecords) {
		lost = int64(status.Lost - w.lost)
	}
	w.lost, w.locked = status.Lost, status.Enabled == auditLocked
	if status.Enabled == auditOff {
		return lost, errors.New("audit was switched off, so that no system call is recorded; it is switched on again soon, unless its daemon runs")
	}
	rules, err := w.rules()
	if err != nil {
		return lost, err
	}
	wanted, err := buildAuditRules(auditKey)
	if err != nil {
		return lost, err
	}
	for i, rule := range wanted {
		if !rules.covers(rule) {
			return lost, fmt.Errorf("somebody removed the audit rule %q or put another before it; it is added again soon", auditRuleTexts(auditKey)[i])
		}
	}
	return lost, nil
}

// stop leaves audit as it was found.
func (w *auditWatch) stop() error {
	if !w.started {
		return nil
	}
	status, err := w.kernel.Status()
	if err != nil {
		return err
	}
	if status.Enabled == auditLocked {
		return nil // nothing can be changed until the next boot
	}
	raw, err := w.kernel.Rules()
	if err != nil {
		return err
	}
	var failed error
	for _, rule := range w.own {
		if auditRules(raw).has(rule) {
			failed = errors.Join(failed, w.kernel.DeleteRule(rule))
		}
	}
	if w.wasOff && status.Enabled == auditOn && status.PID == 0 {
		failed = errors.Join(failed, w.kernel.SetEnabled(false))
		if w.since {
			failed = errors.Join(failed, w.kernel.SetBacklog(w.found.BacklogLimit, w.found.BacklogWaitTime))
		}
	}
	return failed
}

// hooks are what the source listens to.
func (w *auditWatch) hooks() []string {
	return append([]string{"AUDIT_NLGRP_READLOG (multicast)"}, w.texts...)
}

// limits says what the source cannot see though all is well.
func (w *auditWatch) limits() string {
	if !w.since {
		return ""
	}
	return "audit was off: calls of processes that were started before are not seen; boot with audit=1 to see all"
}
