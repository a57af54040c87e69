package virtualtable

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/osquery/osquery-go/gen/osquery"
)

// columnType is a type by osquery's spelling (osquery/core/sql/column.cpp).
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

// options are osquery's ColumnOptions (osquery/core/sql/column.h). Optimized
// (8) alone changes nothing here.
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
	declared options // as the plugin said
}

// effective is declared with osquery's default: an extension's column without
// an option is indexed (flag extensions_default_index).
func (c column) effective() options {
	if c.declared == 0 {
		return optionIndex
	}
	return c.declared
}

// pushed tells whether constraints on the column are handed to the plugin.
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
		// An option that is no number counts as none, as it does in osquery.
		declared, _ := strconv.Atoi(route["op"])
		columns = append(columns, column{
			name:     route["name"],
			kind:     parseColumnType(route["type"]),
			declared: options(declared),
		})
	}
	if len(columns) == 0 {
		return nil, fmt.Errorf("read columns of table %s: the plugin names none", plugin.Name())
	}
	return columns, nil
}

// declaration is the CREATE TABLE statement that tells SQLite the columns.
func declaration(table string, columns []column) string {
	var b strings.Builder
	var keys, all []string
	indexed := false
	fmt.Fprintf(&b, "CREATE TABLE %s(", quote(table))
	for i, c := range columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(c.name) + " " + string(c.kind))
		if c.declared&optionHidden != 0 {
			b.WriteString(" HIDDEN")
		}
		all = append(all, quote(c.name))
		if c.declared&(optionIndex|optionAdditional) != 0 {
			keys = append(keys, quote(c.name))
		}
		indexed = indexed || c.declared&optionIndex != 0
	}
	if len(keys) > 0 {
		if !indexed {
			// An additional column selects which rows exist; alone it is no key.
			keys = all
		}
		fmt.Fprintf(&b, ", PRIMARY KEY (%s)", strings.Join(keys, ", "))
	}
	b.WriteString(")")
	return b.String()
}
