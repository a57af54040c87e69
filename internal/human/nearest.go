// Package human reads what people type: durations in days, and names with mistakes.
package human

import (
	"bytes"
	"slices"
	"strings"
)

// maxTyped is the length from which on a name is like no other.
const maxTyped = 64

// Nearest returns the name that a mistyped one is most like, or else the shortest one that has it as
// a part, or "".
func Nearest(typed string, names []string) string {
	if len(typed) > maxTyped {
		return ""
	}
	best, least := "", max(1, len(typed)/3)
	for _, name := range names {
		n := distance(typed, name)
		if len(typed) <= 3 && len(name) <= len(typed) && n > 0 && !hasSameLetters(typed, name) {
			continue // of a short name, another letter makes another word
		}
		if n <= least {
			best, least = name, n-1
		}
	}
	if best != "" || len(typed) < 4 {
		return best
	}
	for _, name := range names {
		if strings.Contains(name, typed) && (best == "" || len(name) < len(best)) {
			best = name
		}
	}
	return best
}

// hasSameLetters reports whether two names differ in the order of their letters only.
func hasSameLetters(a, b string) bool {
	x, y := []byte(a), []byte(b)
	slices.Sort(x)
	slices.Sort(y)
	return bytes.Equal(x, y)
}

// distance returns how many letters of a have to be removed, added, replaced or swapped with
// the next one to make b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			n := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				n++
			}
			n = min(n, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				n = min(n, rows[i-2][j-2]+1)
			}
			rows[i][j] = n
		}
	}
	return rows[len(a)][len(b)]
}
