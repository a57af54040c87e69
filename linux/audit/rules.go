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

// The keys of the source's own rules. The second records that audit was off before, so
// that another process switches it off again if this one is killed.
const (
	ruleKey       = "kmodquery"
	ruleKeyWasOff = "kmodquery-was-off"
)

// ruleTexts returns the source's rules in the syntax of auditctl(8).
func ruleTexts(key string) []string {
	var texts []string
	for _, arch := range []string{"b64", "b32"} {
		texts = append(texts, "-a always,exit -F arch="+arch+" -S init_module,finit_module,delete_module -k "+key)
	}
	return texts
}

// buildRule encodes a rule for the kernel.
func buildRule(text string) ([]byte, error) {
	var built rule.WireFormat
	parsed, err := flags.Parse(text)
	if err == nil {
		built, err = rule.Build(parsed)
	}
	if err != nil {
		return nil, fmt.Errorf("build the audit rule %q: %w", text, err)
	}
	return built, nil
}

// Actions of rules (include/uapi/linux/audit.h). No Go package names them.
const (
	actionNever  = 0
	actionAlways = 2
)

// A ruleData is struct audit_rule_data without the texts at its end.
type ruleData struct {
	Flags      uint32 // the list
	Action     uint32
	FieldCount uint32
	Mask       [64]uint32 // a bit for each system call
	Fields     [64]uint32
	Values     [64]uint32
	FieldFlags [64]uint32 // comparison operators
	BufLen     uint32
}

var errShortRule = errors.New("parse an audit rule: too short")

// parseRule parses a rule that the kernel has listed. It returns the texts separately.
func parseRule(raw []byte) (ruleData, []byte, error) {
	var r ruleData
	n, err := binary.Decode(raw, binary.NativeEndian, &r)
	if err != nil || uint64(r.BufLen) > uint64(len(raw)-n) || r.FieldCount > uint32(len(r.Fields)) {
		return ruleData{}, nil, errShortRule
	}
	return r, raw[n : n+int(r.BufLen)], nil
}

// isSameRule compares rules without the bytes after their end.
func isSameRule(a, b []byte) bool {
	first, firstTexts, err := parseRule(a)
	if err != nil {
		return false
	}
	second, secondTexts, err := parseRule(b)
	return err == nil && first == second && bytes.Equal(firstTexts, secondTexts)
}

// constrains reports whether the rule has conditions other than the system call, its
// architecture and the key.
func (r *ruleData) constrains() bool {
	for _, field := range r.Fields[:r.FieldCount] {
		if field != unix.AUDIT_ARCH && field != unix.AUDIT_FILTERKEY {
			return true
		}
	}
	return false
}

// arch returns the rule's architecture, or 0 if it is for all.
func (r *ruleData) arch() uint32 {
	for i, field := range r.Fields[:r.FieldCount] {
		if field == unix.AUDIT_ARCH && r.FieldFlags[i] == unix.AUDIT_EQUAL {
			return r.Values[i]
		}
	}
	return 0
}

// covers reports whether a rule matches all calls that ours matches.
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

// A ruleList is the kernel's list of rules, encoded.
type ruleList [][]byte

// has reports whether the list has a rule.
func (rules ruleList) has(ours []byte) bool {
	return slices.ContainsFunc(rules, func(raw []byte) bool { return isSameRule(raw, ours) })
}

// without returns the list without a rule.
func (rules ruleList) without(ours []byte) ruleList {
	return slices.DeleteFunc(slices.Clone(rules), func(raw []byte) bool { return isSameRule(raw, ours) })
}

// covers reports whether the list has the system calls of a rule recorded.
func (rules ruleList) covers(ours []byte) bool {
	wanted, _, err := parseRule(ours)
	if err != nil {
		return false
	}
	for _, raw := range rules {
		r, _, err := parseRule(raw)
		if err == nil && r.covers(&wanted) {
			return r.Action == actionAlways // the kernel uses the first that matches
		}
	}
	return false
}

// hiding returns the text of a rule that hides every system call, or "".
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
