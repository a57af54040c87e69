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
	columns [][2]string       // name and type
	keys    map[string]string // options of columns (column.h), if they have any
	rows    func() []map[string]string
}

// Options of columns (ColumnOptions, column.h).
const (
	optionIndex      = "1"
	optionAdditional = "4"
	optionOptimized  = "8"
)

func (t *coreTable) Call(_ context.Context, request osquery.ExtensionPluginRequest) osquery.ExtensionResponse {
	ok := &osquery.ExtensionStatus{Message: "OK"}
	switch request["action"] {
	case "generate":
		return osquery.ExtensionResponse{Status: ok, Response: t.rows()}
	case "columns":
		return osquery.ExtensionResponse{Status: ok, Response: t.routes("0")}
	default:
		return failure("Unknown table plugin action: " + request["action"])
	}
}

func (t *coreTable) routes(option string) (routes osquery.ExtensionPluginResponse) {
	for _, column := range t.columns {
		op := option
		if key, ok := t.keys[column[0]]; ok {
			op = key
		}
		routes = append(routes, map[string]string{"id": "column", "name": column[0], "type": column[1], "op": op})
	}
	return routes
}

// attachedRoutes marks columns without options as optimized, which changes nothing:
// virtualtable takes columns without options as indexed, as osquery does for extensions
// only (--extensions_default_index).
func (t *coreTable) attachedRoutes() osquery.ExtensionPluginResponse {
	return t.routes(optionOptimized)
}

