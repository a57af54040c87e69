package osqueryhost

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/osquery/osquery-go/gen/osquery"
)

// A coreTable is a table of the host itself. Core tables ignore constraints, because
// SQLite filters their rows.
type coreTable struct {
	name    string
	columns [][2]string // name and type
	rows    func() []map[string]string
}

func (t *coreTable) Name() string { return t.name }

func (t *coreTable) Call(_ context.Context, request osquery.ExtensionPluginRequest) osquery.ExtensionResponse {
	ok := &osquery.ExtensionStatus{Message: "OK"}
	switch request["action"] {
	case "generate":
		return osquery.ExtensionResponse{Status: ok, Response: t.rows()}
	case "columns":
		var routes osquery.ExtensionPluginResponse
		for _, column := range t.columns {
			routes = append(routes, map[string]string{"id": "column", "name": column[0], "type": column[1], "op": "0"})
		}
		return osquery.ExtensionResponse{Status: ok, Response: routes}
	default:
		return failure("Unknown table plugin action: " + request["action"])
	}
}

// coreTables are the tables of osquery that packs and their discovery queries use
// (specs/utility). time has the columns that queries compute with; it follows the
// host's clock.
func coreTables(h *Host) []*coreTable {
	return []*coreTable{
		{
			name: "time",
			columns: [][2]string{
				{"year", "INTEGER"}, {"month", "INTEGER"}, {"day", "INTEGER"}, {"hour", "INTEGER"},
				{"minutes", "INTEGER"}, {"seconds", "INTEGER"}, {"timezone", "TEXT"}, {"unix_time", "INTEGER"},
			},
			rows: h.timeRows,
		},
		{
			name: "osquery_registry",
			columns: [][2]string{
				{"registry", "TEXT"}, {"name", "TEXT"}, {"owner_uuid", "INTEGER"}, {"internal", "INTEGER"}, {"active", "INTEGER"},
			},
			rows: h.registryRows,
		},
		{
			name: "osquery_extensions",
			columns: [][2]string{
				{"uuid", "BIGINT"}, {"name", "TEXT"}, {"version", "TEXT"}, {"sdk_version", "TEXT"}, {"path", "TEXT"}, {"type", "TEXT"},
			},
			rows: h.extensionRows,
		},
	}
}

func (h *Host) timeRows() []map[string]string {
	now := h.clock.now().UTC()
	return []map[string]string{{
		"year":      strconv.Itoa(now.Year()),
		"month":     strconv.Itoa(int(now.Month())),
		"day":       strconv.Itoa(now.Day()),
		"hour":      strconv.Itoa(now.Hour()),
		"minutes":   strconv.Itoa(now.Minute()),
		"seconds":   strconv.Itoa(now.Second()),
		"timezone":  "UTC",
		"unix_time": strconv.FormatInt(now.Unix(), 10),
	}}
}

func (h *Host) registryRows() []map[string]string {
	row := func(kind, item, owner string) map[string]string {
		return map[string]string{"registry": kind, "name": item, "owner_uuid": owner, "internal": "0", "active": "1"}
	}
	var rows []map[string]string
	for _, t := range h.registry.core {
		rows = append(rows, row(tableRegistry, t.name, "0"))
	}
	extensions, _, _ := h.registry.snapshot()
	for _, uuid := range slices.Sorted(maps.Keys(extensions)) {
		routes := extensions[uuid].routes
		for _, kind := range slices.Sorted(maps.Keys(routes)) {
			for _, item := range slices.Sorted(maps.Keys(routes[kind])) {
				rows = append(rows, row(kind, item, strconv.FormatInt(int64(uuid), 10)))
			}
		}
	}
	return rows
}

func (h *Host) extensionRows() []map[string]string {
	rows := []map[string]string{{
		"uuid": "0", "name": "core", "version": h.options.Version, "sdk_version": h.options.Version,
		"path": h.extensionSocket(0), "type": "core",
	}}
	extensions, _, _ := h.registry.snapshot()
	for _, uuid := range slices.Sorted(maps.Keys(extensions)) {
		info := extensions[uuid].info
		rows = append(rows, map[string]string{
			"uuid": strconv.FormatInt(int64(uuid), 10), "name": info.Name, "version": info.Version,
			"sdk_version": info.SdkVersion, "path": h.extensionSocket(uuid), "type": "extension",
		})
	}
	return rows
}
