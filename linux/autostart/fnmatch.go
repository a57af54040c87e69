//go:build linux

package autostart

import "strings"

// fnmatch reports whether a pattern matches a whole name, as fnmatch(3) without flags does:
// with *, ?, [...] and a backslash. It takes time proportional to the product of the lengths,
// so no pattern that is longer than any name matches.
func fnmatch(pattern, name string) bool {
	if len(pattern) > maxText {
		return false
	}
	// After the last *, what follows it is tried at each later position of the name.
	star, from := -1, 0
	p, n := 0, 0
	for n < len(name) {
		if p < len(pattern) && pattern[p] == '*' {
			star, from = p, n
			p++
			continue
		}
		if width, ok := matchOne(pattern[p:], name[n]); ok {
			p += width
			n++
			continue
		}
		if star < 0 {
			return false
		}
		from++
		p, n = star+1, from
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne reports whether the first element of a pattern, which has so many bytes, matches
// a byte.
func matchOne(pattern string, c byte) (width int, ok bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == c
		}
		return 1, false
	case '[':
		if width, ok := matchBracket(pattern, c); width > 0 {
			return width, ok
		}
	}
	return 1, pattern[0] == c
}

// matchBracket matches a byte with a bracket expression. width is 0 if it has no end.
func matchBracket(pattern string, c byte) (width int, ok bool) {
	i := 1
	negated := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if negated {
		i++
	}
	found := false
	for begin := i; i < len(pattern); i++ {
		if pattern[i] == ']' && i > begin {
			return i + 1, found != negated
		}
		low := pattern[i]
		high := low
		if i+2 < len(pattern) && pattern[i+1] == '-' && pattern[i+2] != ']' {
			high = pattern[i+2]
			i += 2
		}
		found = found || low <= c && c <= high
	}
	return 0, false
}

// literal returns the part of a pattern before its first special character.
func literal(pattern string) string {
	if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
		return pattern[:i]
	}
	return pattern
}

// normalize returns a name or alias as kmod compares it: with underscores for dashes outside
// of brackets. It reports false for brackets that do not match, which kmod refuses.
func normalize(name string) (string, bool) {
	if !strings.ContainsAny(name, "-[]") {
		return name, true
	}
	b := []byte(name)
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '-':
			b[i] = '_'
		case ']':
			return "", false
		case '[':
			end := strings.IndexByte(name[i:], ']')
			if end < 0 {
				return "", false
			}
			i += end
		}
	}
	return string(b), true
}
