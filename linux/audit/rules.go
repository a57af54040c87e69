//go:build linux

package audit

import (
	"bytes"
	"cmp"
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
func (r *ruleData) constrains() bool { return r.hasOther(unix.AUDIT_ARCH, unix.AUDIT_FILTERKEY) }

// hasOther reports whether the rule has other fields than these.
func (r *ruleData) hasOther(fields ...uint32) bool {
	return slices.ContainsFunc(r.Fields[:r.FieldCount], func(field uint32) bool { return !slices.Contains(fields, field) })
}

// excludes reports whether the rule's conditions on the type of a record may be true for
// a type.
func (r *ruleData) excludes(kind uint32) bool {
	for i, field := range r.Fields[:r.FieldCount] {
		order := cmp.Compare(kind, r.Values[i])
		switch {
		case field != unix.AUDIT_MSGTYPE:
		case r.FieldFlags[i] == unix.AUDIT_EQUAL && order != 0, r.FieldFlags[i] == unix.AUDIT_NOT_EQUAL && order == 0,
			r.FieldFlags[i] == unix.AUDIT_LESS_THAN && order >= 0, r.FieldFlags[i] == unix.AUDIT_LESS_THAN_OR_EQUAL && order > 0,
			r.FieldFlags[i] == unix.AUDIT_GREATER_THAN && order <= 0, r.FieldFlags[i] == unix.AUDIT_GREATER_THAN_OR_EQUAL && order < 0:
			return false
		}
	}
	return true
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

// touches reports whether a rule may match a call that ours matches.
func (r *ruleData) touches(ours *ruleData) bool {
	if r.Flags != unix.AUDIT_FILTER_EXIT || r.arch() != 0 && r.arch() != ours.arch() {
		return false
	}
	for i, mask := range ours.Mask {
		if r.Mask[i]&mask != 0 {
			return true
		}
	}
	return false
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

// covers reports whether the list has the system calls of a rule recorded, whoever makes
// them. The kernel uses the first rule that matches. Whether a constraint is always true
// cannot be known, so a rule that may keep one of the calls out counts as one that does.
func (rules ruleList) covers(ours []byte) bool {
	wanted, _, err := parseRule(ours)
	if err != nil {
		return false
	}
	for _, raw := range rules {
		r, _, err := parseRule(raw)
		switch {
		case err != nil:
		case r.Action == actionNever && r.touches(&wanted):
			return false
		case r.Action == actionAlways && r.covers(&wanted):
			return true
		}
	}
	return false
}

// hiding returns the text of a rule that keeps system calls out of audit before the rules
// for them are used, or "". isAll reports that it keeps out all of them.
func (rules ruleList) hiding() (text string, isAll bool) {
	for _, raw := range rules {
		r, _, err := parseRule(raw)
		if err != nil || isAll {
			continue
		}
		isConstrained := r.constrains()
		switch {
		case r.Flags == unix.AUDIT_FILTER_TASK && r.Action == actionNever:
		case r.Flags == unix.AUDIT_FILTER_EXCLUDE && r.excludes(unix.AUDIT_SYSCALL):
			isConstrained = r.hasOther(unix.AUDIT_MSGTYPE)
		default:
			continue
		}
		isAll = !isConstrained
		if text, err = rule.ToCommandLine(raw, false); err != nil {
			text = fmt.Sprintf("in list %d", r.Flags)
		}
	}
	return text, isAll
}
