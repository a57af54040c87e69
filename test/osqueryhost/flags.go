package osqueryhost

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A flag is a flag of osqueryd, as osquery_flags shows it.
type flag struct {
	name         string
	kind         string
	defaultValue string
	value        string
	description  string
}

// settable are the flags of Options.Flags, with osquery's defaults (watcher.cpp,
// logger.cpp, query.cpp, tls_logger.cpp, distributed.cpp, extensions.cpp).
var settable = []flag{
	{"disable_watchdog", "bool", "false", "true", "Disable userland watchdog process"},
	{"distributed_denylist_duration", "uint64", "86400", "", "Seconds to denylist distributed queries (default 1 day)"},
	{"enable_extensions_watchdog", "bool", "false", "", "Enable userland watchdog for extensions processes"},
	{"extensions_require", "string", "", "", "Comma-separated list of required extensions"},
	{"logger_event_type", "bool", "true", "", "Log scheduled results as events"},
	{"logger_numerics", "bool", "false", "", "Use numeric JSON syntax for numeric values"},
	{"logger_plugin", "string", "filesystem", "", "Logger plugin name"},
	{"logger_tls_max_linesize", "uint64", "1048576", "", "Max size in bytes allowed per log line"},
	{"watchdog_level", "int32", "0", "", "Performance limit level (0=normal, 1=restrictive, -1=off)"},
	{"watchdog_max_delay", "uint64", "600", "", "Max delay in seconds between worker respawns"},
	{"watchdog_memory_limit", "uint64", "0", "", "Override watchdog profile memory limit (e.g., 300, for 300MB)"},
}

// flagAliases are former names of flags (FLAG_ALIAS). osquery_flags does not list them.
var flagAliases = map[string]string{
	"log_numerics_as_numbers": "logger_numerics",
	"logger_tls_max":          "logger_tls_max_linesize",
}

// A flagSet has the values of all settable flags.
type flagSet map[string]string

func parseFlags(given map[string]string) (flagSet, error) {
	set := flagSet{}
	for _, f := range settable {
		set[f.name] = f.defaultValue
		if f.value != "" {
			set[f.name] = f.value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		value := given[name]
		if target, ok := flagAliases[name]; ok {
			name = target
		}
		i := slices.IndexFunc(settable, func(f flag) bool { return f.name == name })
		if i < 0 {
			return nil, fmt.Errorf("start osquery host: unknown flag %s", name)
		}
		value, err := normalize(settable[i].kind, value)
		if err != nil {
			return nil, fmt.Errorf("start osquery host: flag %s: %w", name, err)
		}
		set[name] = value
	}
	if plugin := set["logger_plugin"]; plugin != "filesystem" && plugin != "tls" {
		return nil, fmt.Errorf("start osquery host: logger plugin %s is not modelled", plugin)
	}
	return set, nil
}

// normalize checks a value and returns it as gflags prints it.
func normalize(kind, value string) (string, error) {
	switch kind {
	case "bool":
		v, err := strconv.ParseBool(value)
		return strconv.FormatBool(v), err
	case "uint64":
		v, err := strconv.ParseUint(value, 10, 64)
		return strconv.FormatUint(v, 10), err
	case "int32":
		v, err := strconv.ParseInt(value, 10, 32)
		return strconv.FormatInt(v, 10), err
	}
	return value, nil
}

func (s flagSet) bool(name string) bool { return s[name] == "true" }

func (s flagSet) int(name string) int64 {
	v, _ := strconv.ParseInt(s[name], 10, 64) // normalize checked it
	return v
}

// flags returns all flags that the host knows, by name.
func (h *Host) flags() []flag {
	o := h.options
	list := []flag{
		{"config_plugin", "string", "filesystem", "filesystem", "Config plugin name"},
		{"distributed_plugin", "string", "tls", "tls", "Distributed plugin name"},
		{"extensions_interval", "string", "3", seconds(o.Interval), "Seconds delay between connectivity checks"},
		{"extensions_socket", "string", "/var/osquery/osquery.em", o.Socket, "Path to the extensions UNIX domain socket"},
		{"extensions_timeout", "string", "3", seconds(o.Timeout), "Seconds to wait for autoloaded extensions"},
		{"host_identifier", "string", "hostname", "hostname", "Field used to identify the host running osquery (hostname, uuid, instance, ephemeral, specified)"},
		{"logger_path", "string", "/var/log/osquery/", o.Dir, "Directory path for ERROR/WARN/INFO and results logging"},
		{"pack_delimiter", "string", "_", "_", "Delimiter for pack and query names"},
		{"pack_refresh_interval", "uint64", "3600", seconds(o.PackRefresh), "Cache expiration for a packs discovery queries"},
		{"schedule_epoch", "uint64", "0", strconv.FormatUint(o.Epoch, 10), "Epoch for scheduled queries"},
		{"verbose", "bool", "false", strconv.FormatBool(o.Verbose), "Enable verbose informational messages"},
	}
	for _, f := range settable {
		f.value = h.set[f.name]
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b flag) int { return strings.Compare(a.name, b.name) })
	return list
}
