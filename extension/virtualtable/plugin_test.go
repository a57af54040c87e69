package virtualtable

import (
	"context"
	"database/sql"
	"encoding/json"
	"sync"
	"testing"

	"github.com/osquery/osquery-go/gen/osquery"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/leak"
)

// recorder is a plugin that records the context of each request.
type recorder struct {
	name   string
	routes []map[string]string
	rows   func(queryContext) []map[string]string
	fail   string

	mu       sync.Mutex
	contexts []queryContext
}

func (r *recorder) Name() string { return r.name }

func (r *recorder) Call(_ context.Context, request osquery.ExtensionPluginRequest) osquery.ExtensionResponse {
	ok := &osquery.ExtensionStatus{Message: "OK"}
	switch request["action"] {
	case "columns":
		return osquery.ExtensionResponse{Status: ok, Response: r.routes}
	case "generate":
		if r.fail != "" {
			return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: 1, Message: r.fail}}
		}
		var asked queryContext
		if err := json.Unmarshal([]byte(request["context"]), &asked); err != nil {
			return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: 1, Message: err.Error()}}
		}
		r.mu.Lock()
		r.contexts = append(r.contexts, asked)
		r.mu.Unlock()
		return osquery.ExtensionResponse{Status: ok, Response: r.rows(asked)}
	}
	return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: 1, Message: "unknown action"}}
}

// asked returns the constraints of each request since the last call of asked, without
// columns that have none.
func (r *recorder) asked() []map[string][]constraint {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []map[string][]constraint
	for _, context := range r.contexts {
		one := map[string][]constraint{}
		for _, list := range context.Constraints {
			if len(list.List) > 0 {
				one[list.Name] = list.List
			}
		}
		all = append(all, one)
	}
	r.contexts = nil
	return all
}

func always(rows ...map[string]string) func(queryContext) []map[string]string {
	return func(queryContext) []map[string]string { return rows }
}

func route(name, kind, op string) map[string]string {
	return map[string]string{"id": "column", "name": name, "type": kind, "op": op}
}

func open(t *testing.T, plugins ...Plugin) *sql.DB {
	t.Helper()
	leak.Check(t)
	db, err := Open(t.Context(), plugins...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// query returns all rows of a statement.
func query(t *testing.T, db *sql.DB, statement string, args ...any) [][]any {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), statement, args...)
	require.NoError(t, err)
	defer rows.Close()
	columns, err := rows.Columns()
	require.NoError(t, err)
	var all [][]any
	for rows.Next() {
		cells, pointers := make([]any, len(columns)), make([]any, len(columns))
		for i := range cells {
			pointers[i] = &cells[i]
		}
		require.NoError(t, rows.Scan(pointers...))
		all = append(all, cells)
	}
	require.NoError(t, rows.Err())
	return all
}
