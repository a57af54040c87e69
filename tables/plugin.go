package tables

import (
	"context"

	"github.com/osquery/osquery-go/gen/osquery"
	"github.com/osquery/osquery-go/plugin/table"

	"github.com/kmodquery/kmodquery"
)

// A definition is one table in which each row shows a T.
type definition[T any] struct {
	name        string
	description string
	examples    []string
	columns     []columnOf[T]
	generate    func(ctx context.Context, c Config, q query) ([]map[string]string, error)
}

// A plugin serves a definition to osquery. It is osquery-go's table plugin, except for
// the generate action, to which that plugin does not pass the used columns.
type plugin struct {
	*table.Plugin
	guard    *guard
	generate func(ctx context.Context, q query) ([]map[string]string, error)
}

func (d definition[T]) plugin(c Config, g *guard) *plugin {
	options := []table.TableOpt{
		table.WithDescription(d.description),
		table.WithPlatforms(table.LinuxPlatform, table.DarwinPlatform),
	}
	for _, example := range d.examples {
		options = append(options, table.WithExample(example))
	}
	var columns []table.ColumnDefinition
	for _, column := range d.columns {
		columns = append(columns, column.ColumnDefinition)
	}
	return &plugin{
		Plugin: table.NewPlugin(d.name, columns, nil, options...),
		guard:  g,
		generate: func(ctx context.Context, q query) ([]map[string]string, error) {
			return d.generate(ctx, c, q)
		},
	}
}

// Call implements osquery-go's plugin interface. It never panics.
func (p *plugin) Call(ctx context.Context, request osquery.ExtensionPluginRequest) osquery.ExtensionResponse {
	if request["action"] != "generate" {
		return p.Plugin.Call(ctx, request)
	}
	q, err := parseQuery(request["context"])
	if err != nil {
		return failure("error parsing context JSON: " + err.Error())
	}
	rows, err := p.guard.run(ctx, func(ctx context.Context) ([]map[string]string, error) {
		return p.generate(ctx, q)
	})
	if err != nil {
		return failure("error generating table: " + err.Error())
	}
	return osquery.ExtensionResponse{
		Status:   &osquery.ExtensionStatus{Code: 0, Message: "OK"},
		Response: rows,
	}
}

// failure returns a response whose message osquery shows and logs.
func failure(message string) osquery.ExtensionResponse {
	message = kmodquery.Printable(message)
	return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: 1, Message: message}}
}
