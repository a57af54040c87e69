package packs_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/leak"
	"github.com/kmodquery/kmodquery/test/osqueryhost"
	"github.com/kmodquery/kmodquery/test/race"
)

// deniedFinit is a denied call as the source audit reports it, deniedDelete as eBPF does.
func deniedFinit(path string) kmodquery.Event {
	e := kmodquery.Event{
		Time: noon.Unix(), TimeNanos: noon.UnixNano(), EventName: kmodquery.EventFinitModule, Source: kmodquery.SourceAudit,
		LoadID: path[len(path)-16:], ReportsLoad: new(int64(1)), Type: kmodquery.TypeKernelModule, Flags: new(int64(0)),
		Result: new(int64(-1)), Error: "EPERM", Count: new(int64(7)), Pid: new(int64(4000)), Parent: new(int64(1)),
		ProcessName: "flood", ProcessPath: path, Cmdline: path[:128], UID: new(int64(1000)), EUID: new(int64(1000)), AUID: new(int64(1000)),
		Raw: `type=SYSCALL msg=audit(1788264000.000:1): arch=c000003e syscall=313 success=no exit=-1 uid=1000 comm="flood" exe="` + path + `"`,
	}
	e.Missing.Add("tid", "capabilities", "ancestors", "cgroup", "container_id", "name", "params", "requested_by", "path", "origin")
	return e
}

func deniedDelete(path string) kmodquery.Event {
	return kmodquery.Event{
		Time: noon.Unix(), TimeNanos: noon.UnixNano(), EventName: kmodquery.EventDeleteModule, Source: kmodquery.SourceEBPF,
		LoadID: path[len(path)-16:], Name: "dummy", Flags: new(int64(0)),
		Result: new(int64(-1)), Error: "EPERM", Count: new(int64(7)), Pid: new(int64(4000)), Tid: new(int64(4000)), Parent: new(int64(1)),
		ProcessName: "flood", ProcessPath: path, Cmdline: path + " flood", UID: new(int64(1000)), EUID: new(int64(1000)), AUID: new(int64(1000)),
	}
}

// Any user can make denied calls by many programs with long paths. The other queries ship
// at their next run what happens during such a flood.
func TestAFloodOfDeniedCallsDelaysNoOtherQuery(t *testing.T) {
	leak.Check(t)
	host, err := osqueryhost.Start(t.Context(), osqueryhost.Options{
		Dir: t.TempDir(), Interval: -1, Platform: "linux", HostIdentifier: "host", Flags: map[string]string{"disable_watchdog": "false"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { host.Close() })
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	pack := readPack(t)
	host.Schedule(t.Context(), pack)

	made := 0
	flood := func() {
		for range 10 {
			batch := make([]kmodquery.Event, race.Scale(1000))
			for i := range batch {
				made++
				path := fmt.Sprintf("/home/user/%s/%016d", strings.Repeat("long folder/", 80), made)
				if batch[i] = deniedFinit(path); i%2 == 0 {
					batch[i] = deniedDelete(path)
				}
				require.True(t, batch[i].IsUnprivileged())
			}
			e.append(t, batch...)
		}
	}
	flood()
	e.load(t, noon, "loaded", 0)
	e.load(t, noon, "refused", -8)
	observed := deniedFinit("/usr/bin/" + strings.Repeat("x", 128))
	observed.Name, observed.Result, observed.Error = "audited", new(int64(0)), ""
	e.append(t, observed,
		kmodquery.Event{Time: noon.Unix(), EventName: kmodquery.EventDeleteModule, Source: kmodquery.SourceEBPF, Name: "unloaded", Result: new(int64(0))},
		kmodquery.Event{Time: noon.Unix(), EventName: kmodquery.EventModuleHidden, Source: kmodquery.SourceProcfs, Name: "hidden"},
		kmodquery.Event{Time: noon.Unix(), EventName: kmodquery.EventSensorTampered, Source: kmodquery.SourceEBPF, Reason: "detached"})
	flood()

	want := map[string][]string{
		"kernel_module_findings":      {"added loaded", "added refused", "added audited"},
		"kernel_module_loads":         {"added loaded", "added refused", "added audited"},
		"kernel_module_loaded":        {"added loaded"},
		"kernel_module_attempts":      {"added refused", "added audited"},
		"kernel_module_unloads":       {"added unloaded"},
		"kernel_module_discrepancies": {"added hidden"},
	}
	require.NoError(t, e.store.CloseLoads(t.Context(), time.Now())) // as a recorder's Sync does
	require.NoError(t, e.advance(t, host, 5*time.Minute))           // the longest interval
	for name, query := range pack.Queries {
		switch {
		case removed(query) || query.Platform == "darwin":
		case name == "kernel_module_denied":
			require.NotEmpty(t, lines(t, host, name, "process_path"))
		case name == "kernel_module_tampering":
			require.Equal(t, []string{"added detached"}, lines(t, host, name, "reason"))
		default:
			require.NotEmpty(t, want[name], name)
			require.ElementsMatch(t, want[name], lines(t, host, name, "name"), name)
		}
	}
	require.Empty(t, host.Watchdog().Kills)
}
