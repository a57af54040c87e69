package osqueryhost

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"

	"github.com/osquery/osquery-go/gen/osquery"
)

// An attachedTable is a table in the worker's SQLite.
type attachedTable struct {
	worker *worker
	name   string
	routes osquery.ExtensionPluginResponse // the columns
	text   []string                        // the TEXT and BLOB columns
	call   func(context.Context, osquery.ExtensionPluginRequest) osquery.ExtensionResponse
}

func (w *worker) attach(name string, routes osquery.ExtensionPluginResponse, call func(context.Context, osquery.ExtensionPluginRequest) osquery.ExtensionResponse) *attachedTable {
	t := &attachedTable{worker: w, name: name, routes: routes, call: call}
	for _, route := range routes {
		if route["id"] == "column" && (route["type"] == "TEXT" || route["type"] == "BLOB") {
			t.text = append(t.text, route["name"])
		}
	}
	return t
}

func (t *attachedTable) Name() string { return t.name }

// Call responds to a request for the columns from the registration, because an extension
// may not serve yet (routes_ in RegistryInterface::call).
func (t *attachedTable) Call(ctx context.Context, request osquery.ExtensionPluginRequest) osquery.ExtensionResponse {
	if request["action"] == "columns" {
		return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Message: "OK"}, Response: t.routes}
	}
	var asked queryContext
	if err := json.Unmarshal([]byte(request["context"]), &asked); err != nil {
		return failure("decode query context: " + err.Error())
	}
	asked.asOsquery()
	encoded, err := json.Marshal(asked)
	if err != nil {
		return failure("encode query context: " + err.Error())
	}
	request["context"] = string(encoded)
	response := t.call(ctx, request)
	t.fill(response.Response, asked.ColsUsed)
	if e, ok := ctx.Value(executionKey{}).(*execution); ok {
		e.reply(t.name, response.Response)
	}
	return response
}

// fill gives each row the TEXT and BLOB cells that it lacks and the query reads. They are
// empty and never NULL: DynamicTableRow::get_column inserts the missing key before it
// tests for it (dynamic_table_row.cpp).
func (t *attachedTable) fill(rows []map[string]string, used []string) {
	for _, column := range t.text {
		if !slices.Contains(used, column) {
			continue
		}
		for _, r := range rows {
			if _, ok := r[column]; !ok {
				r[column] = ""
			}
		}
	}
}

// A queryContext is the context of a generate request (setRequestFromContext, tables.cpp).
type queryContext struct {
	Constraints    []constraintList `json:"constraints"`
	ColsUsed       []string         `json:"colsUsed"`
	ColsUsedBitset uint64           `json:"colsUsedBitset"`
}

type constraintList struct {
	Name string `json:"name"`
	List []struct {
		Op   int    `json:"op"`
		Expr string `json:"expr"`
	} `json:"list"`
	Affinity string `json:"affinity"`
}

// Operators of SQLite's constraints on the number of rows. Both are on the first column.
const (
	opLimit  = 73
	opOffset = 74
)

// asOsquery changes the order where the SQLite of osquery has another than the newer one
// here, or none: LIMIT comes before OFFSET (SQLite 3.42), and the used columns are an
// unordered set (UsedColumns, tables.h).
func (c *queryContext) asOsquery() {
	for _, constraints := range c.Constraints {
		list := constraints.List
		for i := 1; i < len(list); i++ {
			if list[i-1].Op == opOffset && list[i].Op == opLimit {
				list[i-1], list[i] = list[i], list[i-1]
			}
		}
	}
	rand.Shuffle(len(c.ColsUsed), func(i, j int) { c.ColsUsed[i], c.ColsUsed[j] = c.ColsUsed[j], c.ColsUsed[i] })
}
