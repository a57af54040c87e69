package virtualtable

import (
	"context"
	"errors"
	"fmt"

	"github.com/osquery/osquery-go/gen/osquery"
	"modernc.org/sqlite/vtab"
)

// module creates the table of one plugin on each connection.
type module struct {
	plugin  Plugin
	columns []column
	session func(id string) *session
}

func (m *module) Create(ctx vtab.Context, args []string) (vtab.Table, error) {
	return m.Connect(ctx, args)
}

// Connect expects the session's number as the last of four arguments, after the names of
// module, schema and table.
func (m *module) Connect(ctx vtab.Context, args []string) (vtab.Table, error) {
	if len(args) != 4 {
		return nil, fmt.Errorf("connect table %s: the module has no session argument", m.plugin.Name())
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

// table is the table of one plugin on one connection.
type table struct {
	*module
	session *session
}

func (t *table) Open() (vtab.Cursor, error) { return &cursor{table: t}, nil }

func (t *table) Disconnect() error { return nil }

func (t *table) Destroy() error { return nil }

// call calls a plugin. If its status is bad, call returns the plugin's message as an
// error.
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
