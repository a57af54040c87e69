//go:build linux

package autostart

import (
	"slices"

	"github.com/kmodquery/kmodquery"
)

// depmodFolders are the folders of depmod.d, the one that takes precedence first.
var depmodFolders = []string{"/etc/depmod.d", "/run/depmod.d", "/usr/local/lib/depmod.d", "/usr/lib/depmod.d", "/lib/depmod.d"}

// depmodEntries returns the lines of depmod.d, which decide from which folder a module comes
// when depmod runs next.
func (r *reading) depmodEntries() []kmodquery.AutostartEntry {
	p := place{name: kmodquery.PlaceDepmod, stage: kmodquery.StageAutoload}
	commands := []string{"search", "override", "external", "exclude", "make_map_files"}
	p.read(r, depmodFolders, ".conf", nil, func(f *file) {
		parseModprobe(f.data, func(d directive) bool { // the lines have the same form
			_, rest := word(d.text)
			e := p.entry(f, d.line, d.text)
			e.Action, e.Argument = d.command, rest
			if d.command == "override" || d.command == "exclude" {
				e.Name, e.Requested = d.subject, d.subject
			}
			if f.mask == nil && !slices.Contains(commands, d.command) {
				e.Effective, e.Reason = new(int64(0)), "depmod does not understand the line"
			}
			return p.add(e)
		})
	})
	return p.entries
}
