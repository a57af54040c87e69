package hostile

import "slices"

// EveryByte returns the bytes 1 to 255 in order. NUL is left out, because it ends the
// kernel's strings.
func EveryByte() string {
	bytes := make([]byte, 0, 255)
	for b := 1; b <= 255; b++ {
		bytes = append(bytes, byte(b))
	}
	return string(bytes)
}

// Texts returns texts that control a terminal, are not valid UTF-8, or break out of
// their quotes. None contains a NUL.
func Texts() []string {
	return slices.Concat([]string{EveryByte()}, terminal, encodings, quotes)
}

var terminal = []string{
	"\x1b[2J\x1b[H", "\x1b[31mred", "\x1b[6n", "\x1b[?1049h", // CSI: clear, colour, report, other screen
	"\x1b]0;title\x07", "\x1b]52;c;Zm9v\x1b\\", "\x1b]8;;http://x\x1b\\link", // OSC: title, clipboard, link
	"\x1bP$q\"p\x1b\\", "\x1b_x\x1b\\", "\x1bc", // DCS, APC, reset
	"\x9b2J", "\x9d0;t\x9c", "\x90q\x9c", // the same as single bytes
	"\u009b2J", "\u009d0;t\u009c", "\u0085", // and those in UTF-8
	"a\rb", "a\nb", "a\bb", "a\tb", "a\x7fb", "a\x07\x0e\x0fb",
	"evil\u202egpj.ko", "\u202a\u202b\u202d\u2066\u2067\u2068", "\u200e\u200f\u061c", // direction
	"zero\u200bwidth\u200c\u200d\ufeff\u2060\u00ad", "\u2028\u2029", "\U000e0001\U000e0041", "\ue000\U000f0000",
}

var encodings = []string{
	"\x80", "\xff", "\xc3", "\xe2\x82", "\xf0\x9f\x98", // cut short
	"\xc0\xaf", "\xe0\x80\xaf", // longer than necessary
	"\xed\xa0\x80", "\xed\xb0\x80", // halves of surrogates
	"\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", // beyond Unicode
	"\ufffd", "\uffff", "\U0010ffff", "é日本✓\U0001f600", "e\u0301",
}

var quotes = []string{
	`\x1b[2J`, `\x5c`, `\x5cx1b`, `\\x1b`, "\\\x1b", `\xFF`, `C:\x`, `\u001b`, `serial\x2dgetty`,
	`"`, `'`, `"}],[{"`, `'; DROP TABLE events; --`, "`id`", "$(id)", "%s%n", "{{.}}", "</script>", "a,b\"c", " a ", "=1+1", "-", "[]", "null", "%_*?[a",
}
