package osqueryhost

import (
	"context"

	"github.com/osquery/osquery-go/gen/osquery"
)

// A manager responds to the requests of extensions to core (ExtensionManagerHandler,
// impl_thrift.cpp).
type manager struct{ worker *worker }

var _ osquery.ExtensionManager = (*manager)(nil)

func (m *manager) Ping(context.Context) (*osquery.ExtensionStatus, error) {
	return &osquery.ExtensionStatus{Message: "pong"}, nil
}

func (m *manager) Call(ctx context.Context, kind, item string, request osquery.ExtensionPluginRequest) (*osquery.ExtensionResponse, error) {
	response := m.worker.call(ctx, kind, item, request)
	return &response, nil
}

// Shutdown does nothing, because osquery ignores this request.
func (m *manager) Shutdown(context.Context) error { return nil }

func (m *manager) Extensions(context.Context) (osquery.InternalExtensionList, error) {
	extensions, _, _ := m.worker.registry.snapshot()
	list := osquery.InternalExtensionList{}
	for uuid, extension := range extensions {
		list[uuid] = &extension.info
	}
	return list, nil
}

func (m *manager) Options(context.Context) (osquery.InternalOptionList, error) {
	list := osquery.InternalOptionList{}
	for _, f := range m.worker.host.flags() {
		list[f.name] = &osquery.InternalOptionInfo{Value: f.value, DefaultValue: f.defaultValue, Type: f.kind}
	}
	return list, nil
}

func (m *manager) RegisterExtension(_ context.Context, info *osquery.InternalExtensionInfo, routes osquery.ExtensionRegistry) (*osquery.ExtensionStatus, error) {
	uuid, err := m.worker.registry.register(*info, routes)
	if err != nil {
		return failed(err), nil
	}
	return &osquery.ExtensionStatus{Message: "OK", UUID: uuid}, nil
}

func (m *manager) DeregisterExtension(_ context.Context, uuid osquery.ExtensionRouteUUID) (*osquery.ExtensionStatus, error) {
	if !m.worker.registry.remove(uuid) {
		return failed(refusal("No extension UUID found")), nil
	}
	return &osquery.ExtensionStatus{Message: "OK"}, nil
}

func (m *manager) Query(ctx context.Context, sql string) (*osquery.ExtensionResponse, error) {
	return response(m.worker.query(ctx, sql))
}

func (m *manager) GetQueryColumns(ctx context.Context, sql string) (*osquery.ExtensionResponse, error) {
	return response(m.worker.queryColumns(ctx, sql))
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
