package virtualtable

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/osquery/osquery-go/gen/osquery"
	"modernc.org/sqlite/vtab"
)

// cursor iterates over the rows of one reply.
type cursor struct {
	table *table
	rows  osquery.ExtensionPluginResponse
	row   int
}

func (c *cursor) Filter(_ int, index string, values []vtab.Value) error {
	c.rows, c.row = nil, 0
	var p plan
	if err := json.Unmarshal([]byte(index), &p); err != nil {
		return fmt.Errorf("decode plan: %w", err)
	}
	if c.table.isStrict {
		if err := c.table.checkTexts(p.Terms, values); err != nil {
			return err
		}
	}
	if c.table.lacksRequired(p.Terms, math.MaxUint64) {
		return fmt.Errorf("table %s was queried without a required column in the WHERE clause", c.table.plugin.Name())
	}
	request, err := generateRequest(c.table.columns, p, values)
	if err != nil {
		return err
	}
	c.rows, err = call(c.table.session.ctx, c.table.plugin, request)
	return err
}

func (c *cursor) Next() error {
	c.row++
	return nil
}

func (c *cursor) Eof() bool { return c.row >= len(c.rows) }

func (c *cursor) Column(i int) (vtab.Value, error) {
	column := c.table.columns[i]
	text, ok := c.rows[c.row][column.name]
	if !ok {
		return nil, nil
	}
	return columnValue(column.kind, text), nil
}

// Rowid returns the row's own rowid, or its position in the reply if it has none. In the
// latter case the rows of two replies share rowids, and SQLite takes rows with the same
// rowid for one row when it combines the replies of an OR.
func (c *cursor) Rowid() (int64, error) {
	text, ok := c.rows[c.row]["rowid"]
	if !ok {
		return int64(c.row), nil
	}
	id, ok := parseInteger(text, 10)
	if !ok {
		return 0, fmt.Errorf("read rowid %q: not an integer", text)
	}
	return id, nil
}

func (c *cursor) Close() error {
	c.rows = nil
	return nil
}
