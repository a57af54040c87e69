//go:build linux

package autostart

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

// modprobeFolders are the folders of modprobe.d, the one that takes precedence first.
var modprobeFolders = []string{"/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"}

// A line is a directive in a file, or on the kernel's command line.
type line struct {
	directive
	file *file
}

// where names the place of a line.
func (l *line) where() string {
	return where(l.file.resolved, l.line)
}

func where(file string, number int64) string {
	if file = kmodquery.Printable(file); number == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, number)
}

// A config is kmod's configuration: the files of modprobe.d and the kernel's command line.
type config struct {
	files      []*file
	lines      []*line // of all files, also of those that are masked
	aliases    []*line
	blacklist  []*line
	options    []*line
	installs   []*line
	removes    []*line
	softdeps   []*line
	weakdeps   []*line
	modules    *modules
	parameters []parameter
	cmdline    *file
	refused    map[string]bool // modules that the kernel refuses to load (module_blacklist=)
	folderErr  error           // why some of the files are unknown
	err        error           // why some of it is unknown
	deadline   time.Time       // for looking up modules
}

// resolveTime bounds the look-ups of one reading, which hostile patterns make slow.
const resolveTime = 10 * time.Second

var errLate = errors.New("looking up modules took too long")

// isLate reports whether the time for looking up modules is over. What was not looked up is
// unknown then.
func (c *config) isLate() bool {
	if time.Now().Before(c.deadline) {
		return false
	}
	c.err, c.modules.err = errLate, errLate
	return true
}

// readConfig reads kmod's configuration.
func (r *reading) readConfig() *config {
	c := &config{modules: r.readModules(), deadline: time.Now().Add(resolveTime)}
	var ofDepmod []string
	if folder := c.modules.folder; folder != "" {
		ofDepmod = []string{folder + "/modules.softdep", folder + "/modules.weakdep"}
	}
	c.files, c.folderErr = r.readFolders(newBudget(), modprobeFolders, ".conf", ofDepmod...)
	for _, f := range c.files {
		if f.err != nil && f.mask == nil && !f.isNull() && !f.isOdd() {
			c.err = fmt.Errorf("cannot read %s: %s", kmodquery.Printable(f.path), reason(f.err))
		}
		parseModprobe(f.data, func(d directive) bool {
			if len(c.lines) >= maxLines {
				c.folderErr = errTooMany
				return false
			}
			c.add(&line{d, f})
			return true
		})
	}
	if c.folderErr != nil {
		c.err = c.folderErr
	}
	c.readCmdline(r)
	return c
}

// add adds a line, which has an effect if it is valid and its file is not masked.
func (c *config) add(l *line) {
	c.lines = append(c.lines, l)
	if l.file.mask == nil && l.isValid {
		if of := c.of(l.command); of != nil {
			*of = append(*of, l)
		}
	}
}

// of returns the lines with a command.
func (c *config) of(command string) *[]*line {
	switch command {
	case "alias":
		return &c.aliases
	case "blacklist":
		return &c.blacklist
	case "options":
		return &c.options
	case "install":
		return &c.installs
	case "remove":
		return &c.removes
	case "softdep":
		return &c.softdeps
	case "weakdep":
		return &c.weakdeps
	}
	return nil
}

// readCmdline adds what the kernel's command line says.
func (c *config) readCmdline(r *reading) {
	if c.cmdline = r.readFile("/proc/cmdline"); c.cmdline == nil {
		return
	}
	c.setCmdline(string(c.cmdline.data))
}

