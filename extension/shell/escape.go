package shell

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// acts tells whether a terminal would do something else with the character
// than show it: controls of both sets, changes of direction, characters
// without a shape, and breaks of line.
func acts(r rune) bool {
	return unicode.In(r, unicode.C, unicode.Zl, unicode.Zp)
}

// printable writes each byte of text that must not reach a terminal as \xNN.
// A backslash stays as it is: JSON is the format for who needs to tell them
// apart.
func printable(text string) string {
	if utf8.ValidString(text) && strings.IndexFunc(text, acts) < 0 {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		if r == utf8.RuneError && size == 1 || acts(r) {
			for _, c := range []byte(text[:size]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		} else {
			b.WriteString(text[:size])
		}
		text = text[size:]
	}
	return b.String()
}
