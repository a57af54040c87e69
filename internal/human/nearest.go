// Package human reads what people type: durations in days, and names with mistakes.
package human

// Nearest returns the name that a mistyped one is most like, or "".
func Nearest(typed string, names []string) string {
	best, least := "", max(1, len(typed)/3)
	for _, name := range names {
		if n := distance(typed, name); n <= least {
			best, least = name, n-1
		}
	}
	return best
}

// distance returns how many letters of a have to be removed, added or replaced to make b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			changed := diagonal
			if a[i] != b[j] {
				changed++
			}
			diagonal = row[j+1]
			row[j+1] = min(changed, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
