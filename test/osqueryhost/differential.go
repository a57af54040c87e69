package osqueryhost

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// A change is the difference between two results of a query.
type change struct {
	added, removed []map[string]string
}

// diff compares two results as multisets, in which a row may occur several
// times (diff, diff_results.cpp). Added rows keep their order; removed ones are
// sorted.
func diff(before, after []map[string]string) (change, error) {
	left := map[string][]map[string]string{}
	for _, row := range before {
		key, err := rowKey(row)
		if err != nil {
			return change{}, err
		}
		left[key] = append(left[key], row)
	}
	var c change
	for _, row := range after {
		key, err := rowKey(row)
		if err != nil {
			return change{}, err
		}
		if same := left[key]; len(same) > 0 {
			left[key] = same[1:]
		} else {
			c.added = append(c.added, row)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(left)) {
		c.removed = append(c.removed, left[key]...)
	}
	return c, nil
}

// rowKey returns the same text for equal rows: encoding/json sorts a map's keys.
func rowKey(row map[string]string) (string, error) {
	key, err := json.Marshal(row)
	if err != nil {
		return "", fmt.Errorf("compare row: %w", err)
	}
	return string(key), nil
}
