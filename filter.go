package kmodquery

// Op compares a column with a value.
type Op int

// The comparisons that a [Filter] knows. There are no others: what cannot be
// said with them is left out of the filter.
const (
	Equal Op = iota + 1
	Less
	LessOrEqual
	Greater
	GreaterOrEqual
)

// A Condition compares one column of an [Event].
type Condition struct {
	Column string
	Op     Op
	// Values are int64, float64 or string. Several values are alternatives;
	// only Equal takes more than one. Text is compared without regard to
	// ASCII case and to blanks at its end, so that no collation of the asker
	// loses a row. An event
	// whose column is unknown matches no condition on it.
	Values []any
}

// A Filter selects events. Its law is that of osquery's tables: it may let
// through more than was asked for and never less, because osquery filters
// again. So whatever cannot be parsed is left out, never guessed.
type Filter struct {
	// Conditions must all hold. None selects every event.
	Conditions []Condition
	// Columns are the columns to read; the others stay empty in the events
	// handed back. EID and Time are always read. Nil reads all.
	Columns []string
}
