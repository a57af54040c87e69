package tables

import (
	"fmt"

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

func number(name string, p pushdown, description string) table.ColumnDefinition {
	return table.BigIntColumn(name, append(p[:len(p):len(p)], table.ColumnDescription(description))...)
}

func text(name string, p pushdown, description string) table.ColumnDefinition {
	return table.TextColumn(name, append(p[:len(p):len(p)], table.ColumnDescription(description))...)
}

// ofEvent returns a column that shows a field of an event.
func ofEvent(name string, p pushdown, description string) table.ColumnDefinition {
	column, ok := kmodquery.EventColumn(name)
	if !ok {
		panic(fmt.Sprintf("an event has no %s", name))
	}
	if column.Number {
		return number(name, p, description)
	}
	return text(name, p, description)
}
