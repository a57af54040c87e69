package osqueryhost

import (
	"maps"
	"slices"
)

// A change is the difference between two results of a query.
type change struct {
	added, removed []row
}

// diff compares two results as multisets, in which a row may occur several
// times (diff, diff_results.cpp). Values of different types differ, such as 1 and '1'.
// Added rows keep their order; removed ones are sorted.
func diff(before, after []row) change {
	left := map[string][]row{}
	for _, r := range before {
		key := rowKey(r)
		left[key] = append(left[key], r)
	}
	var c change
	for _, r := range after {
		key := rowKey(r)
		if same := left[key]; len(same) > 0 {
			left[key] = same[1:]
		} else {
			c.added = append(c.added, r)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(left)) {
		c.removed = append(c.removed, left[key]...)
	}
	return c
}

// rowKey returns the same text for equal rows.
func rowKey(r row) string {
	var w jsonWriter
	w.row(r, true)
	return string(w.b)
}
