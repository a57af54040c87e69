//go:build linux

package vm

import (
	"slices"
	"strings"
)

// A verdict is the outcome of a test and its subtests, as go test prints it.
type verdict struct {
	name   string // the last element, without the names of the parents
	status string // "PASS", "FAIL", "SKIP", or "" if the test did not end
	took   string // as package testing prints it, "0.01s"
	log    strings.Builder
	sub    []*verdict
}

// A report is the parsed output of a test binary run with
// -test.v=test2json.
type report struct {
	tests []*verdict
	rest  strings.Builder // output outside of tests: of panics, the flag package, main
}

// This byte distinguishes the marks of package testing from a test's output.
const mark = "\x16"

// parseReport parses the output of a test binary.
func parseReport(output string) *report {
	r := &report{}
	all := map[string]*verdict{}
	var current *verdict
	for line := range strings.Lines(output) {
		text, marked, isMarked := strings.Cut(line, mark)
		// A mark follows a test's unfinished line without a newline.
		if text != "" {
			r.write(current, text)
		}
		if !isMarked {
			continue
		}
		kind, name, took, ok := parseMark(strings.TrimSpace(marked))
		switch {
		case !ok:
			r.write(current, marked)
		case kind == "RUN":
			current = r.add(all, name)
		case kind == "NAME", kind == "CONT", kind == "PAUSE":
			current = all[name]
		default:
			current = all[name]
			if current != nil {
				current.status, current.took = kind, took
			}
		}
	}
	return r
}

// parseMark reads "=== RUN   TestX" and "--- PASS: TestX (0.01s)".
func parseMark(text string) (kind, name, took string, ok bool) {
	if begin, found := strings.CutPrefix(text, "=== "); found {
		kind, name, _ = strings.Cut(begin, " ")
		return kind, strings.TrimSpace(name), "", true
	}
	end, found := strings.CutPrefix(text, "--- ")
	if !found {
		return "", "", "", false
	}
	kind, name, found = strings.Cut(end, ": ")
	name, took, _ = strings.Cut(name, " (")
	return kind, name, strings.TrimSuffix(took, ")"), found
}

// add adds the verdict of a test that starts, below its parent's.
func (r *report) add(all map[string]*verdict, name string) *verdict {
	if v := all[name]; v != nil {
		return v
	}
	v := &verdict{name: name}
	all[name] = v
	parent, own := parentOf(all, name)
	if parent == nil {
		r.tests = append(r.tests, v)
		return v
	}
	v.name = own
	parent.sub = append(parent.sub, v)
	return v
}

// parentOf returns the nearest running test that is a parent of a subtest by its name.
// A subtest's own name may contain slashes.
func parentOf(all map[string]*verdict, name string) (parent *verdict, own string) {
	for i := len(name) - 1; i > 0; i-- {
		if name[i] != '/' {
			continue
		}
		if v := all[name[:i]]; v != nil && v.status == "" {
			return v, name[i+1:]
		}
	}
	return nil, name
}

func (r *report) write(to *verdict, text string) {
	if to == nil {
		r.rest.WriteString(text)
		return
	}
	to.log.WriteString(text)
}

// ran reports whether at least one test was not skipped.
func (r *report) ran() bool {
	for _, v := range r.tests {
		if v.status != "SKIP" {
			return true
		}
	}
	return false
}

// hasFailures reports whether a test failed.
func (r *report) hasFailures() bool {
	return slices.ContainsFunc(r.tests, func(v *verdict) bool { return v.status == "FAIL" })
}

// problem returns the reason why a run failed that its tests' verdicts do not show, or
// "".
func (r *report) problem() string {
	if !r.ran() {
		return "no test ran"
	}
	return ""
}
