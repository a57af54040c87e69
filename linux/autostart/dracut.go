//go:build linux

package autostart

import (
	"bytes"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// dracutFolders are the folders of dracut.conf.d, the one that takes precedence first.
var dracutFolders = []string{"/etc/dracut.conf.d", "/run/initramfs/dracut.conf.d", "/usr/lib/dracut/dracut.conf.d"}

// dracutLists are the variables of dracut.conf(5) that name modules, or files to be copied.
var dracutLists = []string{"drivers", "add_drivers", "force_drivers", "omit_drivers", "filesystems", "drivers_dir", "install_items", "install_optional_items"}

// parseDracut parses a file of dracut.conf, which is a shell script, and calls visit with each
// word that a line assigns to one of dracutLists. It runs nothing: a line that is not a plain
// assignment is left out.
func parseDracut(data []byte, visit func(number int64, text, key, item string) bool) {
	number := int64(0)
	for line := range bytes.Lines(data) {
		number++
		text := strings.Trim(string(line), " \t\r\n")
		key, value, isAssignment := strings.Cut(text, "=")
		key = strings.TrimSuffix(key, "+")
		if !isAssignment || !slices.Contains(dracutLists, key) {
			continue
		}
		value, _, _ = strings.Cut(value, "#")
		for item := range strings.FieldsSeq(strings.NewReplacer(`"`, " ", "'", " ").Replace(value)) {
			if !visit(number, text, key, item) {
				return
			}
		}
	}
}

// dracutEntries returns what dracut puts into the initial file system. Whether it was made
// since is not known.
func (r *reading) dracutEntries(c *config) []kmodquery.AutostartEntry {
	p := place{name: kmodquery.PlaceDracut, stage: kmodquery.StageInitrd}
	visit := func(f *file) {
		parseDracut(f.data, func(number int64, text, key, item string) bool {
			e := p.entry(f, number, text)
			e.Action, e.Argument = key, item
			of := []kmodquery.AutostartEntry{e}
			if strings.HasSuffix(key, "drivers") && !strings.HasPrefix(item, "=") {
				of = c.loadEntries(e, item, e.Reason)
			}
			for _, e := range of {
				e.Action = key
				if f.mask == nil {
					e = inInitrd([]kmodquery.AutostartEntry{e})[0]
				}
				if !p.add(e) {
					return false
				}
			}
			return true
		})
	}
	p.readFile(r, "/etc/dracut.conf", visit)
	p.read(r, dracutFolders, ".conf", nil, visit)
	return p.entries
}
