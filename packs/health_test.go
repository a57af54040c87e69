package packs_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/sqlite"
	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

func sensor(source, state string, changes ...func(*kmodquery.Sensor)) kmodquery.Sensor {
	s := kmodquery.Sensor{Source: source, State: state}
	for _, change := range changes {
		change(&s)
	}
	return s
}

// onLinux returns the sensors of a host that runs eBPF, with some replaced.
func onLinux(replaced ...kmodquery.Sensor) []kmodquery.Sensor {
	idle := func(s *kmodquery.Sensor) { s.Reason = "not needed while ebpf watches" }
	all := []kmodquery.Sensor{
		sensor(kmodquery.SourceEBPF, kmodquery.StateActive, func(s *kmodquery.Sensor) { s.Received, s.Hooks = 7, `["module_load"]` }),
		sensor(kmodquery.SourceAudit, kmodquery.StateStandby, idle),
		sensor(kmodquery.SourceJournal, kmodquery.StateStandby, idle),
		sensor(kmodquery.SourceKmsg, kmodquery.StateStandby, idle),
		sensor(kmodquery.SourceSyslog, kmodquery.StateStandby, idle),
		sensor(kmodquery.SourceProcfs, kmodquery.StateActive),
	}
	for _, r := range replaced {
		for i := range all {
			if all[i].Source == r.Source {
				all[i] = r
			}
		}
	}
	return all
}

// onMac returns the sensors of a Mac.
func onMac(endpointSecurity string) []kmodquery.Sensor {
	return []kmodquery.Sensor{
		sensor(kmodquery.SourceEndpointSecurity, endpointSecurity),
		sensor(kmodquery.SourceUnifiedLog, kmodquery.StateActive),
		sensor(kmodquery.SourceShowloaded, kmodquery.StateActive),
	}
}

func unavailable(source string) kmodquery.Sensor {
	return sensor(source, kmodquery.StateUnavailable, func(s *kmodquery.Sensor) { s.Reason = "this host lacks it" })
}

var healthyHosts = map[string][]kmodquery.Sensor{
	"eBPF watches":                     onLinux(),
	"one source was chosen":            {sensor(kmodquery.SourceEBPF, kmodquery.StateActive), sensor(kmodquery.SourceProcfs, kmodquery.StateActive)},
	"the kernel's log was chosen":      {sensor(kmodquery.SourceKmsg, kmodquery.StateActive), sensor(kmodquery.SourceProcfs, kmodquery.StateActive)},
	"a host without audit and a log":   onLinux(unavailable(kmodquery.SourceAudit), unavailable(kmodquery.SourceJournal), unavailable(kmodquery.SourceSyslog)),
	"sources are starting":             onLinux(sensor(kmodquery.SourceEBPF, kmodquery.StateStandby), sensor(kmodquery.SourceProcfs, kmodquery.StateStandby)),
	"a Mac with Full Disk Access":      onMac(kmodquery.StateActive),
	"a source has recovered":           onLinux(sensor(kmodquery.SourceEBPF, kmodquery.StateActive, func(s *kmodquery.Sensor) { s.Reason = "failed at noon" })),
	"nothing watched for a time":       onLinux(sensor(kmodquery.SourceEBPF, kmodquery.StateActive, func(s *kmodquery.Sensor) { s.GapStart, s.GapEnd = 1, 2 })),
	"calls were denied, values lack":   onLinux(sensor(kmodquery.SourceEBPF, kmodquery.StateActive, func(s *kmodquery.Sensor) { s.Denied, s.EnrichErrors, s.Joined = 9, 9, 9 })),
	"audit and eBPF watch together":    onLinux(sensor(kmodquery.SourceAudit, kmodquery.StateActive)),
	"the kernel's log watches as well": onLinux(sensor(kmodquery.SourceKmsg, kmodquery.StateActive)),
}

var troubledHosts = map[string]struct {
	sensors []kmodquery.Sensor
	sources []string // of the rows
}{
	"eBPF failed":            {onLinux(sensor(kmodquery.SourceEBPF, kmodquery.StateFailed), sensor(kmodquery.SourceAudit, kmodquery.StateActive)), []string{"ebpf"}},
	"eBPF is unavailable":    {onLinux(unavailable(kmodquery.SourceEBPF), sensor(kmodquery.SourceAudit, kmodquery.StateActive)), []string{"ebpf"}},
	"only the log watches":   {onLinux(unavailable(kmodquery.SourceEBPF), unavailable(kmodquery.SourceAudit), sensor(kmodquery.SourceJournal, kmodquery.StateActive)), []string{"ebpf"}},
	"the views failed":       {onLinux(sensor(kmodquery.SourceProcfs, kmodquery.StateFailed)), []string{"procfs"}},
	"records were lost":      {onLinux(sensor(kmodquery.SourceEBPF, kmodquery.StateActive, func(s *kmodquery.Sensor) { s.Lost = 1 })), []string{"ebpf"}},
	"records were filtered":  {onLinux(sensor(kmodquery.SourceEBPF, kmodquery.StateActive, func(s *kmodquery.Sensor) { s.Filtered = 1 })), []string{"ebpf"}},
	"events were dropped":    {onLinux(sensor(kmodquery.SourceEBPF, kmodquery.StateActive, func(s *kmodquery.Sensor) { s.Shed = 1 })), []string{"ebpf"}},
	"records are unreadable": {onLinux(sensor(kmodquery.SourceEBPF, kmodquery.StateActive, func(s *kmodquery.Sensor) { s.DecodeErrors = 1 })), []string{"ebpf"}},
	"the disk is full":       {onLinux(sensor(kmodquery.SourceEBPF, kmodquery.StateActive, func(s *kmodquery.Sensor) { s.StoreReason = "store: disk full" })), []string{"ebpf"}},
	"nothing watches": {
		onLinux(unavailable(kmodquery.SourceEBPF), unavailable(kmodquery.SourceAudit), unavailable(kmodquery.SourceJournal),
			unavailable(kmodquery.SourceKmsg), unavailable(kmodquery.SourceSyslog)),
		[]string{"ebpf", "audit", "journal", "kmsg", "syslog"},
	},
	"the chosen source is unavailable":  {[]kmodquery.Sensor{unavailable(kmodquery.SourceJournal), sensor(kmodquery.SourceProcfs, kmodquery.StateActive)}, []string{"journal"}},
	"a Mac without Full Disk Access":    {onMac(kmodquery.StateUnavailable), []string{"endpoint_security"}},
	"a Mac whose log cannot be decoded": {[]kmodquery.Sensor{sensor(kmodquery.SourceUnifiedLog, kmodquery.StateActive, func(s *kmodquery.Sensor) { s.DecodeErrors = 1 })}, []string{"unified_log"}},
}

