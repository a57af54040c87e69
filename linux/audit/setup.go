//go:build linux

package audit

import (
	"errors"
	"fmt"
	"os"
	"strings"

	libaudit "github.com/elastic/go-libaudit/v2"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// A setup is the audit configuration that the source needs: audit is on, and rules
// have all module system calls recorded. start makes it, check verifies it, and stop
// restores what was there before.
type setup struct {
	kernel       kernelConn
	keepsRecords bool // the kernel keeps records for a daemon and counts those as lost

	wasOff  bool                  // audit was off and must be switched off again
	found   *libaudit.AuditStatus // the status before this Run switched it on; nil if it did not
	own     [][]byte              // the source's rules that are in the kernel
	texts   []string
	hiding  string // a rule of others that keeps some calls out of audit
	lost    uint32 // the kernel's count at the last check
	started bool
}

// isOnAtBoot reports whether the kernel was booted with audit on. Then it keeps records
// for a daemon that may start later, and counts those that it has no room for as lost
// although the multicast group received them.
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

// backlogLimit is how many records the kernel queues if audit was off before. It drops
// more, and counts them.
const backlogLimit = 8192

// Values of the kernel's audit_enabled.
const (
	statusOff    = 0
	statusOn     = 1
	statusLocked = 2
)

// start makes the kernel record the system calls.
func (s *setup) start() error {
	status, err := s.kernel.Status()
	if err != nil {
		return err
	}
	rules, hiding, err := s.rules()
	if err != nil {
		return err
	}
	s.hiding = hiding
	if status.Enabled == statusOff && status.PID != 0 {
		return errors.New("audit is off though its daemon runs; switch it on with auditctl -e 1")
	}
	s.lost, s.started = status.Lost, true
	if err := s.addRules(rules, status); err != nil {
		return err
	}
	if status.Enabled == statusOff {
		// With the kernel's own settings for a host without a daemon, a load that
		// makes more records than 64 can wait a minute for room.
		if err := s.kernel.SetBacklog(max(status.BacklogLimit, backlogLimit), 0); err != nil {
			return err
		}
		if err := s.kernel.SetEnabled(true); err != nil {
			return err
		}
		s.found = status
	}
	_, err = s.check()
	return err
}

// rules returns the kernel's rules, and one that hides some system calls, or "". It fails
// if one of them hides all.
func (s *setup) rules() (_ ruleList, hiding string, _ error) {
	raw, err := s.kernel.Rules()
	if err != nil {
		return nil, "", err
	}
	rules := ruleList(raw)
	hiding, isAll := rules.hiding()
	if isAll {
		return nil, "", fmt.Errorf("the audit rule %q keeps all system calls out of audit; remove it from /etc/audit/rules.d", hiding)
	}
	return rules, hiding, nil
}

// addRules adds the source's rules, before all others, unless other rules do the same. It
// takes over rules that a killed process left.
func (s *setup) addRules(rules ruleList, status *libaudit.AuditStatus) error {
	isLocked := status.Enabled == statusLocked
	wasOff, err := buildRules(ruleKeyWasOff)
	if err != nil {
		return err
	}
	wasOn, err := buildRules(ruleKey)
	if err != nil {
		return err
	}
	s.wasOff = status.Enabled == statusOff || status.Enabled == statusOn && (rules.has(wasOff[0]) || rules.has(wasOff[1]))
	wanted, stale, key := wasOn, wasOff, ruleKey
	if s.wasOff {
		wanted, stale, key = wasOff, wasOn, ruleKeyWasOff
	}
	texts := ruleTexts(key)
	for i, rule := range wanted {
		switch {
		case rules.has(rule) && rules.covers(rule):
		case rules.without(stale[i]).covers(rule), isLocked && rules.covers(rule):
			continue
		case isLocked:
			return &kmodquery.NotSupportedError{
				Missing: "audit's rules are locked until the next boot, and none has all module system calls recorded",
				Need:    fmt.Sprintf("the rule %q in /etc/audit/rules.d", ruleTexts(ruleKey)[i]),
			}
		default:
			if rules.has(rule) { // another was put before it
				if err := s.kernel.DeleteRule(rule); err != nil {
					return err
				}
			}
			err := s.kernel.AddRule(rule)
			if errors.Is(err, unix.EINVAL) {
				return &kmodquery.NotSupportedError{Missing: "this kernel's audit has no system calls", Need: "CONFIG_AUDITSYSCALL"}
			}
			if err != nil {
				return err
			}
		}
		s.own, s.texts = append(s.own, rule), append(s.texts, texts[i])
	}
	for _, rule := range stale {
		if rules.has(rule) && !isLocked {
			if err := s.kernel.DeleteRule(rule); err != nil {
				return err
			}
		}
	}
	return nil
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

// check fails if the system calls are no longer recorded. It returns how many records
// the kernel has lost since the last check.
func (s *setup) check() (lost int64, err error) {
	status, err := s.kernel.Status()
	if err != nil {
		return 0, err
	}
	// Other programs may reset the counter.
	if status.Lost > s.lost && (status.PID != 0 || !s.keepsRecords) {
		lost = int64(status.Lost - s.lost)
	}
	s.lost = status.Lost
	if status.Enabled == statusOff {
		return lost, errors.New("audit was switched off, so no system call is recorded; it is switched on again soon, unless its daemon runs")
	}
	rules, hiding, err := s.rules()
	if err != nil {
		return lost, err
	}
	if hiding != s.hiding {
		return lost, errors.New("rules that keep calls out of audit have changed; it starts again soon")
	}
	wanted, err := buildRules(ruleKey)
	if err != nil {
		return lost, err
	}
	for i, rule := range wanted {
		if !rules.covers(rule) {
			return lost, fmt.Errorf("the audit rule %q was removed, or another was put before it; it is added again soon", ruleTexts(ruleKey)[i])
		}
	}
	return lost, nil
}

// stop restores the configuration that start found.
func (s *setup) stop() error {
	if !s.started {
		return nil
	}
	status, err := s.kernel.Status()
	if err != nil {
		return err
	}
	if status.Enabled == statusLocked {
		return nil // nothing can be changed until the next boot
	}
	raw, err := s.kernel.Rules()
	if err != nil {
		return err
	}
	var failed error
	for _, rule := range s.own {
		if ruleList(raw).has(rule) {
			failed = errors.Join(failed, s.kernel.DeleteRule(rule))
		}
	}
	if s.wasOff && status.Enabled == statusOn && status.PID == 0 {
		failed = errors.Join(failed, s.kernel.SetEnabled(false))
		if s.found != nil {
			failed = errors.Join(failed, s.kernel.SetBacklog(s.found.BacklogLimit, s.found.BacklogWaitTime))
		}
	}
	return failed
}

// hooks returns the sensor's hooks.
func (s *setup) hooks() []string {
	return append([]string{"AUDIT_NLGRP_READLOG (multicast)"}, s.texts...)
}

// limits returns what the source cannot see.
func (s *setup) limits() string {
	if s.found == nil {
		return ""
	}
	return "audit was off: calls of processes that were started before are not seen; boot with audit=1 to see all"
}
