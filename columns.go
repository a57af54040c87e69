package kmodquery

import (
	"iter"
	"slices"
	"strings"
)

// Columns is an ordered set of column names. Its text, in JSON and in the event
// store, is the names separated by commas, in the order in which they were added.
// The zero value is the empty set. Copies are independent of each other.
type Columns string

// Has reports whether the set contains a column.
func (c Columns) Has(column string) bool {
	for name := range c.All() {
		if name == column {
			return true
		}
	}
	return false
}

// Add appends the columns that the set does not contain yet.
func (c *Columns) Add(columns ...string) {
	for _, column := range columns {
		switch {
		case *c == "":
			*c = Columns(column)
		case !c.Has(column):
			*c += Columns("," + column)
		}
	}
}

// Remove takes columns out of the set. Those that it does not contain are ignored.
func (c *Columns) Remove(columns ...string) {
	var kept Columns
	for name := range c.All() {
		if !slices.Contains(columns, name) {
			kept.Add(name)
		}
	}
	*c = kept
}

// All returns the columns in their order.
func (c Columns) All() iter.Seq[string] {
	return func(yield func(string) bool) {
		if c == "" {
			return
		}
		for name := range strings.SplitSeq(string(c), ",") {
			if !yield(name) {
				return
			}
		}
	}
}

// String returns the columns separated by commas; "" for the empty set.
func (c Columns) String() string { return string(c) }
