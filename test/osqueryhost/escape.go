package osqueryhost

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// escape writes control characters and bytes that are not valid UTF-8 as \xHH, as
// osquery does before it compares and logs results (escapeNonPrintableBytes, sql.cpp).
// A backslash stays unchanged.
func escape(value string) string {
	var b strings.Builder
	for i := 0; i < len(value); {
		r, size := utf8.DecodeRuneInString(value[i:])
		if value[i] < 0x20 || r == utf8.RuneError && size == 1 {
			fmt.Fprintf(&b, `\x%02X`, value[i])
			i++
			continue
		}
		b.WriteString(value[i : i+size])
		i += size
	}
	return b.String()
}
