//go:build linux

package autostart

import (
	"bytes"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// initramfsScripts are the folders whose programs initramfs-tools(7) copies to the initial
// file system, to be run at boot.
var initramfsScripts = []string{"scripts/init-top", "scripts/init-premount", "scripts/local-top", "scripts/local-block", "scripts/local-premount",
	"scripts/local-bottom", "scripts/nfs-top", "scripts/nfs-premount", "scripts/nfs-bottom", "scripts/init-bottom", "scripts/panic"}

// parseList parses a file with a module and its options in each line, as initramfs-tools does.
func parseList(data []byte, visit func(number int64, text, name, options string) bool) {
	number := int64(0)
	for line := range bytes.Lines(data) {
		number++
		text := strings.Trim(string(line), " \t\r\n")
		if text == "" || text[0] == '#' {
			continue
		}
		name, options := word(text)
		if !visit(number, text, name, strings.TrimLeft(options, " \t")) {
			return
		}
	}
}

// initramfsEntries returns the modules and the scripts that initramfs-tools puts into the
// initial file system. Whether it was made since is not known.
func (r *reading) initramfsEntries(c *config) []kmodquery.AutostartEntry {
	p := place{name: kmodquery.PlaceInitramfs, stage: kmodquery.StageInitrd}
	visit := func(f *file) {
		parseList(f.data, func(number int64, text, name, options string) bool {
			for _, e := range inInitrd(c.loadEntries(p.entry(f, number, text), name, "")) {
				e.Argument = options
				if !p.add(e) {
					return false
				}
			}
			return true
		})
	}
	p.readFile(r, "/etc/initramfs-tools/modules", visit)
	p.read(r, []string{"/usr/share/initramfs-tools/modules.d"}, "", nil, visit)
	add := func(f *file) {
		e := p.entry(f, 0, "")
		e.Action = "script"
		if f.mask == nil {
			e = inInitrd([]kmodquery.AutostartEntry{e})[0]
		}
		if f.err == nil {
			p.add(e)
		}
	}
	for _, folder := range initramfsScripts {
		p.read(r, []string{"/etc/initramfs-tools/" + folder, "/usr/share/initramfs-tools/" + folder}, "", nil, add)
	}
	// Hooks run when the initial file system is made. None masks another.
	for _, folder := range []string{"/usr/share/initramfs-tools/hooks", "/etc/initramfs-tools/hooks"} {
		p.read(r, []string{folder}, "", nil, add)
	}
	return p.entries
}
