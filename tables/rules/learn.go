package rules

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kmodquery/kmodquery"
)

// maxLearned bounds the loads that a [Learner] remembers. Later ones are left out.
const maxLearned = 200_000

// LearnColumns are the columns of the events that a [Learner] needs, besides those of the
// signatures.
var LearnColumns = slices.Concat(expectedColumns, []string{"load_id", "parent_load_id", "raw"})

// A Learner makes expectations from what a store has seen. It takes loads that succeeded, whose
// hash is known, and that no signature of a high severity accepts.
type Learner struct {
	loads    map[string]*learnedLoad // by load_id
	hidden   map[string]bool         // names, and load_ids, of modules that were hidden
	leftOver int                     // loads beyond maxLearned, and loads without a load_id
}

// A learnedLoad is what is known of a load.
type learnedLoad struct {
	name, hash, signer, loader string
	isReported                 bool
	isExpected                 bool
	outcome                    string
	severe                     []string // ids of the findings of a high severity
}

// NewLearner returns a learner that has seen nothing.
func NewLearner() *Learner {
	return &Learner{loads: map[string]*learnedLoad{}, hidden: map[string]bool{}}
}

// load returns the load of an id, nil if it is not remembered.
func (l *Learner) load(id string) *learnedLoad {
	if id == "" || l.loads[id] == nil && len(l.loads) >= maxLearned {
		return nil
	}
	if l.loads[id] == nil {
		l.loads[id] = &learnedLoad{}
	}
	return l.loads[id]
}

// AddFinding adds a finding of a signature. It is called with all findings of the store.
func (l *Learner) AddFinding(f *kmodquery.Finding) {
	e := f.Event
	if e.EventName == kmodquery.EventModuleHidden || e.EventName == kmodquery.EventModuleUnwitnessed {
		l.hidden["name "+e.Name], l.hidden["load "+cmp.Or(e.LoadID, e.ParentLoadID)] = true, true
		return
	}
	if e.IsUnprivileged() || !IsLoadFinding(e) {
		return
	}
	load := l.load(e.LoadID)
	if load == nil {
		l.leftOver++
		return
	}
	if e.IsLoadReport() {
		load.report(e)
		load.isExpected = f.ExpectedBy != ""
	}
	if f.Severity >= kmodquery.SeverityHigh && !slices.Contains(load.severe, f.ID) {
		load.severe = append(load.severe, f.ID)
	}
}

// report sets what the event says that stands for the load.
func (l *learnedLoad) report(e *kmodquery.Event) {
	l.isReported = true
	l.name = value(e, "name")
	if l.loader = ""; isOfHost(e) {
		l.loader = value(e, "process_path")
	}
	l.hash = cmp.Or(value(e, "image_sha256"), value(e, "sha256"), value(e, "cdhash"))
	if l.signer = ""; e.SignatureStatus == kmodquery.SignatureValid {
		l.signer = cmp.Or(value(e, "signer"), value(e, "team_id"))
	}
}

// AddClosing adds the event that closes a load.
func (l *Learner) AddClosing(e *kmodquery.Event) {
	if load := l.loads[e.LoadID]; load != nil {
		load.outcome = e.Closing().Outcome
	}
}

// Learned is what a [Learner] has made.
type Learned struct {
	Entries []Entry
	Taken   int                 // loads
	LeftOut map[string][]string // names of modules by the reason, one for each load
}

// Learn returns expectations of the loads that were added: by the signer where the kernel
// verified the signature, and by the hash of the others. They name the loaders that are known.
func (l *Learner) Learn() Learned {
	learned := Learned{LeftOut: map[string][]string{}}
	entries := map[string]*Entry{}
	for _, id := range slices.Sorted(maps.Keys(l.loads)) {
		load := l.loads[id]
		if !load.isReported {
			continue
		}
		if why := l.leavesOut(id, load); why != "" {
			learned.LeftOut[why] = append(learned.LeftOut[why], cmp.Or(load.name, "without a name"))
			continue
		}
		learned.Taken++
		key := "hash " + load.name + " " + load.loader
		loaders := "any"
		if load.loader != "" {
			loaders = "known"
		}
		if load.signer != "" {
			key = "signer " + loaders + " " + load.signer
		}
		if entries[key] == nil {
			entries[key] = &Entry{}
		}
		e := entries[key]
		if e.Modules = add(e.Modules, load.name); load.loader != "" {
			e.Loaders = add(e.Loaders, load.loader)
		}
		if load.signer != "" {
			e.Signers = add(e.Signers, load.signer)
		} else {
			e.Hashes = add(e.Hashes, load.hash)
		}
	}
	if l.leftOver > 0 {
		learned.LeftOut["no load_id, or too many loads"] = make([]string, l.leftOver)
	}
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		learned.Entries = append(learned.Entries, *entries[key])
	}
	return learned
}

