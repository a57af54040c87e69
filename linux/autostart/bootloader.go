//go:build linux

package autostart

import (
	"bytes"
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// parseBootloader calls visit with each line that has a kernel's command line: an assignment
// to GRUB_CMDLINE_LINUX in /etc/default/grub, a command linux in grub.cfg, options in an entry
// of the Boot Loader Specification. In a file named cmdline each line is one.
func parseBootloader(name string, data []byte, visit func(number int64, text, cmdline string) bool) {
	number := int64(0)
	for line := range bytes.Lines(data) {
		number++
		text := strings.Trim(string(line), " \t\r\n")
		key, rest := word(text)
		variable, value, isAssignment := strings.Cut(text, "=")
		switch {
		case text == "" || text[0] == '#':
			continue
		case name == "cmdline":
			rest = text
		case strings.HasPrefix(key, "linux") || key == "options":
		case isAssignment && strings.HasPrefix(variable, "GRUB_CMDLINE_LINUX"):
			rest = strings.Trim(value, `"' `)
		default:
			continue
		}
		if !visit(number, text, rest) {
			return
		}
	}
}

// nextCmdlineEntries returns what the configuration of boot loaders gives to the kernel that
// is booted next.
func (r *reading) nextCmdlineEntries(c *config) []kmodquery.AutostartEntry {
	p := place{name: kmodquery.PlaceNextCmdline, stage: kmodquery.StageBoot}
	visit := func(f *file) {
		parseBootloader(f.name, f.data, func(number int64, text, cmdline string) bool {
			whole := *f
			whole.err = nil // it has an entry already
			next := &config{modules: c.modules, aliases: c.aliases, installs: c.installs, removes: c.removes, softdeps: c.softdeps,
				blacklist: slices.Clip(c.blacklist), cmdline: &whole, err: c.err, deadline: c.deadline}
			next.setCmdline(cmdline)
			for _, e := range next.cmdlineEntries() {
				e.Place, e.Line, e.Text = p.name, number, text
				e.Effective, e.Reason = nil, "it depends on what the boot loader boots next"
				e.Missing.Add("effective")
				if !p.add(e) {
					return false
				}
			}
			return true
		})
	}
	for _, at := range []string{"/etc/default/grub", "/etc/kernel/cmdline", "/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"} {
		p.readFile(r, at, visit)
	}
	p.read(r, []string{"/etc/default/grub.d"}, ".cfg", nil, visit)
	p.read(r, []string{"/boot/loader/entries"}, ".conf", nil, visit)
	p.read(r, []string{"/boot/efi/loader/entries"}, ".conf", nil, visit)
	return p.entries
}
