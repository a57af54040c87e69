package rules

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/kmodquery/kmodquery"
)

// Options configure [Folders].
type Options struct {
	// Rules and Expectations are folders. "" has none. If IsOptional or IsExpectOptional is set,
	// the folder need not exist.
	Rules            string
	IsOptional       bool
	Expectations     string
	IsExpectOptional bool
	// Columns are the names of the columns that conditions can read.
	Columns []string
	// Signatures are those of kmodquery itself.
	Signatures []kmodquery.Signature
	// Report is told of each mistake once. It may be nil.
	Report func(error)
}

// Folders hold the rules and the expectations of a host. They are safe for concurrent calls.
type Folders struct {
	options Options
	columns []column
	rules   watched[[]rule]
	expect  watched[[]expectation]

	reading sync.Mutex // held by the call that reads the folders
	current atomic.Pointer[state]
}

// A state is what one reading of the folders found.
type state struct {
	set   kmodquery.RuleSet
	rules []rule
}

// Open reads the folders.
func Open(o Options) *Folders {
	f := &Folders{options: o, columns: columnsOf(o.Columns)}
	f.current.Store(&state{})
	f.rules = watched[[]rule]{path: o.Rules, isOptional: o.IsOptional, parse: func(files []textFile) ([]rule, int64, error) {
		rules, err := parseRules(files, f.columns, o.Signatures)
		return rules, int64(len(rules)), err
	}}
	f.expect = watched[[]expectation]{path: o.Expectations, isOptional: o.IsExpectOptional, parse: func(files []textFile) ([]expectation, int64, error) {
		all, err := parseExpectations(files)
		return all, int64(len(all)), err
	}}
	f.read()
	return f
}

// RuleSet returns the rules and the expectations in force. It reads the folders again if they
// have changed, unless another call is reading them, and keeps what was in force if one of
// their files has a mistake.
func (f *Folders) RuleSet() kmodquery.RuleSet {
	if f.reading.TryLock() {
		f.read()
		f.reading.Unlock()
	}
	s := f.current.Load()
	set := s.set
	reasons := []string{set.Status.Reason}
	for _, r := range s.rules {
		if n := r.failures.n.Load(); n > 0 {
			set.Status.Errors += n
			reasons = append(reasons, fmt.Sprintf("the rule %s (%s:%d) failed on %d loads, which it does not match: %s", r.ID, r.path, r.line, n, *r.failures.last.Load()))
		}
	}
	set.Status.Reason = strings.Join(nonEmpty(reasons), "; ")
	return set
}

// Mistakes returns what is wrong with the files.
func (f *Folders) Mistakes() []error {
	f.reading.Lock()
	defer f.reading.Unlock()
	var all []error
	for _, mistake := range []error{f.rules.mistake, f.expect.mistake} {
		if mistake != nil {
			all = append(all, mistake)
		}
	}
	return all
}

func (f *Folders) read() {
	hasRules, hasExpectations := f.rules.read(f.options.Report), f.expect.read(f.options.Report)
	if !hasRules && !hasExpectations {
		return
	}
	s := &state{rules: f.rules.value}
	s.set.Status = kmodquery.RuleStatus{
		Rules: f.rules.entries, RulesHash: f.rules.hash, Expectations: f.expect.entries, ExpectationsHash: f.expect.hash,
		Reason: strings.Join(nonEmpty([]string{f.rules.reason(), f.expect.reason()}), "; "),
	}
	for _, r := range s.rules {
		s.set.Rules = append(s.set.Rules, r.Signature)
	}
	s.set.Expected, s.set.ExpectedColumns = expected(f.expect.value), nil
	if s.set.Expected != nil {
		s.set.ExpectedColumns = expectedColumns
	}
	f.current.Store(s)
}

func nonEmpty(texts []string) []string {
	var all []string
	for _, text := range texts {
		if text != "" {
			all = append(all, text)
		}
	}
	return all
}

// A watched folder is one that is read again when it changes.
type watched[T any] struct {
	path       string
	isOptional bool
	// parse returns what the files say, and of how many entries.
	parse func([]textFile) (T, int64, error)

	stamp   stamp
	isRead  bool // once without a mistake
	value   T    // in force
	entries int64
	hash    string
	mistake error // of the last reading; then the former value is in force
}

// read reads the folder if it has changed, and reports whether something else is in force or
// wrong now.
func (w *watched[T]) read(report func(error)) bool {
	if w.path == "" {
		return false
	}
	now, isFinal := stampOf(w.path)
	if now == w.stamp {
		return false
	}
	if w.stamp = now; !isFinal {
		w.stamp = "" // it is read again
	}
	files, err := readFolder(w.path, w.isOptional)
	if err == nil && w.isRead && w.mistake == nil && hashOf(files) == w.hash {
		return false
	}
	if err == nil {
		err = w.use(files)
	}
	if err != nil && !w.isRead {
		_ = w.use(w.valid(files)) // nothing was in force before
	}
	w.isRead = w.isRead || err == nil
	if report != nil && err != nil && (w.mistake == nil || w.mistake.Error() != err.Error()) {
		report(err)
	}
	w.mistake = err
	return true
}

// use puts files in force.
func (w *watched[T]) use(files []textFile) error {
	value, entries, err := w.parse(files)
	if err == nil {
		w.value, w.entries, w.hash = value, entries, hashOf(files)
	}
	return err
}

// valid returns the files without those with which the others have a mistake.
func (w *watched[T]) valid(files []textFile) []textFile {
	var valid []textFile
	for _, f := range files {
		with := append(slices.Clone(valid), f)
		if _, _, err := w.parse(with); err == nil {
			valid = with
		}
	}
	return valid
}

func (w *watched[T]) reason() string {
	switch {
	case w.mistake == nil:
		return ""
	case w.isRead:
		return fmt.Sprintf("%v; what %s said before is in force", w.mistake, w.path)
	}
	return fmt.Sprintf("%v; only the other files of %s are in force", w.mistake, w.path)
}
