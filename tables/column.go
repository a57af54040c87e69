package tables

import (
	"fmt"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/kmodquery/kmodquery"
)

// pushing says what osquery does with a constraint on a column. Every column
// states it, because osquery makes an index of a column that does not.
type pushing []table.ColumnOpt

var (
	// indexed columns have an index in the store. OPTIMIZED makes osquery
	// send all values of an IN with one call instead of one call for each.
	indexed = pushing{table.IndexColumn(), table.OptimizedColumn()}
	// filtered columns are compared in the store too, without an index.
	filtered = pushing{table.AdditionalColumn(), table.OptimizedColumn()}
	// local columns are compared by osquery alone.
	local = pushing{table.OptimizedColumn()}
	// hidden columns are local and not part of SELECT *.
	hidden = pushing{table.HiddenColumn()}
)

func number(name string, p pushing, description string) table.ColumnDefinition {
	return table.BigIntColumn(name, append(p[:len(p):len(p)], table.ColumnDescription(description))...)
}

func text(name string, p pushing, description string) table.ColumnDefinition {
	return table.TextColumn(name, append(p[:len(p):len(p)], table.ColumnDescription(description))...)
}

// ofEvent is a column that shows a field of an event.
func ofEvent(name string, p pushing, description string) table.ColumnDefinition {
	column, ok := kmodquery.EventColumn(name)
	if !ok {
		panic(fmt.Sprintf("an event has no %s", name))
	}
	if column.Number {
		return number(name, p, description)
	}
	return text(name, p, description)
}
