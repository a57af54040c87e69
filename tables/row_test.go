package tables

import (
	"encoding/json"
	"regexp"
	"strconv"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestCell(t *testing.T) {
	for bytes, want := range map[string]string{
		"":                     "",
		"dummy":                "dummy",
		"é \u202e ✓ \ufffd":    "é \u202e ✓ \ufffd",
		"a\x00b":               `a\x00b`,
		"\x1b[31m\n\t\x7f":     `\x1b[31m\x0a\x09\x7f`,
		"\xff\xfe":             `\xff\xfe`,
		"\xc3":                 `\xc3`,
		"\u0085":               `\xc2\x85`,
		`C:\x`:                 `C:\x`,
		`serial\x2dgetty`:      `serial\x2dgetty`,
		`\x00`:                 `\x5cx00`,
		`\x5c`:                 `\x5cx5c`,
		`\xff`:                 `\x5cxff`,
		`\xFF`:                 `\xFF`,
		`\\x00`:                `\\x5cx00`,
		"\\\x00":               `\\x00`,
		`{"a":"\u001b \\x1b"}`: `{"a":"\u001b \\x5cx1b"}`,
	} {
		require.Equal(t, want, cell(bytes), "%q", bytes)
	}
}

var escape = regexp.MustCompile(`\\x([01][0-9a-f]|5c|7f|[89a-f][0-9a-f])`)

// uncell is how a reader has the host's bytes back.
func uncell(text string) string {
	return escape.ReplaceAllStringFunc(text, func(match string) string {
		c, err := strconv.ParseUint(match[2:], 16, 8)
		if err != nil {
			panic(err)
		}
		return string([]byte{byte(c)})
	})
}

func FuzzCell(f *testing.F) {
	for _, seed := range []string{"dummy", "\x00\x1b\xff\\", `\x5c\x00\\xff`, "\\\x00", "é\u0085", "\\x\x00", "\\x0\x80"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, bytes string) {
		text := cell(bytes)
		require.True(t, utf8.ValidString(text))
		for _, r := range text {
			require.False(t, r < ' ' || r >= 0x7f && r < 0xa0, "%q", text)
		}
		require.Equal(t, bytes, uncell(text))
		if plain(bytes) {
			require.Equal(t, bytes, text)
		}
		event := full()
		event.Params = &bytes
		var decoded map[string]any
		require.NoError(t, json.Unmarshal([]byte(object(&event)), &decoded))
		require.Equal(t, text, decoded["params"])
	})
}