func (c *config) setCmdline(text string) {
	text, _, _ = strings.Cut(text, "\x00")
	c.refused = map[string]bool{}
	c.parameters = parseCmdline(text)
	for _, p := range c.parameters {
		if strings.ReplaceAll(p.key, "-", "_") == "module_blacklist" && p.isKernel {
			c.refused = map[string]bool{} // the last one counts
			for name := range strings.SplitSeq(p.value, ",") {
				c.refused[name] = true
			}
		}
	}
	for _, o := range parseOptions(text) {
		if names, isBlacklist := strings.CutPrefix(o.option, "blacklist="); isBlacklist && o.name == "modprobe" {
			for name := range strings.SplitSeq(names, ",") {
				c.blacklist = append(c.blacklist, &line{directive{text: o.text, command: "blacklist", subject: name, isValid: true}, c.cmdline})
			}
		} else if name, ok := normalize(o.name); ok {
			c.options = append(c.options, &line{directive{text: o.text, command: "options", subject: name, rest: o.option, isValid: true}, c.cmdline})
		}
	}
}

// first returns the first of some lines whose pattern matches a module's name: kmod uses no
// other.
func (c *config) first(lines []*line, name string) *line {
	for i, l := range lines {
		if i%64 == 0 && c.isLate() {
			return nil
		}
		if fnmatch(l.subject, name) {
			return l
		}
	}
	return nil
}

// softdep returns the line of the soft dependencies that replace the commands of a module, or
// nil.
func (c *config) softdep(name string) *line {
	l := c.first(c.softdeps, name)
	if l == nil || !slices.ContainsFunc(parseSoftdep(l.rest), func(d dependency) bool { return len(c.resolve(d.name)) > 0 }) {
		return nil
	}
	return l
}

// effect returns whether a line takes effect, and why not.
func (c *config) effect(l *line) (effective bool, reason string) {
	switch {
	case l.file.mask != nil:
		return false, l.file.masked()
	case l.command == "include" || l.command == "config":
		return false, "kmod ignores this command"
	case !l.isValid:
		return false, "kmod does not understand the line"
	}
	switch l.command {
	case "install", "remove", "softdep", "weakdep":
	default:
		return true, ""
	}
	if by := c.first(*c.of(l.command), l.subject); by != l && by != nil {
		return false, by.where() + " has the first line for the module"
	}
	if l.command == "install" {
		if by := c.softdep(l.subject); by != nil {
			return false, by.where() + " has soft dependencies of the module, which take precedence"
		}
	}
	return true, ""
}

// masked says why a file is masked.
func (f *file) masked() string {
	reason := kmodquery.Printable(f.mask.path) + " takes precedence"
	if f.mask.isNull() {
		reason += " and is a link to /dev/null"
	}
	return reason
}

// load returns whether systemd loads a module, and why not or what it runs instead.
func (c *config) load(t target) (effective bool, reason string) {
	by := slices.IndexFunc(c.blacklist, func(l *line) bool { return l.subject == t.name })
	switch {
	case by >= 0:
		return false, c.blacklist[by].where() + " blacklists the module"
	case c.refused[t.name]:
		return false, "module_blacklist= on the kernel's command line names the module"
	case t.isBuiltin:
		return false, "the module is built into the kernel"
	}
	if l := c.first(c.installs, t.name); l != nil && c.softdep(t.name) == nil {
		return true, l.where() + " has a command that runs instead"
	}
	if t.path == "" && c.modules.err == nil {
		return false, "the module has no file in modules.dep.bin"
	}
	return true, ""
}

// modprobeEntries returns the entries of modprobe.d.
func (c *config) modprobeEntries() []kmodquery.AutostartEntry {
	var entries []kmodquery.AutostartEntry
	for _, f := range c.files {
		if f.err != nil && !f.isNull() {
			entries = append(entries, f.unread(kmodquery.PlaceModprobe, kmodquery.StageAutoload))
		}
	}
	for _, l := range c.lines {
		if l.file.mask != nil && l.file.resolved == l.file.mask.resolved { // the same file
			continue
		}
		if entries = append(entries, c.entriesOf(kmodquery.PlaceModprobe, l)...); len(entries) > maxLines {
			entries, c.folderErr = entries[:maxLines], errTooMany
			break
		}
	}
	if c.folderErr != nil {
		entries = append(entries, incomplete(kmodquery.PlaceModprobe, kmodquery.StageAutoload, c.folderErr))
	}
	return entries
}

