//go:build linux

package audit

import (
	"errors"
	"fmt"

	libaudit "github.com/elastic/go-libaudit/v2"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// A setup keeps the source's rules in the kernel and looks whether they
// still work.
type setup struct {
	kernel       kernelConn
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

func newSetup(kernel kernelConn, keepsRecords bool) *setup {
	return &setup{kernel: kernel, keepsRecords: keepsRecords}
}

// backlogLimit is how many records may wait in the kernel, where nobody else had a
// say in it. What is more is lost, and counted.
const backlogLimit = 8192

// Values of the kernel's audit_enabled.
const (
	statusOff    = 0
	statusOn     = 1
	statusLocked = 2
)

// start sees to it that the system calls are recorded.
func (w *setup) start() error {
	status, err := w.kernel.Status()
	if err != nil {
		return err
	}
	rules, err := w.rules()
	if err != nil {
		return err
	}
	if status.Enabled == statusOff && status.PID != 0 {
		return errors.New("audit is off though its daemon runs; switch it on with auditctl -e 1")
	}
	w.lost, w.locked, w.started = status.Lost, status.Enabled == statusLocked, true
	if err := w.addRules(rules, status); err != nil {
		return err
	}
	if status.Enabled == statusOff {
		// With the kernel's own settings for a host without a daemon, a load that
		// makes more records than 64 can wait a minute for room.
		if err := w.kernel.SetBacklog(max(status.BacklogLimit, backlogLimit), 0); err != nil {
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
func (w *setup) rules() (ruleList, error) {
	raw, err := w.kernel.Rules()
	if err != nil {
		return nil, err
	}
	rules := ruleList(raw)
	if hiding := rules.hiding(); hiding != "" {
		return nil, fmt.Errorf("the audit rule %q keeps all system calls out of audit; take it out of /etc/audit/rules.d", hiding)
	}
	return rules, nil
}

// addRules adds the source's rules, where nobody else's do as well. What a killed
// process left is taken over.
func (w *setup) addRules(rules ruleList, status *libaudit.AuditStatus) error {
	wasOff, err := buildRules(ruleKeyWasOff)
	if err != nil {
		return err
	}
	wasOn, err := buildRules(ruleKey)
	if err != nil {
		return err
	}
	w.wasOff = status.Enabled == statusOff || status.Enabled == statusOn && (rules.has(wasOff[0]) || rules.has(wasOff[1]))
	wanted, stale, key := wasOn, wasOff, ruleKey
	if w.wasOff {
		wanted, stale, key = wasOff, wasOn, ruleKeyWasOff
	}
	texts := ruleTexts(key)
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
				Need:    fmt.Sprintf("the rule %q in /etc/audit/rules.d", ruleTexts(ruleKey)[i]),
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

// buildRules builds the source's rules with a key.
func buildRules(key string) ([][]byte, error) {
	var rules [][]byte
	for _, text := range ruleTexts(key) {
		rule, err := buildRule(text)
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// check fails when system calls are recorded no more, and returns how many
// records the kernel has lost since the last check.
func (w *setup) check() (lost int64, err error) {
	status, err := w.kernel.Status()
	if err != nil {
		return 0, err
	}
	// The counter can be set to zero by others.
	if status.Lost > w.lost && (status.PID != 0 || !w.keepsRecords) {
		lost = int64(status.Lost - w.lost)
	}
	w.lost, w.locked = status.Lost, status.Enabled == statusLocked
	if status.Enabled == statusOff {
		return lost, errors.New("audit was switched off, so that no system call is recorded; it is switched on again soon, unless its daemon runs")
	}
	rules, err := w.rules()
	if err != nil {
		return lost, err
	}
	wanted, err := buildRules(ruleKey)
	if err != nil {
		return lost, err
	}
	for i, rule := range wanted {
		if !rules.covers(rule) {
			return lost, fmt.Errorf("somebody removed the audit rule %q or put another before it; it is added again soon", ruleTexts(ruleKey)[i])
		}
	}
	return lost, nil
}

// stop leaves audit as it was found.
func (w *setup) stop() error {
	if !w.started {
		return nil
	}
	status, err := w.kernel.Status()
	if err != nil {
		return err
	}
	if status.Enabled == statusLocked {
		return nil // nothing can be changed until the next boot
	}
	raw, err := w.kernel.Rules()
	if err != nil {
		return err
	}
	var failed error
	for _, rule := range w.own {
		if ruleList(raw).has(rule) {
			failed = errors.Join(failed, w.kernel.DeleteRule(rule))
		}
	}
	if w.wasOff && status.Enabled == statusOn && status.PID == 0 {
		failed = errors.Join(failed, w.kernel.SetEnabled(false))
		if w.since {
			failed = errors.Join(failed, w.kernel.SetBacklog(w.found.BacklogLimit, w.found.BacklogWaitTime))
		}
	}
	return failed
}

// hooks are what the source listens to.
func (w *setup) hooks() []string {
	return append([]string{"AUDIT_NLGRP_READLOG (multicast)"}, w.texts...)
}

// limits says what the source cannot see though all is well.
func (w *setup) limits() string {
	if !w.since {
		return ""
	}
	return "audit was off: calls of processes that were started before are not seen; boot with audit=1 to see all"
}