// coreTables are the tables of osquery that packs and their discovery queries use
// (specs). time has the columns that queries compute with; it follows the host's clock.
func coreTables(w *worker) []*coreTable {
	h := w.host
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
			rows: w.registryRows,
		},
		{
			name: "osquery_extensions",
			columns: [][2]string{
				{"uuid", "BIGINT"}, {"name", "TEXT"}, {"version", "TEXT"}, {"sdk_version", "TEXT"}, {"path", "TEXT"}, {"type", "TEXT"},
			},
			rows: w.extensionRows,
		},
		{
			name: "osquery_packs",
			columns: [][2]string{
				{"name", "TEXT"}, {"platform", "TEXT"}, {"version", "TEXT"}, {"shard", "INTEGER"},
				{"discovery_cache_hits", "INTEGER"}, {"discovery_executions", "INTEGER"}, {"active", "INTEGER"},
			},
			rows: h.packRows,
		},
		{
			name: "osquery_schedule",
			columns: [][2]string{
				{"name", "TEXT"}, {"query", "TEXT"}, {"interval", "INTEGER"}, {"executions", "BIGINT"}, {"last_executed", "BIGINT"},
				{"denylisted", "INTEGER"}, {"output_size", "BIGINT"}, {"wall_time_ms", "BIGINT"}, {"last_wall_time_ms", "BIGINT"},
				{"average_memory", "BIGINT"}, {"last_memory", "BIGINT"},
			},
			rows: h.scheduleRows,
		},
		{
			name: "osquery_flags",
			columns: [][2]string{
				{"name", "TEXT"}, {"type", "TEXT"}, {"description", "TEXT"}, {"default_value", "TEXT"}, {"value", "TEXT"}, {"shell_only", "INTEGER"},
			},
			rows: h.flagRows,
		},
		{
			name: "processes",
			columns: [][2]string{
				{"pid", "BIGINT"}, {"name", "TEXT"}, {"path", "TEXT"}, {"cmdline", "TEXT"}, {"state", "TEXT"},
				{"uid", "BIGINT"}, {"gid", "BIGINT"}, {"euid", "BIGINT"}, {"egid", "BIGINT"}, {"parent", "BIGINT"},
			},
			keys: map[string]string{"pid": optionIndex},
			rows: func() []map[string]string { return processRows("/proc") },
		},
		{
			name: "users",
			columns: [][2]string{
				{"uid", "BIGINT"}, {"gid", "BIGINT"}, {"uid_signed", "BIGINT"}, {"gid_signed", "BIGINT"}, {"username", "TEXT"},
				{"description", "TEXT"}, {"directory", "TEXT"}, {"shell", "TEXT"}, {"uuid", "TEXT"},
			},
			keys: map[string]string{"uid": optionIndex, "uuid": optionIndex, "username": optionAdditional},
			rows: func() []map[string]string { return userRows("/etc/passwd") },
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

func (w *worker) registryRows() []map[string]string {
	row := func(kind, item, owner string) map[string]string {
		return map[string]string{"registry": kind, "name": item, "owner_uuid": owner, "internal": "0", "active": "1"}
	}
	var rows []map[string]string
	for _, t := range w.registry.core {
		rows = append(rows, row(tableRegistry, t.name, "0"))
	}
	extensions, _, _ := w.registry.snapshot()
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

func (w *worker) extensionRows() []map[string]string {
	h := w.host
	rows := []map[string]string{{
		"uuid": "0", "name": "core", "version": h.options.Version, "sdk_version": h.options.Version,
		"path": h.extensionSocket(0), "type": "core",
	}}
	extensions, _, _ := w.registry.snapshot()
	for _, uuid := range slices.Sorted(maps.Keys(extensions)) {
		info := extensions[uuid].info
		rows = append(rows, map[string]string{
			"uuid": strconv.FormatInt(int64(uuid), 10), "name": info.Name, "version": info.Version,
			"sdk_version": info.SdkVersion, "path": h.extensionSocket(uuid), "type": "extension",
		})
	}
	return rows
}

// packRows also has the packs that do not run on this host (genOsqueryPacks, osquery.cpp).
func (h *Host) packRows() (rows []map[string]string) {
	h.schedule.info.Lock()
	defer h.schedule.info.Unlock()
	for _, p := range h.schedule.packs {
		rows = append(rows, map[string]string{
			"name": p.Name, "platform": p.Platform, "version": p.Version, "shard": strconv.FormatInt(int64(p.Shard), 10),
			"discovery_cache_hits": strconv.FormatInt(p.hits, 10),
			"discovery_executions": strconv.FormatInt(p.misses, 10),
			"active":               digit(p.discovered && p.runsOn(h.options)),
		})
	}
	return rows
}

// scheduleRows has the queries of active packs (genOsquerySchedule). The memory is what was
// accounted, and times of the processor are left out.
func (h *Host) scheduleRows() (rows []map[string]string) {
	h.schedule.info.Lock()
	defer h.schedule.info.Unlock()
	now := h.clock.now()
	for _, p := range h.schedule.packs {
		if !p.discovered {
			continue
		}
		for _, q := range p.queries {
			r := h.schedule.performance[q.name]
			rows = append(rows, map[string]string{
				"name": q.name, "query": q.sql, "interval": strconv.FormatInt(q.interval, 10),
				"denylisted":        digit(h.schedule.state.denied(q, now)),
				"executions":        strconv.FormatInt(r.executions, 10),
				"last_executed":     strconv.FormatInt(r.lastExecuted, 10),
				"output_size":       strconv.FormatInt(r.outputSize, 10),
				"wall_time_ms":      strconv.FormatInt(r.wall.Milliseconds(), 10),
				"last_wall_time_ms": strconv.FormatInt(r.lastWall.Milliseconds(), 10),
				"average_memory":    strconv.FormatInt(r.averageMemory, 10),
				"last_memory":       strconv.FormatInt(r.lastMemory, 10),
			})
		}
	}
	return rows
}

func (h *Host) flagRows() (rows []map[string]string) {
	for _, f := range h.flags() {
		rows = append(rows, map[string]string{
			"name": f.name, "type": f.kind, "description": f.description,
			"default_value": f.defaultValue, "value": f.value, "shell_only": "0",
		})
	}
	return rows
}

func digit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