// entriesOf returns the entries of a line: one for each module that a softdep or weakdep
// names, otherwise one.
func (c *config) entriesOf(place string, l *line) []kmodquery.AutostartEntry {
	e := l.file.entry(place, kmodquery.StageAutoload, l.line, l.text)
	e.Action, e.Requested = l.command, l.subject
	effective, reason := c.effect(l)
	e.Effective, e.Reason = new(number(effective)), reason
	switch l.command {
	case "softdep":
		return c.dependencies(e, parseSoftdep(l.rest))
	case "weakdep":
		if effective {
			e.Reason = "modprobe does not load it: tools that make an initial file system include it"
		}
		var dependencies []dependency
		for name := range strings.FieldsSeq(l.rest) {
			dependencies = append(dependencies, dependency{"weak", name})
		}
		return c.dependencies(e, dependencies)
	case "alias":
		c.setTarget(&e, c.modules.find(l.rest))
	default:
		e.Argument = l.rest
		if l.isValid && literal(l.subject) == l.subject {
			c.setTarget(&e, c.modules.find(l.subject))
		}
	}
	return []kmodquery.AutostartEntry{e}
}

// dependencies returns an entry for each module that a module depends on.
func (c *config) dependencies(e kmodquery.AutostartEntry, dependencies []dependency) []kmodquery.AutostartEntry {
	var entries []kmodquery.AutostartEntry
	for _, d := range dependencies {
		if len(entries) >= maxLines {
			break
		}
		e := e
		e.Argument = d.kind
		found := c.resolve(d.name)
		if len(found) == 0 {
			e.Name, _ = normalize(d.name)
			c.unresolved(&e)
			entries = append(entries, e)
		}
		for _, t := range found {
			e := e
			c.setTarget(&e, t)
			entries = append(entries, e)
		}
	}
	if len(entries) > 0 {
		return entries
	}
	if *e.Effective == 1 {
		e.Effective, e.Reason = new(int64(0)), "kmod finds no module in the line"
	}
	return []kmodquery.AutostartEntry{e}
}

// setTarget sets the module of an entry.
func (c *config) setTarget(e *kmodquery.AutostartEntry, t target) {
	e.Name, e.Path = t.name, t.path
	if t.path == "" && !t.isBuiltin && c.modules.err != nil {
		e.Missing.Add("path")
	}
}

// unresolved says in an entry that kmod finds no module for what it names.
func (c *config) unresolved(e *kmodquery.AutostartEntry) {
	switch {
	case e.Effective != nil && *e.Effective == 0:
	case c.modules.err != nil:
		e.Effective, e.Reason = nil, c.modules.err.Error()
		e.Missing.Add("effective")
	default:
		e.Effective, e.Reason = new(int64(0)), "modprobe finds no module of this name or alias"
	}
	if c.modules.err != nil {
		e.Missing.Add("path")
	}
}

// loadEntries returns the entries of a line that has systemd load a name or an alias. reason
// says why the line has no effect, if it has none.
func (c *config) loadEntries(e kmodquery.AutostartEntry, requested, reason string) []kmodquery.AutostartEntry {
	e.Action, e.Requested, e.Reason = "load", requested, reason
	e.Effective = new(number(reason == ""))
	found := c.resolve(requested)
	if len(found) == 0 {
		e.Name, _ = normalize(requested)
		e.Name = cmp.Or(e.Name, requested)
		c.unresolved(&e)
		return []kmodquery.AutostartEntry{e}
	}
	var entries []kmodquery.AutostartEntry
	for _, t := range found {
		e := e
		c.setTarget(&e, t)
		if reason == "" {
			effective, why := c.load(t)
			e.Effective, e.Reason = new(number(effective)), why
			if unknown := cmp.Or(c.err, c.modules.err); effective && unknown != nil {
				e.Effective, e.Reason = nil, unknown.Error()
				e.Missing.Add("effective")
			}
		}
		entries = append(entries, e)
	}
	return entries
}

func number(is bool) int64 {
	if is {
		return 1
	}
	return 0
}
