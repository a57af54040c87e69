package virtualtable

import (
	"context"
	"errors"
	"fmt"

	"github.com/osquery/osquery-go/gen/osquery"
	"modernc.org/sqlite/vtab"
)

// module makes the table of one plugin on each connection.
type module struct {
	plugin  Plugin
	columns []column
	session func(id string) *session
}

func (m *module) Create(ctx vtab.Context, args []string) (vtab.Table, error) {
	return m.Connect(ctx, args)
}

// Connect is given the session's number as the module's only argument, after
// the names of module, schema and table.
func (m *module) Connect(ctx vtab.Context, args []string) (vtab.Table, error) {
	if len(args) != 4 {
		return nil, fmt.Errorf("connect table %s: no session named", m.plugin.Name())
	}
	s := m.session(args[3])
	if s == nil {
		return nil, fmt.Errorf("connect table %s: no session %s", m.plugin.Name(), args[3])
	}
	if err := ctx.Declare(declaration(m.plugin.Name(), m.columns)); err != nil {
		return nil, fmt.Errorf("declare columns: %w", err)
	}
	return &table{module: m, session: s}, nil
}

// table is a plugin as one connection sees it.
type table struct {
	*module
	session *session
}

func (t *table) Open() (vtab.Cursor, error) { return &cursor{table: t}, nil }

func (t *table) Disconnect() error { return nil }

func (t *table) Destroy() error { return nil }

// call asks a plugin and makes a bad status an error with the plugin's words.
func call(ctx context.Context, plugin Plugin, request osquery.ExtensionPluginRequest) (osquery.ExtensionPluginResponse, error) {
	response := plugin.Call(ctx, request)
	switch {
	case response.Status == nil:
		return nil, errors.New("the plugin answered without a status")
	case response.Status.Code != 0:
		return nil, errors.New(response.Status.Message)
	}
	return response.Response, nil
}
