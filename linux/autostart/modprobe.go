//go:build linux

package autostart

import (
	"bytes"
	"strings"
)

// A directive is one line of modprobe.d(5).
type directive struct {
	line    int64  // number of its last line in the file
	text    string // with continuation lines joined
	command string // its first word
	subject string // normalized name, alias or pattern that follows, or ""
	rest    string // what follows subject
	isValid bool   // kmod uses it
}

// parseModprobe parses a file of modprobe.d as kmod does. Empty lines and comments are left
// out.
func parseModprobe(data []byte, visit func(directive) bool) {
	for number := int64(0); len(data) > 0; {
		line, after := joinLine(data)
		number += int64(bytes.Count(data[:len(data)-len(after)], []byte{'\n'}))
		if len(after) == 0 && data[len(data)-1] != '\n' {
			number++ // the last line has no end
		}
		data = after
		line, _, _ = strings.Cut(line, "\x00") // where a string of C ends
		if line == "" || line[0] == '#' {
			continue
		}
		d := directive{line: number, text: line}
		var rest string
		if d.command, rest = word(line); d.command == "" {
			continue
		}
		d.parse(rest)
		if !visit(d) {
			return
		}
	}
}

// parse parses what follows the command.
func (d *directive) parse(rest string) {
	subject, rest := word(rest)
	subject, ok := normalize(subject)
	d.subject, d.rest = subject, rest
	ok = ok && subject != ""
	switch d.command {
	case "alias":
		var to string
		to, _ = word(rest)
		to, isName := normalize(to)
		d.rest = to
		d.isValid = ok && isName && to != ""
	case "blacklist":
		d.isValid = ok
	case "options":
		d.rest = strings.ReplaceAll(rest, "\t", " ")
		d.isValid = ok && rest != ""
	case "install", "remove", "softdep", "weakdep":
		d.isValid = ok && rest != ""
	}
}

// joinLine returns the first line with its continuation lines, and what follows. A backslash
// continues a line, and is removed before any other character.
func joinLine(data []byte) (line string, after []byte) {
	var b strings.Builder
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '\n':
			return b.String(), data[i+1:]
		case '\\':
			if i++; i < len(data) && data[i] != '\n' {
				b.WriteByte(data[i])
			}
		default:
			b.WriteByte(data[i])
		}
	}
	return b.String(), nil
}

// word returns the first word of a text, and what follows the blank after it. Words are
// separated by blanks and tabs.
func word(text string) (first, rest string) {
	text = strings.TrimLeft(text, " \t")
	if i := strings.IndexAny(text, " \t"); i >= 0 {
		return text[:i], text[i+1:]
	}
	return text, ""
}

// A dependency is a module that is loaded before or after another one.
type dependency struct{ kind, name string }

// parseSoftdep parses what follows the module of a softdep line: "pre: a b post: c".
func parseSoftdep(text string) []dependency {
	var dependencies []dependency
	kind := ""
	// kmod takes one leading blank, but not several, for a part of the first word.
	isKeyword := len(text) < 2 || !isBlank(text[0]) || isBlank(text[1])
	for name := range strings.FieldsFuncSeq(text, func(r rune) bool { return r < 128 && isBlank(byte(r)) }) {
		isFirst := !isKeyword
		isKeyword = true
		switch {
		case isFirst:
		case name == "pre:" || name == "post:":
			kind = strings.TrimSuffix(name, ":")
		case kind != "":
			dependencies = append(dependencies, dependency{kind, name})
		}
	}
	return dependencies
}
