package kmodquery

// Op compares a column with a value.
type Op int

// The comparisons of a [Filter]. A constraint that needs another one is left out of
// the filter.
const (
	Equal Op = iota + 1
	Less
	LessOrEqual
	Greater
	GreaterOrEqual
)

// A Condition compares one column of an [Event] with values. An event whose column
// is unknown satisfies no condition on it.
type Condition struct {
	Column string
	Op     Op
	// Values are int64, float64 or string. Equal accepts any of several values;
	// the other comparisons take exactly one. Equal ignores ASCII case and trailing
	// blanks of text, so that a query with another collation loses no row.
	Values []any
}

// A Filter selects events. It may select more events than a query asks for and
// never fewer, because osquery filters the rows again. A constraint that cannot be
// parsed is therefore left out and never guessed.
type Filter struct {
	// Conditions must all hold. Without conditions every event is selected.
	Conditions []Condition
	// Reports are names of events. Those of which [Event.IsLoadReport] is false because of
	// their ReportsLoad are left out.
	Reports []string
	// Columns are the columns to read; other fields of the returned events stay
	// empty. EID and Time are always read. Nil reads all columns.
	Columns []string
}
