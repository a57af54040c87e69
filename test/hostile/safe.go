package hostile

import (
	"fmt"
	"regexp"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// Harm returns the reason why an escaped text is still harmful to a terminal or in
// JSON, or "".
func Harm(text string) string {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return fmt.Sprintf("byte %#x is not UTF-8 in %q", text[i], text)
		case r < ' ' || r == 0x7f:
			return fmt.Sprintf("control %U in %q", r, text)
		case 0x80 <= r && r < 0xa0:
			return fmt.Sprintf("control %U of Latin-1 in %q", r, text)
		case unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp):
			return fmt.Sprintf("invisible %U in %q", r, text)
		}
		i += size
	}
	return ""
}

var escape = regexp.MustCompile(`\\x([01][0-9a-f]|5c|7f|[89a-f][0-9a-f])`)

// Unescape returns the host's bytes from the text of a cell, by the rules of
// docs/tables.md.
func Unescape(cell string) string {
	return escape.ReplaceAllStringFunc(cell, func(match string) string {
		c, err := strconv.ParseUint(match[2:], 16, 8)
		if err != nil {
			panic(err)
		}
		return string([]byte{byte(c)})
	})
}
