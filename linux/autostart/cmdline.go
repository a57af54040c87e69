//go:build linux

package autostart

import (
	"strings"

	"github.com/kmodquery/kmodquery"
)

// A parameter is one word of the kernel's command line.
type parameter struct {
	text  string
	key   string
	value string
	// isKernel is set if the kernel reads it: it passes what follows "--" to process 1.
	isKernel bool
}

// parseCmdline parses a kernel's command line. Double quotes protect blanks, and are removed
// from keys and values.
func parseCmdline(line string) []parameter {
	var parameters []parameter
	isKernel := true
	for len(line) > 0 {
		line = strings.TrimLeftFunc(line, func(r rune) bool { return r < 128 && isBlank(byte(r)) })
		end, quoted := 0, false
		for ; end < len(line) && (quoted || !isBlank(line[end])); end++ {
			quoted = quoted != (line[end] == '"')
		}
		text := line[:end]
		line = line[end:]
		if text == "" {
			continue
		}
		if text == "--" {
			isKernel = false
		}
		key, value, _ := strings.Cut(strings.ReplaceAll(text, `"`, ""), "=")
		parameters = append(parameters, parameter{text, key, value, isKernel})
	}
	return parameters
}

// An option is what kmod reads in a parameter MODULE.OPTION or MODULE.OPTION=VALUE.
type option struct{ text, name, option string }

// parseOptions parses a kernel's command line as kmod does. Blanks are protected by quotes
// around the value, or around the whole parameter.
func parseOptions(line string) []option {
	const inName, inOption, inValue, ignored = 0, 1, 2, 3
	var options []option
	state, start, dot, equals := inName, 0, 0, 0
	quoted, isQuotedWhole := false, false
	for i := 0; i <= len(line); i++ {
		switch isEnd := i == len(line) || isBlank(line[i]); {
		case isEnd && quoted && state == inValue:
		case isEnd && quoted:
			state = ignored
		case isEnd:
			if state == inOption || state == inValue {
				o := option{line[start:i], line[start:dot], line[dot+1 : i]}
				if isQuotedWhole {
					o.option = line[dot+1:equals+1] + `"` + line[equals+1:i]
				}
				options = append(options, o)
			}
			start, state, isQuotedWhole = i+1, inName, false
		case line[i] == '"':
			quoted = !quoted
			if quoted && state == inName && i == start {
				isQuotedWhole = true
				start++
			} else if state != inValue {
				state = ignored
			}
		case line[i] == '.' && state == inName:
			dot, state = i, inOption
		case line[i] == '=' && state == inOption:
			equals, state = i, inValue
		case line[i] == '.' && state == inOption, line[i] == '=' && state == inName:
			state = ignored
		}
	}
	return options
}

func isBlank(c byte) bool { return strings.IndexByte(" \t\n\v\f\r", c) >= 0 }

// cmdlineEntries returns the entries of the running kernel's command line.
func (c *config) cmdlineEntries() []kmodquery.AutostartEntry {
	const place = kmodquery.PlaceCmdline
	if c.cmdline == nil {
		return nil
	}
	var entries []kmodquery.AutostartEntry
	if c.cmdline.err != nil {
		entries = append(entries, c.cmdline.unread(place, kmodquery.StageBoot))
	}
	for _, p := range c.parameters {
		for name := range strings.SplitSeq(p.value, ",") {
			e := c.cmdline.entry(place, kmodquery.StageBoot, 0, p.text)
			if name == "" || len(entries) >= maxLines {
				continue
			}
			switch strings.ReplaceAll(p.key, "-", "_") { // systemd and the kernel take both
			case "modules_load":
				entries = append(entries, c.loadEntries(e, name, "")...)
			case "rd.modules_load", "rd.driver.pre", "rd.driver.post":
				e.Stage = kmodquery.StageInitrd
				entries = append(entries, inInitrd(c.loadEntries(e, name, ""))...)
			case "rd.driver.blacklist":
				e.Stage, e.Action, e.Requested = kmodquery.StageInitrd, "blacklist", name
				e.Name, _ = normalize(name)
				entries = append(entries, inInitrd([]kmodquery.AutostartEntry{e})...)
			case "module_blacklist":
				e.Stage, e.Action, e.Requested = kmodquery.StageAutoload, "blacklist", name
				c.setTarget(&e, c.modules.find(name))
				if e.Effective = new(number(p.isKernel && c.refused[name])); *e.Effective == 0 {
					e.Reason = "the kernel reads the last module_blacklist= before -- only"
				}
				entries = append(entries, e)
			}
		}
	}
	for _, lines := range [][]*line{c.blacklist, c.options} {
		for _, l := range lines {
			if l.file == c.cmdline && l.subject != "rd" { // kmod takes rd.modules_load= for an option
				entries = append(entries, c.entriesOf(place, l)...)
			}
		}
	}
	return entries
}

// inInitrd returns entries whose effect depends on what is in the initial file system, which
// is not read.
func inInitrd(entries []kmodquery.AutostartEntry) []kmodquery.AutostartEntry {
	for i := range entries {
		e := &entries[i]
		e.Effective, e.Reason = nil, "it depends on the files in the initial file system"
		e.Missing.Add("effective")
	}
	return entries
}