// healthQueries returns the documented statements that select the sensors with trouble, by
// a name.
func healthQueries(t *testing.T) map[string]string {
	t.Helper()
	queries := map[string]string{}
	for name, statement := range documented(t) {
		_, from, _ := strings.Cut(statement, " FROM ")
		if !strings.HasPrefix(name, "policy: ") && strings.HasPrefix(from, "kernel_module_sensors WHERE ") {
			queries[name] = statement
		}
	}
	require.Len(t, queries, 4, "the pack's and the examples of the table")
	return queries
}

// A statusStore is a store with another status.
type statusStore struct {
	*sqlite.Store
	change func(*kmodquery.StoreStatus)
}

func (s *statusStore) Status(ctx context.Context) (kmodquery.StoreStatus, error) {
	status, err := s.Store.Status(ctx)
	s.change(&status)
	return status, err
}

// A healthHost runs statements under osquery and in the shell.
type healthHost struct {
	*extension
	host  *osqueryhost.Host
	shell *sql.DB
	store *statusStore
}

// newHealthHost returns a host with the store of a recorder or of a reader.
func newHealthHost(t *testing.T, role string) *healthHost {
	t.Helper()
	h := &healthHost{host: start(t, t.TempDir()), extension: newExtension(t)}
	h.store = &statusStore{h.extension.store, func(*kmodquery.StoreStatus) {}}
	if role == kmodquery.RoleReader {
		status, err := h.store.Status(t.Context())
		require.NoError(t, err)
		h.store.Store, err = sqlite.Open(t.Context(), filepath.Dir(status.Path), sqlite.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { h.store.Close() })
	}
	h.plugins = tables.Plugins(tables.Config{Store: h.store, Cursors: h.store, Recorder: h.recorder, Signatures: trc1017(t)})
	end := h.serve(t, h.host)
	t.Cleanup(end)
	require.NoError(t, h.host.Tick(t.Context(), noon))
	h.shell = openShell(t, h.host, h.extension)
	return h
}

// rows returns the sources in the rows of each query.
func (h *healthHost) rows(t *testing.T, queries map[string]string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for name, statement := range queries {
		rows, err := h.host.Query(t.Context(), statement)
		require.NoError(t, err)
		require.ElementsMatch(t, rows, rowsIn(t, h.shell, statement), statement)
		for _, row := range rows {
			found[name] = append(found[name], row["source"])
		}
	}
	return found
}

const packHealth = "pack: kernel_module_sensor_health"

// No documented health query has a row on a healthy host. The pack's has one for each source
// with trouble, and so have the examples of the table together.
func TestHealthQueriesHaveRowsOnlyIfSomethingIsWrong(t *testing.T) {
	queries := healthQueries(t)
	for _, role := range []string{kmodquery.RoleRecorder, kmodquery.RoleReader} {
		t.Run(role, func(t *testing.T) {
			h := newHealthHost(t, role)
			for name, sensors := range healthyHosts {
				h.recorder.set(sensors...)
				require.Empty(t, h.rows(t, queries), name)
			}
			for name, trouble := range troubledHosts {
				h.recorder.set(trouble.sensors...)
				found := h.rows(t, queries)
				require.ElementsMatch(t, trouble.sources, found[packHealth], name)
				delete(found, packHealth)
				var examples []string
				for _, sources := range found {
					examples = append(examples, sources...)
				}
				require.Len(t, examples, len(trouble.sources), name)
			}
		})
	}
}

func TestHealthQueriesReportTheStore(t *testing.T) {
	queries := healthQueries(t)
	h := newHealthHost(t, kmodquery.RoleRecorder)
	h.recorder.set(onLinux()...)
	for name, change := range map[string]func(*kmodquery.StoreStatus){
		"a batch was not written":        func(s *kmodquery.StoreStatus) { s.Errors = 1 },
		"events expired before a cursor": func(s *kmodquery.StoreStatus) { s.Skipped = 1 },
		"it was damaged":                 func(s *kmodquery.StoreStatus) { s.Trouble = "1 rows do not match their checksums" },
	} {
		h.store.change = change
		found := h.rows(t, queries)
		require.Len(t, found[packHealth], len(onLinux()), name)
		delete(found, packHealth)
		require.Len(t, found, 1, "%s: one example has a row", name)
	}
}
