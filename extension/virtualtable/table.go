package virtualtable

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/osquery/osquery-go/gen/osquery"
	"modernc.org/sqlite/vtab"
)

// module creates the table of one plugin on each connection.
type module struct {
	plugin   Plugin
	columns  []column
	sessions *sync.Map // of the connector
	isStrict bool      // of OpenShell
}

func (m *module) Create(ctx vtab.Context, args []string) (vtab.Table, error) {
	return m.Connect(ctx, args)
}

// Connect gets the names of module, schema and table, and the number of the session. Only
// the connector calls it with these: the authorizer refuses other CREATE VIRTUAL TABLE.
func (m *module) Connect(ctx vtab.Context, args []string) (vtab.Table, error) {
	s, ok := m.sessions.Load(args[len(args)-1])
	if !ok {
		return nil, fmt.Errorf("connect table %s: no session in %q", m.plugin.Name(), args)
	}
	if err := ctx.Declare(declaration(m.plugin.Name(), m.columns)); err != nil {
		return nil, fmt.Errorf("declare columns: %w", err)
	}
	return &table{module: m, session: s.(*session)}, nil
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
