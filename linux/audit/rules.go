//go:build linux

package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/elastic/go-libaudit/v2/rule"
	"github.com/elastic/go-libaudit/v2/rule/flags"
	"golang.org/x/sys/unix"
)

// The keys by which the source's own rules are known. The second says that audit
// was off before the source came, so that it is switched off again even by
// another process, after this one was killed.
const (
	ruleKey       = "kmodquery"
	ruleKeyWasOff = "kmodquery-was-off"
)

// ruleTexts are the source's rules, as auditctl(8) takes them.
func ruleTexts(key string) []string {
	var texts []string
	for _, arch := range []string{"b64", "b32"} {
		texts = append(texts, "-a always,exit -F arch="+arch+" -S init_module,finit_module,delete_module -k "+key)
	}
	return texts
}

// buildRule turns a rule's text into what the kernel takes.
func buildRule(text string) ([]byte, error) {
	parsed, err := flags.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read the audit rule %q: %w", text, err)
	}
	built, err := rule.Build(parsed)
	if err != nil {
		return nil, fmt.Errorf("build the audit rule %q: %w", text, err)
	}
	return built, nil
}

// Actions of rules (include/uapi/linux/audit.h), which have no name elsewhere.
const (
	actionNever  = 0
	actionAlways = 2
)

// A ruleData is struct audit_rule_data, but for the texts at its end.
type ruleData struct {
	Flags      uint32 // the list
	Action     uint32
	FieldCount uint32
	Mask       [64]uint32 // a bit for each system call
	Fields     [64]uint32
	Values     [64]uint32
	FieldFlags [64]uint32 // how each is compared
	BufLen     uint32
}

var errShortRule = errors.New("read an audit rule: too short")

// parseRule reads a rule as the kernel lists it.
func parseRule(raw []byte) (ruleData, []byte, error) {
	var r ruleData
	n, err := binary.Decode(raw, binary.NativeEndian, &r)
	if err != nil || uint64(r.BufLen) > uint64(len(raw)-n) || r.FieldCount > uint32(len(r.Fields)) {
		return ruleData{}, nil, errShortRule
	}
	return r, raw[n : n+int(r.BufLen)], nil
}

// isSameRule compares rules but for the bytes behind their end.
func isSameRule(a, b []byte) bool {
	first, firstTexts, err := parseRule(a)
	if err != nil {
		return false
	}
	second, secondTexts, err := parseRule(b)
	return err == nil && first == second && bytes.Equal(firstTexts, secondTexts)
}

// constrains reports whether the rule looks at anything but the system call,
// its architecture and the key.
func (r *ruleData) constrains() bool {
	for _, field := range r.Fields[:r.FieldCount] {
		if field != unix.AUDIT_ARCH && field != unix.AUDIT_FILTERKEY {
			return true
		}
	}
	return false
}

// arch is the architecture that the rule is for; 0 where it is for all.
func (r *ruleData) arch() uint32 {
	for i, field := range r.Fields[:r.FieldCount] {
		if field == unix.AUDIT_ARCH && r.FieldFlags[i] == unix.AUDIT_EQUAL {
			return r.Values[i]
		}
	}
	return 0
}

// covers reports whether a rule lets everything through that ours is for.
func (r *ruleData) covers(ours *ruleData) bool {
	if r.Flags != unix.AUDIT_FILTER_EXIT || r.constrains() || r.arch() != 0 && r.arch() != ours.arch() {
		return false
	}
	for i, mask := range ours.Mask {
		if r.Mask[i]&mask != mask {
			return false
		}
	}
	return true
}

// ruleList are the kernel's rules.
type ruleList [][]byte

// has reports whether a rule is among them.
func (rules ruleList) has(ours []byte) bool {
	return slices.ContainsFunc(rules, func(raw []byte) bool { return isSameRule(raw, ours) })
}

// without is all rules but one.
func (rules ruleList) without(ours []byte) ruleList {
	return slices.DeleteFunc(slices.Clone(rules), func(raw []byte) bool { return isSameRule(raw, ours) })
}

// covers reports whether some rule, whoever made it, has the system calls of
// ours recorded.
func (rules ruleList) covers(ours []byte) bool {
	wanted, _, err := parseRule(ours)
	if err != nil {
		return false
	}
	for _, raw := range rules {
		r, _, err := parseRule(raw)
		if err == nil && r.covers(&wanted) {
			return r.Action == actionAlways // the first that matches decides
		}
	}
	return false
}

// hiding is a rule that keeps every system call out of audit, or "".
func (rules ruleList) hiding() string {
	for _, raw := range rules {
		r, _, err := parseRule(raw)
		if err != nil {
			continue
		}
		switch {
		case r.Flags == unix.AUDIT_FILTER_TASK && r.Action == actionNever && !r.constrains():
			return "-a never,task"
		case r.Flags == unix.AUDIT_FILTER_EXCLUDE && r.FieldCount == 1 && r.Fields[0] == unix.AUDIT_MSGTYPE &&
			r.FieldFlags[0] == unix.AUDIT_EQUAL && r.Values[0] == unix.AUDIT_SYSCALL:
			return "-a always,exclude -F msgtype=SYSCALL"
		}
	}
	return ""
}
