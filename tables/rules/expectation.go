package rules

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kmodquery/kmodquery"
)

const (
	// maxEntries bounds the entries of all files of expectations, and maxValues the values of
	// their lists together.
	maxEntries = 4096
	maxValues  = 65536
	// maxValue bounds a value in bytes.
	maxValue = 4 << 10
)

// An Entry is an expectation: loads that meet all its lists are expected. A load meets a list
// if it meets one of its values. An empty list is met by every load. A load whose fact is
// unknown, or not whole, meets no list of it.
type Entry struct {
	Modules    []string // names
	Hashes     []string // sha256, image_sha256 or cdhash, in hex
	Signers    []string // signer or team_id, where the kernel verified the signature
	Paths      []string // patterns of the file
	Packages   []string // that own the file
	Loaders    []string // patterns of the loader's program
	Signatures []string // ids of the signatures that it concerns
	Note       string
}

// field is one list of an entry.
type field struct {
	name string
	list func(*Entry) *[]string
	// prepare returns the value as it is compared, or an error.
	prepare func(string) (string, error)
}

var fields = []field{
	{"modules", func(e *Entry) *[]string { return &e.Modules }, func(v string) (string, error) { return moduleName(v), nil }},
	{"hashes", func(e *Entry) *[]string { return &e.Hashes }, checkHash},
	{"signers", func(e *Entry) *[]string { return &e.Signers }, func(v string) (string, error) { return v, nil }},
	{"paths", func(e *Entry) *[]string { return &e.Paths }, checkGlob},
	{"packages", func(e *Entry) *[]string { return &e.Packages }, checkPackage},
	{"loaders", func(e *Entry) *[]string { return &e.Loaders }, checkGlob},
	{"signatures", func(e *Entry) *[]string { return &e.Signatures }, func(v string) (string, error) { return strings.ToUpper(v), nil }},
}

// moduleName returns a name as the kernel has it. The names of files have dashes too.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

var hashes = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

func checkHash(text string) (string, error) {
	text = strings.ToLower(text)
	if !hashes.MatchString(text) {
		return "", fmt.Errorf("%q is no hash in hex", text)
	}
	return text, nil
}

func checkGlob(text string) (string, error) {
	if !strings.HasPrefix(text, "/") {
		return "", fmt.Errorf("%q must begin with a slash", text)
	}
	return text, nil
}

// packageColumn is the event's column with the package of the file.
const packageColumn = "package"

func checkPackage(text string) (string, error) {
	if _, ok := kmodquery.EventColumn(packageColumn); !ok {
		return "", fmt.Errorf("loads do not have the package of their file")
	}
	return text, nil
}

// expectedColumns are the columns that expectations read.
var expectedColumns = slices.Concat([]string{
	"name", "path", "sha256", "image_sha256", "cdhash", "signer", "team_id", "signature_status", packageColumn, "process_path", "container_id", "missing",
}, kmodquery.LoadReportColumns, kmodquery.UnprivilegedNeeds())

// An expectation is an entry that can be compared.
type expectation struct {
	place      string // file and line
	modules    set
	hashes     set
	signers    set
	paths      globs
	packages   set
	loaders    globs
	signatures set
}

// A set is nil if the entry has no such list.
type set map[string]bool

func setOf(values []string) set {
	if len(values) == 0 {
		return nil
	}
	s := set{}
	for _, v := range values {
		s[v] = true
	}
	return s
}

// globs are patterns of paths, nil if the entry has no such list.
type globs []*regexp.Regexp

func globsOf(patterns []string) globs {
	var all globs
	for _, p := range patterns {
		all = append(all, compileGlob(p))
	}
	return all
}

// compileGlob returns the expression of a pattern, in which * is any text without a slash, **
// any text, and ? one character that is no slash.
func compileGlob(pattern string) *regexp.Regexp {
	var b strings.Builder
	for rest := pattern; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString(`[^/]*`)
			rest = rest[1:]
		case rest[0] == '?':
			b.WriteString(`[^/]`)
			rest = rest[1:]
		default:
			n := strings.IndexAny(rest, "*?")
			if n < 0 {
				n = len(rest)
			}
			b.WriteString(regexp.QuoteMeta(rest[:n]))
			rest = rest[n:]
		}
	}
	return regexp.MustCompile(`(?s)\A` + b.String() + `\z`)
}

// parseExpectations returns the expectations of files.
func parseExpectations(files []textFile) ([]expectation, error) {
	var all []expectation
	values := 0
	for _, f := range files {
		documents, err := documents(f)
		if err != nil {
			return nil, err
		}
		for _, document := range documents {
			if document.Kind != yaml.SequenceNode {
				return nil, &FileError{f.path, document.Line, fmt.Errorf("there must be a list of entries, each after a dash")}
			}
			for _, node := range document.Content {
				e, n, err := parseExpectation(f.path, node)
				if err != nil {
					return nil, err
				}
				values += n
				if all = append(all, e); len(all) > maxEntries || values > maxValues {
					return nil, &FileError{f.path, node.Line, fmt.Errorf("there are more than %d entries or %d values", maxEntries, maxValues)}
				}
			}
		}
	}
	return all, nil
}

