//go:build linux

package autostart

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// maxDep bounds what is read of modules.dep, in bytes. Distributions' have about 1 MB.
const maxDep = 16 << 20

// parseDep parses modules.dep, and returns its lines by the name of the module.
func parseDep(data []byte) map[string]string {
	lines := map[string]string{}
	for line := range bytes.Lines(data) {
		text := strings.TrimRight(string(line), "\n")
		if name := moduleOf(text); name != "" {
			lines[name] = text
		}
	}
	return lines
}

// moduleOf returns the name of the module in a line of modules.dep, or "".
func moduleOf(line string) string {
	file, _, found := strings.Cut(line, ":")
	name, _, isModule := strings.Cut(file[strings.LastIndexByte(file, '/')+1:], ".ko")
	if !found || !isModule {
		return ""
	}
	return strings.ReplaceAll(name, "-", "_")
}

// modulesDepEntries returns an entry for each module whose file or whose dependencies differ
// between modules.dep.bin, which kmod reads, and modules.dep, which people read.
func (r *reading) modulesDepEntries(m *modules) []kmodquery.AutostartEntry {
	p := place{name: kmodquery.PlaceModulesDep, stage: kmodquery.StageAutoload}
	if m.folder == "" {
		return nil
	}
	f := r.readFileOf(m.folder+"/modules.dep", maxDep)
	switch {
	case f == nil && errors.Is(m.depErr, fs.ErrNotExist): // there are no modules
		return nil
	case m.depErr != nil:
		return []kmodquery.AutostartEntry{incomplete(p.name, p.stage, fmt.Errorf("not compared with modules.dep: %w", m.depErr))}
	case f == nil:
		return []kmodquery.AutostartEntry{incomplete(p.name, p.stage, fmt.Errorf("%s/modules.dep does not exist, so modules.dep.bin was not compared", m.folder))}
	case f.err != nil:
		return []kmodquery.AutostartEntry{f.unread(p.name, p.stage)}
	}
	lines := parseDep(f.data)
	names := map[string]bool{}
	for name := range lines {
		names[name] = true
	}
	for name := range m.dep {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		want := strings.Join(m.dep[name], " ")
		if strings.TrimSpace(lines[name]) == strings.TrimSpace(want) {
			continue
		}
		e := p.entry(f, 0, lines[name])
		e.Action, e.Requested, e.Argument = "dep", name, want
		t := m.find(name)
		e.Name, e.Path = name, t.path
		e.Reason = "modules.dep.bin, which kmod reads, has what argument shows"
		if want == "" {
			e.Effective, e.Reason = new(int64(0)), "modules.dep.bin, which kmod reads, lacks the module"
		}
		if !p.add(e) {
			break
		}
	}
	return p.entries
}
