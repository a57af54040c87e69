package tables

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/kmodquery/kmodquery"
)

// pushdown says what osquery does with a constraint on a column. Every column states
// it, because osquery treats a column without options as indexed.
type pushdown []table.ColumnOpt

var (
	// indexed columns have an index in the store. OPTIMIZED makes osquery send all
	// values of an IN in one call.
	indexed = pushdown{table.IndexColumn(), table.OptimizedColumn()}
	// filtered columns are compared in the store, without an index.
	filtered = pushdown{table.AdditionalColumn(), table.OptimizedColumn()}
	// local columns are compared by osquery alone.
	local = pushdown{table.OptimizedColumn()}
	// hidden columns are local and not part of SELECT *.
	hidden = pushdown{table.HiddenColumn()}
)

// A columnOf is one column of a table in which each row shows a T.
type columnOf[T any] struct {
	table.ColumnDefinition
	// cell returns the text of the cell, and false for NULL.
	cell func(*T) (string, bool)
	// event is the event's column with which constraints on this one are compared. Its
	// name is "" if osquery alone compares them.
	event kmodquery.Column
	// needs are the event's columns that value needs.
	needs []string
}

// number returns a column of numbers; nil is NULL.
func number[T any](name string, p pushdown, description string, value func(*T) *int64) columnOf[T] {
	return columnOf[T]{ColumnDefinition: table.BigIntColumn(name, p.options(description)...), cell: func(item *T) (string, bool) {
		n := value(item)
		if n == nil {
			return "", false
		}
		return strconv.FormatInt(*n, 10), true
	}}
}

// text returns a column of texts; "" is NULL.
func text[T any](name string, p pushdown, description string, value func(*T) string) columnOf[T] {
	return columnOf[T]{ColumnDefinition: table.TextColumn(name, p.options(description)...), cell: func(item *T) (string, bool) {
		text := value(item)
		return text, text != ""
	}}
}

func (p pushdown) options(description string) []table.ColumnOpt {
	return append(slices.Clone(p), table.ColumnDescription(description))
}

// comparedAs returns the column with constraints that are compared with a column of an
// event.
func (c columnOf[T]) comparedAs(event string) columnOf[T] {
	column, ok := kmodquery.EventColumn(event)
	if !ok {
		panic(fmt.Sprintf("an event has no %s", event))
	}
	c.event, c.needs = column, []string{event}
	return c
}

// needing returns the column with the event's columns that its value needs.
func (c columnOf[T]) needing(columns ...string) columnOf[T] {
	c.needs = columns
	return c
}

// ofEvent returns a column that shows a column of an event.
func ofEvent(name string, p pushdown, description string) columnOf[kmodquery.Event] {
	event, _ := kmodquery.EventColumn(name)
	definition := table.TextColumn
	if event.Number {
		definition = table.BigIntColumn
	}
	return columnOf[kmodquery.Event]{
		ColumnDefinition: definition(name, p.options(description)...),
		cell:             func(e *kmodquery.Event) (string, bool) { return eventCell(event, e) },
	}.comparedAs(name)
}

// unprivileged returns the column that separates what any user can cause.
func unprivileged[T any](event func(*T) *kmodquery.Event) columnOf[T] {
	c := number(kmodquery.UnprivilegedColumn, filtered, "1 for an event that any user can cause any number of times: a denied call, a refused kernel extension or a request for a module; otherwise 0",
		func(item *T) *int64 { return bit(event(item).IsUnprivileged()) })
	c.event = kmodquery.Column{Name: kmodquery.UnprivilegedColumn, Number: true}
	c.needs = kmodquery.UnprivilegedNeeds()
	return c
}

const taintFlagsHelp = "The kernel's letters for the bits of taints, such as OE, in the order of Documentation/admin-guide/tainted-kernels.rst, and ? for a bit without a known letter; NULL if taints is 0 or NULL, which missing names as taints"

// taintFlags returns the column with the letters of an event's taints. It is not stored.
func taintFlags() columnOf[kmodquery.Event] {
	c := text("taint_flags", local, taintFlagsHelp, func(e *kmodquery.Event) string { return kmodquery.TaintFlags(e.Taints) })
	c.needs = []string{"taints"}
	return c
}

// used returns the columns that a query uses.
func used[T any](q query, columns []columnOf[T]) []columnOf[T] {
	return slices.DeleteFunc(slices.Clone(columns), func(c columnOf[T]) bool { return !q.uses(c.Name) })
}

// eventNames returns the names of the event's columns that the columns need. It is not nil.
func eventNames[T any](columns []columnOf[T]) []string {
	names := []string{}
	for _, column := range columns {
		names = append(names, column.needs...)
	}
	return names
}
