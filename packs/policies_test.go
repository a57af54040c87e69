package packs_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

const (
	sensorsHealthy   = "kernel_module_sensors_healthy"
	noUnsignedModule = "kernel_module_no_unsigned_module"
	noHiddenModule   = "kernel_module_no_hidden_module"
	autostartOwned   = "kernel_module_autostart_owned"
)

// loadedModules is an inventory.
type loadedModules []kmodquery.Module

func (l loadedModules) Modules(context.Context) ([]kmodquery.Module, error) { return l, nil }

func (loadedModules) File(context.Context, kmodquery.Module) kmodquery.ModuleFile {
	return kmodquery.ModuleFile{}
}

// TestPolicies runs the policies on hosts with one trouble each. A policy passes if its
// query returns a row.
func TestPolicies(t *testing.T) {
	ebpf := kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateActive}
	audit := kmodquery.Sensor{Source: kmodquery.SourceAudit, State: kmodquery.StateStandby}
	views := kmodquery.Sensor{Source: kmodquery.SourceProcfs, State: kmodquery.StateActive}
	changed := func(s kmodquery.Sensor, change func(*kmodquery.Sensor)) kmodquery.Sensor {
		change(&s)
		return s
	}
	failed := func(s *kmodquery.Sensor) { s.State = kmodquery.StateFailed }
	healthy := []kmodquery.Sensor{ebpf, audit, views}
	plain := kmodquery.Module{Name: "dummy", State: "Live", Taints: new(int64(1 << 12)), Views: []string{kmodquery.ViewModules}}
	unsigned := kmodquery.Module{Name: "evil", State: "Live", Taints: new(int64(1<<12 | 1<<13)), Views: []string{kmodquery.ViewModules}}
	hidden := kmodquery.Module{Name: "rootkit", Views: []string{kmodquery.ViewSysfs}}
	day := 24 * time.Hour
	loaded := func(status string, ago time.Duration) kmodquery.Event {
		return kmodquery.Event{
			EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF, SignatureStatus: status, Time: time.Now().Add(-ago).Unix(),
		}
	}
	hid := func(ago time.Duration) kmodquery.Event {
		return kmodquery.Event{EventName: kmodquery.EventModuleHidden, Source: kmodquery.SourceProcfs, Time: time.Now().Add(-ago).Unix()}
	}
	tampered := func(ago time.Duration) kmodquery.Event {
		return kmodquery.Event{EventName: kmodquery.EventSensorTampered, Source: kmodquery.SourceEBPF, Time: time.Now().Add(-ago).Unix()}
	}
	all := []string{sensorsHealthy, noUnsignedModule, noHiddenModule}
	for name, test := range map[string]struct {
		sensors []kmodquery.Sensor
		modules []kmodquery.Module
		events  []kmodquery.Event
		fail    []string
	}{
		"healthy":                      {healthy, []kmodquery.Module{plain}, []kmodquery.Event{loaded("valid", time.Hour), loaded("", time.Hour)}, nil},
		"unsigned module":              {healthy, []kmodquery.Module{plain, unsigned}, nil, []string{noUnsignedModule}},
		"unsigned load, then unloaded": {healthy, []kmodquery.Module{plain}, []kmodquery.Event{loaded("unsigned", 6*day)}, []string{noUnsignedModule}},
		"load with an untrusted key":   {healthy, nil, []kmodquery.Event{loaded("untrusted", time.Hour)}, []string{noUnsignedModule}},
		"old unsigned load":            {healthy, []kmodquery.Module{plain}, []kmodquery.Event{loaded("unsigned", 8*day)}, nil},
		"hidden module":                {healthy, []kmodquery.Module{plain, hidden}, nil, []string{noHiddenModule}},
		"module that was hidden":       {healthy, []kmodquery.Module{plain}, []kmodquery.Event{hid(6 * day)}, []string{noHiddenModule}},
		"module hidden long ago":       {healthy, []kmodquery.Module{plain}, []kmodquery.Event{hid(8 * day)}, nil},
		"sensor tampered with":         {healthy, []kmodquery.Module{plain}, []kmodquery.Event{tampered(6 * day)}, []string{noHiddenModule}},
		"tampered with long ago":       {healthy, []kmodquery.Module{plain}, []kmodquery.Event{tampered(8 * day)}, nil},
		"failed source":                {[]kmodquery.Sensor{changed(ebpf, failed), audit, views}, nil, nil, all},
		"failed views":                 {[]kmodquery.Sensor{ebpf, audit, changed(views, failed)}, nil, nil, all},
		"nothing observes loads":       {[]kmodquery.Sensor{audit, views}, nil, nil, all},
		"no sensor":                    {nil, nil, nil, all},
		"healthy Mac, where only the first policy runs": {
			[]kmodquery.Sensor{
				{Source: kmodquery.SourceUnifiedLog, State: kmodquery.StateActive},
				{Source: kmodquery.SourceShowloaded, State: kmodquery.StateActive},
			}, nil, nil, []string{noUnsignedModule, noHiddenModule},
		},
		"Mac where nothing observes loads": {
			[]kmodquery.Sensor{{Source: kmodquery.SourceShowloaded, State: kmodquery.StateActive}}, nil, nil, all,
		},
		"lost records": {
			[]kmodquery.Sensor{changed(ebpf, func(s *kmodquery.Sensor) { s.Lost = 3 }), audit, views}, nil, nil, []string{sensorsHealthy},
		},
		"filtered records": {
			[]kmodquery.Sensor{changed(ebpf, func(s *kmodquery.Sensor) { s.Filtered = 3 }), audit, views}, nil, nil, []string{sensorsHealthy},
		},
		"full disk": {
			[]kmodquery.Sensor{changed(ebpf, func(s *kmodquery.Sensor) { s.StoreReason = "disk full" }), audit, views}, nil, nil, []string{sensorsHealthy},
		},
	} {
		t.Run(name, func(t *testing.T) {
			host := start(t, t.TempDir())
			e := newExtension(t, loadedModules(test.modules))
			e.recorder.set(test.sensors...)
			e.append(t, test.events...)
			defer e.serve(t, host)()
			require.NoError(t, host.Tick(t.Context(), noon))
			var fail []string
			for _, policy := range readFleet(t).policies {
				rows, err := host.Query(t.Context(), policy.Query)
				require.NoError(t, err, policy.Name)
				if len(rows) == 0 {
					fail = append(fail, policy.Name)
				}
			}
			require.ElementsMatch(t, test.fail, fail)
		})
	}
}

