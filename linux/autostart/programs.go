//go:build linux

package autostart

import (
	"bytes"
	"regexp"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// moduleTools matches the programs that load a module, as words.
var moduleTools = regexp.MustCompile(`\b(insmod|modprobe|kmod|f?init_module)\b`)

// unitFolders are the folders of systemd's units, the one that takes precedence first.
var unitFolders = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// scriptFolders have the scripts that init and cron run. scriptFiles are others.
var (
	scriptFolders = []string{"/etc/init.d", "/etc/rc.d", "/etc/rc.d/init.d", "/etc/local.d", "/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly",
		"/var/spool/cron", "/var/spool/cron/crontabs", "/usr/lib/systemd/system-generators", "/etc/systemd/system-generators"}
	scriptFiles = []string{"/etc/rc.local", "/etc/rc.d/rc.local", "/etc/crontab"}
)

// silentSettings are the settings of units that name others and start nothing.
var silentSettings = map[string]bool{"Documentation": true, "Description": true, "After": true, "Before": true, "Conflicts": true}

// moduleUnit matches systemd's unit that has modprobe load a module.
var moduleUnit = regexp.MustCompile(`\bmodprobe@([A-Za-z0-9_-]+)\.service\b`)

// parseProgram calls visit with each line that names a program that loads modules, except
// comments.
func parseProgram(data []byte, visit func(number int64, text string) bool) {
	number := int64(0)
	for line := range bytes.Lines(data) {
		number++
		text := strings.Trim(string(line), " \t\r\n")
		if text == "" || text[0] == '#' || text[0] == ';' || !moduleTools.MatchString(text) {
			continue
		}
		if !visit(number, text) {
			return
		}
	}
}

// programEntries returns the lines of units and scripts that name a program that loads modules.
// Whether a unit or a script is run is not known.
func (r *reading) programEntries() []kmodquery.AutostartEntry {
	p := place{name: kmodquery.PlacePrograms, stage: kmodquery.StageBoot}
	visit := func(f *file) {
		if bytes.HasPrefix(f.data, []byte("\x7fELF")) {
			return
		}
		parseProgram(f.data, func(number int64, text string) bool {
			e := p.entry(f, number, text)
			key, _, isSetting := strings.Cut(text, "=")
			module := moduleUnit.FindStringSubmatch(text)
			switch {
			case isSetting && silentSettings[key]:
				return true
			case isSetting && strings.HasPrefix(key, "Exec"):
				e.Action = key
			case isSetting && module != nil:
				e.Action, e.Requested, e.Name = key, module[1], strings.ReplaceAll(module[1], "-", "_")
			}
			e.Argument = text
			if f.mask == nil {
				e.Effective, e.Reason = nil, "it depends on whether the program is run"
				e.Missing.Add("effective")
			}
			return p.add(e)
		})
	}
	p.read(r, unitFolders, ".service", nil, visit)
	for _, folder := range unitFolders[:4] { // /lib is a link, or has no drop-ins
		for _, dropIns := range p.within(r, folder, ".service.d") {
			p.read(r, []string{dropIns}, ".conf", nil, visit)
		}
	}
	for _, folder := range scriptFolders {
		p.read(r, []string{folder}, "", nil, visit)
	}
	for _, at := range scriptFiles {
		p.readFile(r, at, visit)
	}
	return p.entries
}
