package kmodquery

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// IsUnsafe reports whether a terminal may interpret a character instead of showing
// it: control characters of ASCII and Latin-1, format characters such as those that
// change the direction of text, line and paragraph separators, and private-use
// characters.
func IsUnsafe(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp)
}

// Escape returns bytes that the host controls as text that is safe in UTF-8, in
// JSON and on a terminal. Each byte of an unsafe character (see [IsUnsafe]) or of
// invalid UTF-8 becomes \xNN in lower-case hex. A backslash that would read as the
// start of such an escape becomes \x5c. The escape is reversible: different bytes
// never give the same text. Escaping twice needs unescaping twice.
func Escape(text string) string { return escape(text, readsAsEscape) }

// Printable is Escape for messages of this program, such as errors, that may quote
// bytes that the host controls. It keeps backslashes, so it changes a text that it
// returned no further.
func Printable(text string) string {
	return escape(text, func(string) bool { return false })
}

// ShownText returns a text of an event as the tables show it in a column: escaped. JSON, whose
// strings the sources escape, is shown unchanged if it is printable; other text is not their JSON.
func ShownText(column, text string) string {
	if isJSON := column == "ancestors" || column == "requested_by"; isJSON && Printable(text) == text {
		return text
	}
	return Escape(text)
}

const hexDigits = "0123456789abcdef"

// escape escapes the bytes of unsafe characters and of invalid UTF-8, and each
// backslash for which isEscape, given the text from there on, returns true.
func escape(text string, isEscape func(string) bool) string {
	if isPlain(text) {
		return text
	}
	var b strings.Builder
	done := 0
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if r == '\\' && isEscape(text[i:]) || r == utf8.RuneError && size == 1 || IsUnsafe(r) {
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

// isPlain reports whether a text, like most, has printable ASCII without backslashes only.
func isPlain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '\\' {
			return false
		}
	}
	return true
}

// readsAsEscape reports whether text, which begins with a backslash, begins with an
// escape that Escape writes.
func readsAsEscape(text string) bool {
	if len(text) < 4 || text[1] != 'x' {
		return false
	}
	high, low := strings.IndexByte(hexDigits, text[2]), strings.IndexByte(hexDigits, text[3])
	if high < 0 || low < 0 {
		return false
	}
	c := byte(high<<4 | low)
	return c < ' ' || c >= 0x7f || c == '\\'
}