func parseExpectation(path string, node *yaml.Node) (expectation, int, error) {
	keys := []string{"note"}
	for _, f := range fields {
		keys = append(keys, f.name)
	}
	m, err := parseMapping(path, node, keys...)
	if err != nil {
		return expectation{}, 0, err
	}
	if _, err := m.text("note", maxValue); err != nil {
		return expectation{}, 0, err
	}
	var entry Entry
	n := 0
	for _, f := range fields {
		values, err := m.list(f)
		if err != nil {
			return expectation{}, 0, err
		}
		*f.list(&entry) = values
		n += len(values)
	}
	if len(entry.Hashes)+len(entry.Signers)+len(entry.Paths)+len(entry.Packages) == 0 {
		return expectation{}, 0, &FileError{path, node.Line, fmt.Errorf("an entry needs hashes, signers, paths or packages: an attacker chooses the name of a module and its loader")}
	}
	return entry.compile(fmt.Sprintf("%s:%d", path, node.Line)), n, nil
}

func (e *Entry) compile(place string) expectation {
	return expectation{
		place: place, modules: setOf(e.Modules), hashes: setOf(e.Hashes), signers: setOf(e.Signers), paths: globsOf(e.Paths), packages: setOf(e.Packages),
		loaders: globsOf(e.Loaders), signatures: setOf(e.Signatures),
	}
}

// list returns the values of a list; a single one needs no list.
func (m mapping) list(f field) ([]string, error) {
	n := m.of[f.name]
	if n == nil {
		return nil, nil
	}
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		items = n.Content
	}
	if len(items) == 0 {
		return nil, m.fail(f.name, "%s is empty; leave it out, or name what is expected", f.name)
	}
	var values []string
	for _, item := range items {
		if item.Kind != yaml.ScalarNode || isNull(item) || item.Value == "" || len(item.Value) > maxValue {
			return nil, &FileError{m.path, item.Line, fmt.Errorf("%s takes texts of at most %d bytes", f.name, maxValue)}
		}
		value, err := f.prepare(item.Value)
		if err != nil {
			return nil, &FileError{m.path, item.Line, fmt.Errorf("%s: %w", f.name, err)}
		}
		values = append(values, value)
	}
	return values, nil
}

// meets reports whether a finding of a load meets the expectation.
func (x *expectation) meets(id string, e *kmodquery.Event) bool {
	if x.signatures != nil && !x.signatures[strings.ToUpper(id)] {
		return false
	}
	isVerified := e.SignatureStatus == kmodquery.SignatureValid
	if (x.paths != nil || x.loaders != nil) && !isOfHost(e) {
		return false
	}
	return x.modules.has(moduleName(value(e, "name"))) &&
		x.hashes.has(value(e, "sha256"), value(e, "image_sha256"), value(e, "cdhash")) &&
		(x.signers == nil || isVerified && x.signers.has(value(e, "signer"), value(e, "team_id"))) &&
		x.paths.match(value(e, "path")) && x.packages.has(value(e, packageColumn)) && x.loaders.match(value(e, "process_path"))
}

// isOfHost reports whether a load is known to be from no container, which chooses what its paths
// lead to.
func isOfHost(e *kmodquery.Event) bool { return e.ContainerID == "" && !e.Missing.Has("container_id") }

// value returns a text as the tables show it, "" if it is unknown or not whole.
func value(e *kmodquery.Event, name string) string {
	column, ok := kmodquery.EventColumn(name)
	if !ok || e.Missing.Has(name) {
		return ""
	}
	text, _ := column.Text(e)
	return kmodquery.ShownText(name, text)
}

func (s set) has(values ...string) bool {
	return s == nil || slices.ContainsFunc(values, func(v string) bool { return v != "" && s[v] })
}

func (g globs) match(path string) bool {
	return g == nil || path != "" && slices.ContainsFunc(g, func(r *regexp.Regexp) bool { return r.MatchString(path) })
}

// IsLoadFinding reports whether a finding is of a load, and so can be expected. What
// the recorder finds hidden, tampered with or erased cannot.
func IsLoadFinding(e *kmodquery.Event) bool {
	return (e.IsLoadReport() || kmodquery.IsLoadClosed(e.EventName)) && e.EventName != kmodquery.EventModuleUnwitnessed
}

// expected returns the function of a [kmodquery.RuleSet].
func expected(all []expectation) func(*kmodquery.Finding) string {
	if len(all) == 0 {
		return nil
	}
	return func(f *kmodquery.Finding) string {
		if !IsLoadFinding(f.Event) {
			return ""
		}
		for i := range all {
			if all[i].meets(f.ID, f.Event) {
				return all[i].place
			}
		}
		return ""
	}
}
