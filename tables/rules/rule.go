package rules

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"go.yaml.in/yaml/v3"

	"github.com/kmodquery/kmodquery"
)

const (
	// maxRules bounds the rules of all files.
	maxRules = 128
	// maxText bounds a text of a rule in bytes.
	maxText = 4 << 10
)

// EventName is the event_name of the detections that rules are.
const EventName = "kernel_module_rule"

// A rule is a signature with the state of its evaluation.
type rule struct {
	kmodquery.Signature
	path     string
	line     int
	failures *failures
}

// failures count the evaluations of a rule that failed.
type failures struct {
	n    atomic.Int64
	last atomic.Pointer[string]
}

func (f *failures) add(err error) {
	f.n.Add(1)
	f.last.Store(new(err.Error()))
}

var (
	ruleID     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,63}$`)
	techniques = regexp.MustCompile(`^T[0-9]{4}(\.[0-9]{3})?$`)
)

// builtInPrefixes are those of the ids of the signatures of kmodquery.
var builtInPrefixes = []string{"TRC-", "KMQ-"}

// tactics are the tactics of MITRE ATT&CK for enterprises, with the names of version 19 and of
// earlier ones.
var tactics = []string{
	"reconnaissance", "resource-development", "initial-access", "execution", "persistence", "privilege-escalation", "defense-evasion", "stealth", "defense-impairment",
	"credential-access", "discovery", "lateral-movement", "collection", "command-and-control", "exfiltration", "impact",
}

var ruleKeys = []string{"id", "version", "name", "severity", "tactic", "technique", "reason", "description", "condition"}

// parseRules returns the rules of files.
func parseRules(files []textFile, columns []column, builtIn []kmodquery.Signature) ([]rule, error) {
	var rules []rule
	for _, f := range files {
		all, err := documents(f)
		if err != nil {
			return nil, err
		}
		for _, document := range all {
			r, err := parseRule(f.path, document, columns, builtIn)
			if err != nil {
				return nil, err
			}
			for _, other := range rules {
				if strings.EqualFold(other.ID, r.ID) {
					return nil, &FileError{f.path, r.line, fmt.Errorf("id %s is that of the rule in %s:%d", r.ID, other.path, other.line)}
				}
			}
			if rules = append(rules, r); len(rules) > maxRules {
				return nil, &FileError{f.path, r.line, fmt.Errorf("there are more than %d rules", maxRules)}
			}
		}
	}
	return rules, nil
}

func parseRule(path string, document *yaml.Node, columns []column, builtIn []kmodquery.Signature) (rule, error) {
	m, err := parseMapping(path, document, ruleKeys...)
	if err != nil {
		return rule{}, err
	}
	r := rule{path: path, line: document.Line, failures: new(failures)}
	var severity, condition string
	for _, field := range []struct {
		key  string
		to   *string
		most int
	}{
		{"id", &r.ID, maxText}, {"version", &r.Version, maxText}, {"name", &r.Name, maxText}, {"severity", &severity, maxText},
		{"tactic", &r.Category, maxText}, {"technique", &r.ExternalID, maxText}, {"reason", &r.Condition, maxText}, {"description", &r.Description, maxText},
		{"condition", &condition, maxCondition},
	} {
		if *field.to, err = m.required(field.key, field.most); err != nil {
			return rule{}, err
		}
	}
	reason := r.Condition
	level, err := strconv.ParseInt(severity, 10, 64)
	switch {
	case !ruleID.MatchString(r.ID):
		return rule{}, m.fail("id", "id %q must begin with a letter and have letters, digits, dots, dashes and underscores, at most 64", r.ID)
	case slices.ContainsFunc(builtInPrefixes, func(p string) bool { return strings.HasPrefix(strings.ToUpper(r.ID), p) }):
		return rule{}, m.fail("id", "id %s is reserved: %s begin the ids of kmodquery's own signatures", r.ID, strings.Join(builtInPrefixes, " and "))
	case err != nil || level < kmodquery.SeverityInfo || level > kmodquery.SeverityCritical:
		return rule{}, m.fail("severity", "severity %q must be a number from 0 to 4", severity)
	case !slices.Contains(tactics, r.Category):
		return rule{}, m.fail("tactic", "tactic %q must be one of %s", r.Category, strings.Join(tactics, ", "))
	case !techniques.MatchString(r.ExternalID):
		return rule{}, m.fail("technique", "technique %q must be a number of MITRE ATT&CK such as T1547.006", r.ExternalID)
	}
	compiled, err := compile(condition, columns)
	if err != nil {
		return rule{}, place(path, 0, atCondition(m.of["condition"], err))
	}
	r.Severity, r.EventName, r.KubernetesTechnique = level, EventName, "N/A"
	for _, s := range builtIn {
		if s.ExternalID == r.ExternalID {
			r.Technique, r.AttackID = s.Technique, s.AttackID
		}
	}
	r.Condition = condition
	r.evaluating(compiled, reason)
	return r, nil
}

// atCondition returns an error of a condition at its line in the file.
func atCondition(n *yaml.Node, err error) error {
	var at *positionError
	line := n.Line
	if errors.As(err, &at) {
		line += at.line - 1
		if n.Style == yaml.LiteralStyle || n.Style == yaml.FoldedStyle {
			line++ // the text begins below
		}
	}
	return &positionError{line, "condition: " + err.Error()}
}

// evaluating sets what the rule accepts.
func (r *rule) evaluating(c *condition, reason string) {
	r.Events = []string{kmodquery.EventLoadClosed, kmodquery.EventLoadClosedUnprivileged}
	r.Columns = []string{"event_name", "name", "path", "raw"}
	for _, of := range c.columns {
		r.Columns = append(r.Columns, of.needs...)
		if _, ok := kmodquery.EventColumn(of.name); ok {
			r.Facts = append(r.Facts, of.name)
		}
	}
	if r.Facts == nil {
		r.Facts = []string{"name"}
	}
	failed := r.failures
	r.Match = func(e *kmodquery.Event) (string, bool) {
		if !kmodquery.IsLoadClosed(e.EventName) {
			return "", false
		}
		isMatch, err := c.evaluate(e)
		if err != nil && !errors.Is(err, errAbsent) {
			failed.add(err)
		}
		if err != nil || !isMatch {
			return "", false
		}
		return describe(e) + ": " + reason, true
	}
}

// describe says which load an event closes.
func describe(e *kmodquery.Event) string {
	subject := "a module without a known name"
	switch {
	case e.Name != "":
		subject = strconv.Quote(e.Name)
	case e.Path != "":
		subject = strconv.Quote(e.Path)
	}
	return "load of " + subject + " (" + e.Closing().Outcome + ")"
}
