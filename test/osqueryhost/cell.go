package osqueryhost

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A row is a row of a query's result (RowTyped). A value is an int64, a float64 or a
// string; NULL is "", the default of --nullvalue.
type row map[string]any

// cellValue converts a value of SQLite as readRows does (sqlite_util.cpp). Text and BLOBs
// are read as C strings, so they end at their first NUL.
func cellValue(value any) any {
	switch v := value.(type) {
	case int64, float64:
		return v
	case string:
		return untilNUL(v)
	case []byte:
		return untilNUL(string(v))
	}
	return ""
}

func untilNUL(s string) string {
	s, _, _ = strings.Cut(s, "\x00")
	return s
}

// text returns a value as osquery prints it (CastVisitor, castvariant.h): a double has 15
// digits, and ".0" at its end if it has no point anywhere.
func text(value any) string {
	switch v := value.(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		s := strings.ToLower(strings.TrimPrefix(strconv.FormatFloat(v, 'g', 15, 64), "+"))
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s
	}
	return value.(string)
}

// texts returns rows with each value as text.
func texts(rows []row) []map[string]string {
	var list []map[string]string
	for _, r := range rows {
		cells := make(map[string]string, len(r))
		for column, value := range r {
			cells[column] = text(value)
		}
		list = append(list, cells)
	}
	return list
}

// countCells returns the number of cells of rows.
func countCells(rows []row) (n int64) {
	for _, r := range rows {
		n += int64(len(r))
	}
	return n
}

// A jsonWriter writes JSON as rapidjson's Writer does. At an infinite number it stops, as
// the Writer does, and what it wrote is no JSON. osquery ignores that.
type jsonWriter struct {
	b       []byte
	stopped bool
}

func (w *jsonWriter) raw(s string) {
	if !w.stopped {
		w.b = append(w.b, s...)
	}
}

// str writes a string. Bytes that are not UTF-8 are written as they are.
func (w *jsonWriter) str(s string) {
	if w.stopped {
		return
	}
	w.b = append(w.b, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			w.b = append(w.b, '\\', c)
		case '\b':
			w.b = append(w.b, `\b`...)
		case '\f':
			w.b = append(w.b, `\f`...)
		case '\n':
			w.b = append(w.b, `\n`...)
		case '\r':
			w.b = append(w.b, `\r`...)
		case '\t':
			w.b = append(w.b, `\t`...)
		default:
			if c < 0x20 {
				w.b = fmt.Appendf(w.b, `\u%04X`, c)
			} else {
				w.b = append(w.b, c)
			}
		}
	}
	w.b = append(w.b, '"')
}

// number writes an int64 or a float64.
func (w *jsonWriter) number(value any) {
	v, double := value.(float64)
	switch {
	case !double:
		w.raw(text(value))
	case math.IsInf(v, 0):
		w.stopped = true
	default:
		w.raw(shortestDouble(v))
	}
}

// shortestDouble returns the digits that distinguish v from all other doubles, without an
// exponent from 1e-6 to 1e21 (Prettify, rapidjson/internal/dtoa.h).
func shortestDouble(v float64) string {
	if v == 0 {
		return map[bool]string{true: "-0.0", false: "0.0"}[math.Signbit(v)]
	}
	if a := math.Abs(v); a >= 1e-6 && a < 1e21 {
		s := strconv.FormatFloat(v, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(v, 'e', -1, 64), "e")
	sign := ""
	if exponent[0] == '-' {
		sign = "-"
	}
	return mantissa + "e" + sign + strings.TrimLeft(exponent, "+-0")
}

// row writes a row's columns by name (serializeRow, row.cpp). Without numerics each value
// is a string.
func (w *jsonWriter) row(r row, numerics bool) {
	w.raw("{")
	for i, column := range slices.Sorted(maps.Keys(r)) {
		if i > 0 {
			w.raw(",")
		}
		w.str(column)
		w.raw(":")
		if _, isText := r[column].(string); numerics && !isText {
			w.number(r[column])
		} else {
			w.str(text(r[column]))
		}
	}
	w.raw("}")
}

func (w *jsonWriter) rows(list []row, numerics bool) {
	w.raw("[")
	for i, r := range list {
		if i > 0 {
			w.raw(",")
		}
		w.row(r, numerics)
	}
	w.raw("]")
}