// The policy about autostart depends on no sensor.
func TestAutostartPolicy(t *testing.T) {
	entry := func(change func(*kmodquery.AutostartEntry)) kmodquery.AutostartEntry {
		e := kmodquery.AutostartEntry{Place: kmodquery.PlaceModulesLoad, File: "/etc/modules", Line: 1, Action: "load", Name: "evil", Effective: new(int64(1))}
		change(&e)
		return e
	}
	for name, test := range map[string]struct {
		change func(*kmodquery.AutostartEntry)
		passes bool
	}{
		"owned by no package":  {func(*kmodquery.AutostartEntry) {}, false},
		"owned":                {func(e *kmodquery.AutostartEntry) { e.File = ownedFile }, true},
		"owned and unreadable": {func(e *kmodquery.AutostartEntry) { e.File, e.Line, e.Action, e.Effective = ownedFile, 0, "", nil }, false},
		"masked":               {func(e *kmodquery.AutostartEntry) { e.Effective = new(int64(0)) }, true},
		"unknown effect":       {func(e *kmodquery.AutostartEntry) { e.Effective = nil }, false},
		"blacklist":            {func(e *kmodquery.AutostartEntry) { e.Place, e.Action = kmodquery.PlaceModprobe, "blacklist" }, true},
		"install line":         {func(e *kmodquery.AutostartEntry) { e.Place, e.Action = kmodquery.PlaceModprobe, "install" }, false},
		"command line":         {func(e *kmodquery.AutostartEntry) { e.Place = kmodquery.PlaceCmdline }, true},
	} {
		t.Run(name, func(t *testing.T) {
			host := start(t, t.TempDir())
			e := newExtension(t)
			e.places.set(entry(test.change))
			defer e.serve(t, host)()
			require.NoError(t, host.Tick(t.Context(), noon))
			for _, policy := range readFleet(t).policies {
				if policy.Name == autostartOwned {
					rows, err := host.Query(t.Context(), policy.Query)
					require.NoError(t, err)
					require.Equal(t, test.passes, len(rows) == 1)
				}
			}
		})
	}
}

// Without the extension, osquery rejects a policy, and Fleet has no row that would let it
// pass.
func TestPoliciesDoNotPassWithoutTheExtension(t *testing.T) {
	host := start(t, t.TempDir())
	require.NoError(t, host.Tick(t.Context(), noon))
	for _, policy := range readFleet(t).policies {
		rows, err := host.Query(t.Context(), policy.Query)
		require.ErrorContains(t, err, "no such table", policy.Name)
		require.Empty(t, rows)
	}
}

// The policy and the pack's query agree on what trouble is, and both forms have the same
// policies.
func TestPoliciesAgreeWithThePack(t *testing.T) {
	_, trouble, ok := strings.Cut(readPack(t).Queries["kernel_module_sensor_health"].Query, " WHERE ")
	require.True(t, ok)
	policies, applied := readFleet(t).policies, readApply(t).policies
	require.Contains(t, policies[0].Query, "NOT EXISTS (SELECT 1 FROM kernel_module_sensors WHERE "+trouble+")")
	require.Len(t, applied, len(policies))
	for i, policy := range policies {
		policy.LabelsIncludeAny = nil
		require.Equal(t, policy, applied[i])
	}
}