// leavesOut returns why a load becomes no expectation, "" if it does.
func (l *Learner) leavesOut(id string, load *learnedLoad) string {
	switch {
	case l.hidden["load "+id] || load.name != "" && l.hidden["name "+load.name]:
		return "a module of that name was hidden, or loaded unseen"
	case load.outcome != kmodquery.OutcomeLoaded:
		return "outcome " + cmp.Or(load.outcome, "not known yet")
	case load.isExpected:
		return "expected already"
	case len(load.severe) > 0:
		slices.Sort(load.severe)
		return "findings of a high severity: " + strings.Join(load.severe, ", ")
	case load.hash == "":
		return "hash unknown"
	case load.name == "":
		return "name unknown"
	case strings.ContainsAny(load.loader, "*?"):
		return "* or ? in the loader's path"
	}
	return ""
}

// add adds a value to a sorted list, once.
func add(list []string, value string) []string {
	at, ok := slices.BinarySearch(list, value)
	if ok {
		return list
	}
	return slices.Insert(list, at, value)
}

// Format returns a file of entries with a comment at its beginning. It returns an error if
// the file would be refused.
func Format(comment string, entries []Entry) ([]byte, error) {
	var b bytes.Buffer
	for line := range strings.SplitSeq(comment, "\n") {
		fmt.Fprintln(&b, "#", line)
	}
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, e := range entries {
		entry := &yaml.Node{Kind: yaml.MappingNode}
		for _, f := range fields {
			values := *f.list(&e)
			if len(values) == 0 {
				continue
			}
			items := &yaml.Node{Kind: yaml.SequenceNode}
			for _, v := range values {
				item := new(yaml.Node)
				item.SetString(v)
				items.Content = append(items.Content, item)
			}
			entry.Content = append(entry.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.name}, items)
		}
		list.Content = append(list.Content, entry)
	}
	if len(entries) > 0 {
		encoder := yaml.NewEncoder(&b)
		encoder.SetIndent(2)
		if err := encoder.Encode(list); err != nil {
			return nil, fmt.Errorf("write expectations: %w", err)
		}
	}
	if b.Len() > maxFileSize {
		return nil, fmt.Errorf("the expectations have %d bytes, more than the %d that a file may have", b.Len(), maxFileSize)
	}
	if _, err := parseExpectations([]textFile{{"", b.Bytes()}}); err != nil {
		return nil, fmt.Errorf("write expectations: %w", err)
	}
	return b.Bytes(), nil
}

// Change returns the expectations of a folder without a file, and those with it. The file
// takes the place of the one of its name. It need not be in the folder, and anybody may be
// able to write it. Either function is nil without expectations.
func Change(folder string, isOptional bool, path string) (before, after func(*kmodquery.Finding) string, err error) {
	files, err := readFolder(folder, isOptional)
	if err != nil {
		return nil, nil, err
	}
	changed, err := readAny(path)
	if err != nil {
		return nil, nil, err
	}
	isOf := func(f textFile) bool { return filepath.Base(f.path) == filepath.Base(path) }
	without := slices.DeleteFunc(slices.Clone(files), isOf)
	old := files
	if inside, err := filepath.Abs(filepath.Dir(path)); err == nil && inside == filepath.Clean(folder) {
		old = without // the folder has the change already
	}
	was, err := parseExpectations(old)
	if err != nil {
		return nil, nil, err
	}
	with := append(slices.Clone(without), changed)
	slices.SortFunc(with, func(a, b textFile) int { return strings.Compare(filepath.Base(a.path), filepath.Base(b.path)) })
	is, err := parseExpectations(with)
	return expected(was), expected(is), err
}

// readAny reads a file that is not in force.
func readAny(path string) (textFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return textFile{}, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return textFile{}, errors.Join(err, &fs.PathError{Op: "read", Path: path, Err: errors.New("is not a regular file")})
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(content) > maxFileSize {
		err = fmt.Errorf("%s has more than %d bytes; split it", path, maxFileSize)
	}
	return textFile{path, content}, err
}
