package kmodquery

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Acts reports whether a terminal may do something else with a character than
// show it: controls of ASCII and of Latin-1, which begin escape sequences, what
// turns the direction of writing or has no shape, breaks of line, and characters
// that mean what a font wants them to.
func Acts(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp)
}

// Escape writes bytes that the host controls so that they can do no harm in
// UTF-8, in JSON and on a terminal. Each byte of a character that [Acts], and
// each that is no UTF-8, becomes \xNN, with NN in lower case; a backslash becomes
// \x5c where it would otherwise read as the beginning of such an escape. So
// every result stands for one sequence of bytes only, and what the host wrote
// can be had back. What is escaped twice must be read back twice.
func Escape(text string) string { return escape(text, readsAsEscape) }

// Printable is Escape for words of this program's own that may quote what the
// host chose, such as errors. A backslash stays as it is, so that a text may go
// through it more than once and changes only once.
func Printable(text string) string {
	return escape(text, func(string) bool { return false })
}

// escape writes the bytes of what must not be shown, and of the backslashes that
// isEscape wants to have escaped, given the text from there on.
func escape(text string, isEscape func(string) bool) string {
	const hexDigits = "0123456789abcdef"
	var b strings.Builder
	done := 0
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if r == '\\' && isEscape(text[i:]) || r == utf8.RuneError && size == 1 || Acts(r) {
			b.WriteString(text[done:i])
			for _, c := range []byte(text[i : i+size]) {
				b.WriteString(`\x`)
				b.WriteByte(hexDigits[c>>4])
				b.WriteByte(hexDigits[c&0xf])
			}
			done = i + size
		}
		i += size
	}
	if done == 0 {
		return text
	}
	b.WriteString(text[done:])
	return b.String()
}

// readsAsEscape reports whether text, which begins with a backslash, begins with
// what Escape could have written for a byte.
func readsAsEscape(text string) bool {
	if len(text) < 4 || text[1] != 'x' {
		return false
	}
	high, low := hexDigit(text[2]), hexDigit(text[3])
	if high < 0 || low < 0 {
		return false
	}
	c := byte(high<<4 | low)
	return c < ' ' || c >= 0x7f || c == '\\'
}

// hexDigit is the value of a digit as Escape writes it, or -1.
func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
