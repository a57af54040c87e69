package virtualtable

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/osquery/osquery-go/gen/osquery"
)

// columnType is a column's type in osquery's spelling (osquery/core/sql/column.cpp).
type columnType string

const (
	typeUnknown        columnType = "UNKNOWN"
	typeText           columnType = "TEXT"
	typeInteger        columnType = "INTEGER"
	typeBigint         columnType = "BIGINT"
	typeUnsignedBigint columnType = "UNSIGNED BIGINT"
	typeDouble         columnType = "DOUBLE"
	typeBlob           columnType = "BLOB"
)

func parseColumnType(name string) columnType {
	switch t := columnType(name); t {
	case typeText, typeInteger, typeBigint, typeUnsignedBigint, typeDouble, typeBlob:
		return t
	}
	return typeUnknown
}

// options are osquery's ColumnOptions (osquery/core/sql/column.h). Optimized (8) alone has
// no effect in this package.
type options int

const (
	optionIndex      options = 1
	optionRequired   options = 2
	optionAdditional options = 4
	optionHidden     options = 16
)

type column struct {
	name     string
	kind     columnType
	declared options // as the plugin declared them
}

// effective returns the declared options, or osquery's default if there are none: an
// extension's column without options is indexed (flag extensions_default_index).
func (c column) effective() options {
	if c.declared == 0 {
		return optionIndex
	}
	return c.declared
}

// pushed reports whether constraints on the column are passed to the plugin.
func (c column) pushed() bool {
	return c.effective()&(optionIndex|optionRequired|optionAdditional) != 0
}

func readColumns(ctx context.Context, plugin Plugin) ([]column, error) {
	routes, err := call(ctx, plugin, osquery.ExtensionPluginRequest{"action": "columns"})
	if err != nil {
		return nil, fmt.Errorf("read columns of table %s: %w", plugin.Name(), err)
	}
	var columns []column
	for _, route := range routes {
		if route["id"] != "column" || route["name"] == "" {
			continue
		}
		// As in osquery, options that are not a number count as none.
		declared, _ := strconv.Atoi(route["op"])
		columns = append(columns, column{
			name:     route["name"],
			kind:     parseColumnType(route["type"]),
			declared: options(declared),
		})
	}
	if len(columns) == 0 {
		return nil, fmt.Errorf("read columns of table %s: the plugin returned none", plugin.Name())
	}
	return columns, nil
}

// declaration returns the CREATE TABLE statement that declares the columns to SQLite.
func declaration(table string, columns []column) string {
	var parts, keys, all []string
	indexed := false
	for _, c := range columns {
		name := quote(c.name)
		part := name + " " + string(c.kind)
		if c.declared&optionHidden != 0 {
			part += " HIDDEN"
		}
		parts, all = append(parts, part), append(all, name)
		if c.declared&(optionIndex|optionAdditional) != 0 {
			keys = append(keys, name)
		}
		indexed = indexed || c.declared&optionIndex != 0
	}
	if len(keys) > 0 && !indexed {
		// An additional column decides which rows are generated. Alone it does not
		// identify them.
		keys = all
	}
	if len(keys) > 0 {
		parts = append(parts, fmt.Sprintf("PRIMARY KEY (%s)", strings.Join(keys, ", ")))
	}
	return fmt.Sprintf("CREATE TABLE %s(%s)", quote(table), strings.Join(parts, ", "))
}
