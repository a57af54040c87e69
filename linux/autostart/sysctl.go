//go:build linux

package autostart

import (
	"bytes"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// sysctlFolders are the folders of sysctl.d, the one that takes precedence first.
var sysctlFolders = []string{"/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"}

// A setting is a line of sysctl.d(5) that sets kernel.modprobe.
type setting struct {
	number int64
	text   string
	value  string
	isGlob bool // it sets other variables too, and yields to a line that names this one
}

// parseSysctl parses a file of sysctl.d as systemd does, and calls visit with each line that
// sets kernel.modprobe.
func parseSysctl(data []byte, visit func(setting)) {
	number := int64(0)
	for line := range bytes.Lines(data) {
		number++
		text := strings.Trim(string(line), " \t\r\n")
		key, value, isSetting := strings.Cut(text, "=")
		key = strings.Trim(strings.TrimPrefix(strings.Trim(key, " \t"), "-"), " \t")
		if !isSetting || strings.HasPrefix(text, "#") || strings.HasPrefix(text, ";") {
			continue
		}
		// The first separator says how the name is written.
		if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
			key = strings.NewReplacer(".", "/", "/", ".").Replace(key)
		}
		if key != "kernel/modprobe" && !fnmatch(key, "kernel/modprobe") {
			continue
		}
		visit(setting{number, text, strings.Trim(value, " \t"), key != "kernel/modprobe"})
	}
}

// sysctlEntries returns the program that the kernel runs to load a module, now, and the lines
// that set it. An empty one means that the kernel loads no modules on its own.
func (r *reading) sysctlEntries() []kmodquery.AutostartEntry {
	p := place{name: kmodquery.PlaceSysctl, stage: kmodquery.StageAutoload}
	if f := r.readFile("/proc/sys/kernel/modprobe"); f != nil {
		if f.err != nil {
			p.add(f.unread(p.name, p.stage))
		}
		e := p.entry(f, 0, strings.TrimSuffix(string(f.data), "\n"))
		e.Action, e.Argument = "modprobe", e.Text
		p.add(e)
	}
	p.stage = kmodquery.StageBoot
	first := len(p.entries)
	last, lastGlob := -1, -1 // of the lines that are not masked
	p.read(r, sysctlFolders, ".conf", nil, func(f *file) {
		parseSysctl(f.data, func(s setting) {
			e := p.entry(f, s.number, s.text)
			e.Action, e.Argument = "modprobe", s.value
			if !p.add(e) || f.mask != nil {
				return
			}
			if s.isGlob {
				lastGlob = len(p.entries) - 1
			} else {
				last = len(p.entries) - 1
			}
		})
	})
	if last < 0 {
		last = lastGlob
	}
	for i := first; last >= 0 && i < len(p.entries); i++ {
		if e := &p.entries[i]; i != last && e.Effective != nil && *e.Effective == 1 {
			by := p.entries[last]
			e.Effective, e.Reason = new(int64(0)), where(by.File, by.Line)+" sets it too, and takes precedence"
		}
	}
	return p.entries
}
