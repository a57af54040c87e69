//go:build linux

package autostart

import (
	"slices"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// udevFolders are the folders of udev's rules, the one that takes precedence first.
var udevFolders = []string{"/etc/udev/rules.d", "/run/udev/rules.d", "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d"}

// An assignment is a key of a rule with its operator and its value.
type assignment struct {
	number int64  // of the rule's last line
	text   string // the rule
	key    string // with its attribute, such as RUN{program}
	op     string
	value  string
}

// maxRule is the length of the longest rule in bytes (UDEV_LINE_SIZE of systemd). udev drops a
// longer one.
const maxRule = 16 << 10

// parseRules parses a file of udev's rules, and calls visit with each key of a rule until it
// returns false. A rule that cannot be parsed ends where the mistake is.
func parseRules(data []byte, visit func(assignment) bool) {
	number := int64(0)
	rule, isLong := "", false
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimRight(line, "\n")
		if rule == "" {
			line = strings.TrimLeft(line, " \t\r")
			if strings.HasPrefix(line, "#") {
				continue
			}
		}
		if strings.HasPrefix(strings.TrimLeft(line, " \t"), "#") { // within a continued rule
			continue
		}
		rest, continues := strings.CutSuffix(line, `\`)
		if isLong = isLong || len(rule)+len(rest) > maxRule; !isLong {
			rule += rest
		}
		if continues {
			continue
		}
		if !isLong && !parseRule(number, rule, visit) {
			return
		}
		rule, isLong = "", false
	}
	if rule != "" {
		parseRule(number, rule, visit)
	}
}

func parseRule(number int64, rule string, visit func(assignment) bool) bool {
	rest := rule
	for {
		rest = strings.TrimLeft(rest, " \t\r,")
		end := strings.IndexAny(rest, "=!+-: \t")
		if open := strings.IndexByte(rest[:max(end, 0)], '{'); open >= 0 { // an attribute may have any character
			if shut := strings.IndexByte(rest, '}'); shut >= 0 {
				end = shut + 1
			}
		}
		if end <= 0 || end > len(rest) {
			return true
		}
		a := assignment{number: number, text: rule, key: rest[:end]}
		rest = strings.TrimLeft(rest[end:], " \t")
		i := 0
		for i < len(rest) && strings.IndexByte("=!+-:", rest[i]) >= 0 {
			i++
		}
		a.op, rest = rest[:i], strings.TrimLeft(rest[i:], " \t")
		escapes := strings.HasPrefix(rest, `e"`)
		rest = strings.TrimLeft(rest, "ei")
		if a.op == "" || !strings.HasPrefix(rest, `"`) {
			return true
		}
		a.value, rest = quoted(rest[1:], escapes)
		if !visit(a) {
			return false
		}
	}
}

// quoted returns a value up to its closing quote, and what follows it. A backslash protects a
// quote, and in a value that has escapes any character.
func quoted(text string, escapes bool) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '"':
			return b.String(), text[i+1:]
		case text[i] == '\\' && i+1 < len(text) && (text[i+1] == '"' || escapes):
			if i++; escapes && text[i] != '"' {
				b.WriteByte('\\')
			}
		}
		b.WriteByte(text[i])
	}
	return b.String(), ""
}

// udevKeys are the keys with which a rule runs a program or loads a module.
var udevKeys = []string{"RUN", "RUN{program}", "RUN{builtin}", "PROGRAM", "IMPORT{program}", "IMPORT{builtin}"}

// udevEntries returns the programs that udev's rules run, and the modules that they load.
func (r *reading) udevEntries(c *config) []kmodquery.AutostartEntry {
	p := place{name: kmodquery.PlaceUdev, stage: kmodquery.StageEvent}
	p.read(r, udevFolders, ".rules", nil, func(f *file) {
		parseRules(f.data, func(a assignment) bool {
			words := strings.Fields(a.value)
			isBuiltin := strings.HasSuffix(a.key, "{builtin}")
			if !slices.Contains(udevKeys, a.key) || len(words) == 0 || isBuiltin && words[0] != "kmod" {
				return true
			}
			e := p.entry(f, a.number, a.text)
			e.Action, e.Argument = a.key, a.value
			if !isBuiltin || len(words) != 3 || words[1] != "load" || strings.ContainsAny(words[2], "$%") {
				return p.add(e)
			}
			// udev's builtin loads what modprobe finds, unless it is blacklisted.
			for _, e := range c.loadEntries(e, words[2], e.Reason) {
				e.Action = a.key
				if !p.add(e) {
					return false
				}
			}
			return true
		})
	})
	return p.entries
}
