package osqueryhost

import (
	"context"
	"strconv"

	"github.com/osquery/osquery-go/gen/osquery"
)

// A manager responds to the requests of extensions to core (ExtensionManagerHandler,
// impl_thrift.cpp).
type manager struct{ host *Host }

var _ osquery.ExtensionManager = (*manager)(nil)

func (m *manager) Ping(context.Context) (*osquery.ExtensionStatus, error) {
	return &osquery.ExtensionStatus{Message: "pong"}, nil
}

func (m *manager) Call(ctx context.Context, kind, item string, request osquery.ExtensionPluginRequest) (*osquery.ExtensionResponse, error) {
	response := m.host.call(ctx, kind, item, request)
	return &response, nil
}

// Shutdown does nothing, because osquery ignores this request.
func (m *manager) Shutdown(context.Context) error { return nil }

func (m *manager) Extensions(context.Context) (osquery.InternalExtensionList, error) {
	extensions, _, _ := m.host.registry.snapshot()
	list := osquery.InternalExtensionList{}
	for uuid, extension := range extensions {
		list[uuid] = &extension.info
	}
	return list, nil
}

func (m *manager) Options(context.Context) (osquery.InternalOptionList, error) {
	o := m.host.options
	option := func(kind, value, defaultValue string) *osquery.InternalOptionInfo {
		return &osquery.InternalOptionInfo{Value: value, DefaultValue: defaultValue, Type: kind}
	}
	return osquery.InternalOptionList{
		"config_plugin":         option("string", "filesystem", "filesystem"),
		"distributed_plugin":    option("string", "tls", "tls"),
		"extensions_interval":   option("string", seconds(o.Interval), "3"),
		"extensions_socket":     option("string", o.Socket, "/var/osquery/osquery.em"),
		"extensions_timeout":    option("string", seconds(o.Timeout), "3"),
		"host_identifier":       option("string", "hostname", "hostname"),
		"logger_path":           option("string", o.Dir, "/var/log/osquery/"),
		"logger_plugin":         option("string", "filesystem", "filesystem"),
		"pack_delimiter":        option("string", "_", "_"),
		"pack_refresh_interval": option("uint64", seconds(o.PackRefresh), "3600"),
		"schedule_epoch":        option("uint64", strconv.FormatUint(o.Epoch, 10), "0"),
		"verbose":               option("bool", strconv.FormatBool(o.Verbose), "false"),
	}, nil
}

func (m *manager) RegisterExtension(_ context.Context, info *osquery.InternalExtensionInfo, routes osquery.ExtensionRegistry) (*osquery.ExtensionStatus, error) {
	uuid, err := m.host.registry.register(*info, routes)
	if err != nil {
		return failed(err), nil
	}
	return &osquery.ExtensionStatus{Message: "OK", UUID: uuid}, nil
}

func (m *manager) DeregisterExtension(_ context.Context, uuid osquery.ExtensionRouteUUID) (*osquery.ExtensionStatus, error) {
	if !m.host.registry.remove(uuid) {
		return failed(refusal("No extension UUID found")), nil
	}
	return &osquery.ExtensionStatus{Message: "OK"}, nil
}

func (m *manager) Query(ctx context.Context, sql string) (*osquery.ExtensionResponse, error) {
	return response(m.host.Query(ctx, sql))
}

func (m *manager) GetQueryColumns(ctx context.Context, sql string) (*osquery.ExtensionResponse, error) {
	return response(m.host.queryColumns(ctx, sql))
}

func response(rows []map[string]string, err error) (*osquery.ExtensionResponse, error) {
	if err != nil {
		return &osquery.ExtensionResponse{Status: failed(err)}, nil
	}
	return &osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Message: "OK"}, Response: rows}, nil
}

func failed(err error) *osquery.ExtensionStatus {
	return &osquery.ExtensionStatus{Code: int32(osquery.ExtensionCode_EXT_FAILED), Message: err.Error()}
}
