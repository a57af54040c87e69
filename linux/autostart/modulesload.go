//go:build linux

package autostart

import (
	"bytes"
	"os"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// modulesLoadFolders are the folders of modules-load.d, the one that takes precedence first.
var modulesLoadFolders = []string{"/etc/modules-load.d", "/run/modules-load.d", "/usr/local/lib/modules-load.d", "/usr/lib/modules-load.d", "/lib/modules-load.d"}

// parseModulesLoad parses a file of modules-load.d as systemd does, and calls visit with each
// name or alias until it returns false.
func parseModulesLoad(data []byte, visit func(number int64, name string) bool) {
	for number := int64(1); len(data) > 0; {
		line, rest := data, []byte(nil)
		end := bytes.IndexAny(data, "\n\r\x00") // each of them ends a line
		if end >= 0 {
			line, rest = data[:end], data[end+1:]
		}
		name := strings.Trim(string(line), " \t")
		if name != "" && !strings.ContainsRune("#;", rune(name[0])) && !visit(number, name) {
			return
		}
		if end >= 0 && data[end] == '\n' {
			number++
		}
		data = rest
	}
}

// modulesLoadEntries returns the entries of modules-load.d, and of /etc/modules if no file of
// modules-load.d is a link to it.
func (r *reading) modulesLoadEntries(c *config) []kmodquery.AutostartEntry {
	const place, stage = kmodquery.PlaceModulesLoad, kmodquery.StageBoot
	files, err := r.readFolders(newBudget(), modulesLoadFolders, ".conf")
	var entries []kmodquery.AutostartEntry
	if err != nil {
		entries = append(entries, incomplete(place, stage, err))
	}
	add := func(f *file, reason, doubt string) {
		if f.err != nil && !f.isNull() {
			entries = append(entries, f.unread(place, stage))
		}
		parseModulesLoad(f.data, func(number int64, name string) bool {
			if len(entries) >= maxLines {
				entries = append(entries, incomplete(place, stage, errTooMany))
				return false
			}
			of := c.loadEntries(f.entry(place, stage, number, name), name, reason)
			for i := range of {
				if e := &of[i]; doubt != "" && e.Effective != nil && *e.Effective == 1 {
					e.Effective, e.Reason = nil, doubt
					e.Missing.Add("effective")
				}
			}
			entries = append(entries, of...)
			return true
		})
	}
	isRead := false
	for _, f := range files {
		isRead = isRead || f.resolved == "/etc/modules" && f.mask == nil
		switch {
		case f.mask == nil && f.maybeMask == nil:
			add(f, "", "")
		case f.mask == nil:
			add(f, "", "older versions of systemd skip the file, because of "+kmodquery.Printable(f.maybeMask.path))
		case f.resolved != f.mask.resolved:
			add(f, f.masked(), "")
		}
	}
	if f := r.readFile("/etc/modules"); f != nil && !isRead {
		if _, err := os.Lstat(r.root + "/run/systemd/system"); err == nil {
			add(f, "no file of modules-load.d is a link to it, so systemd does not read it", "")
		} else {
			add(f, "", "the host does not run systemd, and its init system may read the file")
		}
	}
	return entries
}

// incomplete returns the entry of a place of which something was not read.
func incomplete(place, stage string, err error) kmodquery.AutostartEntry {
	e := kmodquery.AutostartEntry{Place: place, Stage: stage, Reason: kmodquery.Printable(err.Error())}
	e.Missing.Add("file", "line", "text", "action", "name", "effective")
	return e
}
