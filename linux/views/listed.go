package views

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// maxName is the length of the longest name of a module (MODULE_NAME_LEN without the NUL).
const maxName = 55

// listed reads the kernel's own list. One read(2) returns at most a page of it, and at most
// chunk bytes. The kernel releases its lock between two reads: if an earlier module is
// unloaded then, the next read omits a module. Two readings with different chunks never
// omit the same module.
func (v *Views) listed(ctx context.Context, chunk int) ([]kmodquery.Module, error) {
	var modules []kmodquery.Module
	file, err := os.Open(v.path(procModules))
	if err == nil {
		defer file.Close()
		var lines listedLines
		modules, lines, err = parseListed(ctx, chunked{file, chunk}, known(&v.lines), known(&v.multiline))
		v.lines.Store(&lines)
	}
	if err != nil {
		return nil, fmt.Errorf("list the modules: %w", explain(kmodquery.ViewModules, err))
	}
	return modules, nil
}

// Absent returns those names that the kernel's own list lacks.
func (v *Views) Absent(ctx context.Context, names []string) ([]string, error) {
	for _, chunk := range []int{wholePages, otherChunk} {
		modules, err := v.listed(ctx, chunk)
		if err != nil {
			return nil, err
		}
		isListed := make(map[string]bool, len(modules))
		for _, m := range modules {
			isListed[kmodquery.FolderName(m.Name)] = true
		}
		names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return isListed[kmodquery.FolderName(name)] })
		if len(names) == 0 {
			break
		}
	}
	return names, nil
}

// chunked reads at most size bytes per call.
type chunked struct {
	io.Reader
	size int
}

func (c chunked) Read(p []byte) (int, error) {
	return c.Reader.Read(p[:min(len(p), c.size)])
}

// listedLines are lines of the list, each with what it says.
type listedLines map[string]kmodquery.Module

// parseListed parses /proc/modules. The kernel writes the bytes of a name unchanged, so an
// incomplete line is the beginning of a name with a newline. So is a complete one, if it and those after
// it are a multiline name. Lines that are known are not
// parsed again: few change between two readings. It returns the lines that it read.
func parseListed(ctx context.Context, r io.Reader, known listedLines, multiline []string) (modules []kmodquery.Module, lines listedLines, err error) {
	parse := func(line string) (m kmodquery.Module, ok bool) {
		if m, ok = known[line]; !ok {
			m, ok = parseListedLine(line)
		}
		return m, ok
	}
	lines = listedLines{}
	seen := map[string]bool{}
	begun := ""
	add := func(line string) error {
		text := begun + line
		m, ok := parse(text)
		if !ok && begun != "" {
			if m, ok = parse(line); ok {
				text = line
			}
		}
		if !ok && len(text) < maxName {
			begun = text + "\n"
			return nil
		}
		begun = ""
		// If a module is loaded between two reads, the last module of the first read
		// is also the first module of the second.
		if !ok || seen[m.Name] {
			return nil
		}
		if len(modules) == maxNames {
			return errTooMany
		}
		seen[m.Name] = true
		modules, lines[text] = append(modules, m), m
		return nil
	}
	var held []string // lines that may be the beginning of a multiline name
	var take func(line string) error
	take = func(line string) error {
		if begun != "" || len(multiline) == 0 {
			return add(line)
		}
		text := strings.Join(append(slices.Clip(held), line), "\n")
		if slices.ContainsFunc(multiline, func(name string) bool { return strings.HasPrefix(name, text+"\n") }) {
			held = append(held, line)
			return nil
		}
		if m, ok := parse(text); held == nil || ok && slices.Contains(multiline, m.Name) {
			held = nil
			return add(text)
		}
		first, others := held[0], append(slices.Clip(held[1:]), line)
		held = nil
		err := add(first)
		for _, other := range others {
			err = cmp.Or(err, take(other))
		}
		return err
	}
	err = eachLine(ctx, r, func(line []byte) error { return take(string(line)) })
	for _, line := range held {
		err = cmp.Or(err, add(line))
	}
	return modules, lines, err
}

// multilineNames returns the names of modules in sysfs, of which the first line could be the line of another module.
func multilineNames(folders []string) (names []string) {
	for _, name := range folders {
		first, _, isMultiline := strings.Cut(name, "\n")
		if !isMultiline {
			continue
		}
		if _, ok := parseListedLine(first); ok {
			names = append(names, name)
		}
	}
	return names
}

// listedLine is a line of /proc/modules:
//
//	name size refs users, Live 0xffffffffc0000000 (OE)
//
// Names may have spaces. The longest possible beginning is the name, so that a module's
// name cannot make its line look like the line of another module.
var listedLine = regexp.MustCompile(`(?s)^(.+) ([0-9]+) (-?[0-9]+|-) (-|.*,) (Live|Loading|Unloading) 0x([0-9a-f]{1,16})(?: \(([^ ]*)\))?$`)

func parseListedLine(line string) (m kmodquery.Module, ok bool) {
	fields := listedLine.FindStringSubmatch(line)
	if fields == nil || len(fields[1]) > maxName {
		return m, false
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return m, false
	}
	m = kmodquery.Module{Name: fields[1], Size: &size, State: fields[5], Taints: new(kmodquery.TaintMask(fields[7]))}
	if address := parseHex(fields[6]); address != 0 {
		m.Address = new(int64(address))
	}
	// A kernel without CONFIG_MODULE_UNLOAD counts no references and writes a dash.
	if refs, err := strconv.ParseInt(fields[3], 10, 64); err == nil {
		m.Refs = &refs
	}
	for user := range strings.SplitSeq(strings.TrimSuffix(fields[4], ","), ",") {
		if user != "-" && user != "[permanent]" { // no user, and a module without an exit function
			m.UsedBy = append(m.UsedBy, user)
		}
	}
	return m, true
}
