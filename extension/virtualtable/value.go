package virtualtable

import (
	"errors"
	"strconv"
	"strings"

	"modernc.org/sqlite/vtab"
)

// columnValue returns the value that osquery passes to SQLite for the text of a cell
// (DynamicTableRow::get_column in osquery/sql/dynamic_table_row.cpp).
func columnValue(kind columnType, text string) vtab.Value {
	switch kind {
	case typeText, typeBlob:
		return text
	case typeInteger:
		if v, ok := parseInteger(text, 0); ok {
			return int64(int32(v)) // sqlite3_result_int takes a C int
		}
	case typeBigint, typeUnsignedBigint:
		if v, ok := parseInteger(text, 0); ok {
			return v
		}
	case typeDouble:
		if v, ok := parseDouble(text); ok {
			return v
		}
	}
	return nil
}

const cSpace = " \t\n\v\f\r"

// parseInteger parses a text as std::stoll does, which osquery calls: it skips leading
// space, accepts a sign, with base 0 the prefixes 0x and 0, and ignores the text after the
// digits. It fails if there are no digits, and beyond 64 bits.
func parseInteger(text string, base int) (int64, bool) {
	text = strings.TrimLeft(text, cSpace)
	sign := ""
	if text != "" && (text[0] == '-' || text[0] == '+') {
		sign, text = text[:1], text[1:]
	}
	if base == 0 {
		base = 10
		if strings.HasPrefix(text, "0") {
			base = 8
			if len(text) > 2 && text[1]|0x20 == 'x' && digit(text[2]) < 16 {
				base, text = 16, text[2:]
			}
		}
	}
	end := 0
	for end < len(text) && digit(text[end]) < base {
		end++
	}
	v, err := strconv.ParseInt(sign+text[:end], base, 64)
	return v, err == nil
}

// digit returns the value of a digit of base 16 or less, and 16 for any other byte.
func digit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return 16
}

// parseDouble parses the whole text as C's strtod does. A number that is too large
// becomes infinite.
func parseDouble(text string) (float64, bool) {
	v, err := strconv.ParseFloat(strings.TrimLeft(text, cSpace), 64)
	return v, err == nil || errors.Is(err, strconv.ErrRange)
}
