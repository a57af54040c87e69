package osqueryhost

import "strings"

// statements splits SQL at the semicolons between its statements, as repeated calls of
// sqlite3_prepare_v2 do. A part that is empty or holds only comments is a statement that
// does nothing. Statements that contain a semicolon of their own, which only triggers
// have, are not allowed in osquery.
func statements(sql string) []string {
	var list []string
	start := 0
	for i := 0; i < len(sql); {
		switch {
		case sql[i] == ';':
			list = append(list, sql[start:i])
			start, i = i+1, i+1
		case strings.HasPrefix(sql[i:], "--"):
			i = past(sql, i+2, "\n")
		case strings.HasPrefix(sql[i:], "/*"):
			i = past(sql, i+2, "*/")
		case strings.IndexByte("'\"`", sql[i]) >= 0:
			// A doubled quote ends one quoted part and begins the next.
			i = past(sql, i+1, sql[i:i+1])
		case sql[i] == '[':
			i = past(sql, i+1, "]")
		default:
			i++
		}
	}
	if start < len(sql) {
		list = append(list, sql[start:])
	}
	return list
}

// past returns the index after the next end, or the length of sql.
func past(sql string, from int, end string) int {
	if n := strings.Index(sql[from:], end); n >= 0 {
		return from + n + len(end)
	}
	return len(sql)
}

// isEmpty reports whether a statement has only white space and comments.
func isEmpty(statement string) bool {
	for i := 0; i < len(statement); {
		switch {
		case strings.HasPrefix(statement[i:], "--"):
			i = past(statement, i+2, "\n")
		case strings.HasPrefix(statement[i:], "/*"):
			i = past(statement, i+2, "*/")
		case strings.IndexByte(" \t\n\f\r", statement[i]) >= 0:
			i++
		default:
			return false
		}
	}
	return true
}
