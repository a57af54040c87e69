package kmodquery

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/hostile"
)

func TestEscapeIsSafeAndReversible(t *testing.T) {
	for bytes, want := range map[string]string{
		"":                         "",
		"dummy":                    "dummy",
		"é ✓ \ufffd 日本":            "é ✓ \ufffd 日本",
		"a\x00b":                   `a\x00b`,
		"\x1b[31m\n\t\x7f":         `\x1b[31m\x0a\x09\x7f`,
		"\x1b]0;title\x07":         `\x1b]0;title\x07`,
		"\x9b2J \x90 \x9d":         `\x9b2J \x90 \x9d`,
		"\u009b2J":                 `\xc2\x9b2J`,
		"\u0085":                   `\xc2\x85`,
		"\xff\xfe":                 `\xff\xfe`,
		"\xc3":                     `\xc3`,
		"\xed\xa0\x80":             `\xed\xa0\x80`, // half a surrogate
		"\xc0\xaf":                 `\xc0\xaf`,     // a slash, too long
		"a\u202egpj.ko":            `a\xe2\x80\xaegpj.ko`,
		"\u2066\u2069\u200b\ufeff": `\xe2\x81\xa6\xe2\x81\xa9\xe2\x80\x8b\xef\xbb\xbf`,
		"\u2028\u2029\u00ad":       `\xe2\x80\xa8\xe2\x80\xa9\xc2\xad`,
		"\U000e0041\ue000":         `\xf3\xa0\x81\x81\xee\x80\x80`,
		`C:\x`:                     `C:\x`,
		`serial\x2dgetty`:          `serial\x2dgetty`,
		`\x00`:                     `\x5cx00`,
		`\x5c`:                     `\x5cx5c`,
		`\xff`:                     `\x5cxff`,
		`\xFF`:                     `\xFF`,
		`\\x00`:                    `\\x5cx00`,
		"\\\x00":                   `\\x00`,
	} {
		require.Equal(t, want, Escape(bytes), "%q", bytes)
	}
}

func TestPrintableKeepsBackslashes(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "",
		"as it is":                    "as it is",
		"open /a\nb: \x1b[2J\xff":     `open /a\x0ab: \x1b[2J\xff`,
		`module "\x1b" of /a\nb`:      `module "\x1b" of /a\nb`,
		"\u202e and \x9b and \\\x1b.": `\xe2\x80\xae and \x9b and \\x1b.`,
	} {
		require.Equal(t, want, Printable(text), "%q", text)
		require.Equal(t, want, Printable(want))
	}
}

// Plain text is returned as it is.
func TestOnlyPrintableASCIIIsPlain(t *testing.T) {
	for c := range 256 {
		isPrintable := c >= ' ' && c < 0x7f
		for _, text := range []string{string([]byte{byte(c)}), "plain" + string([]byte{byte(c)}) + "text"} {
			require.Equal(t, isPrintable, Escape(text) == text, "%q", text)
			require.Equal(t, isPrintable && c != '\\', isPlain(text), "%q", text)
		}
	}
	require.True(t, isPlain(""))
}

func TestHostileTextIsEscaped(t *testing.T) {
	for _, text := range hostile.Texts() {
		require.Empty(t, hostile.Harm(Escape(text)))
		require.Empty(t, hostile.Harm(Printable(text)))
		require.Equal(t, text, hostile.Unescape(Escape(text)))
	}
}

func FuzzEscape(f *testing.F) {
	for _, text := range append(hostile.Texts(), "\x00", "\\\x00", "\\x\x00", "\\x0\x80") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, bytes string) {
		text := Escape(bytes)
		require.Empty(t, hostile.Harm(text))
		require.Equal(t, bytes, hostile.Unescape(text))
		require.Equal(t, text, Printable(text))

		text = Printable(bytes)
		require.Empty(t, hostile.Harm(text))
		require.Equal(t, text, Printable(text))
	})
}

func BenchmarkEscape(b *testing.B) {
	for name, text := range map[string]string{
		"plain":   "/usr/lib/modules/6.12.0-1-amd64/kernel/drivers/net/dummy.ko.xz",
		"escaped": "/usr/lib/modules/6.12.0-1-amd64/kernel/drivers/net/\x1b[2J.ko.xz",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Escape(text)
			}
		})
	}
}
