package packs_test

import (
	"context"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/signatures"
)

// day stores the events of a day with a bit of everything: a module from /tmp through sudo, a
// module for a socket of a container, a refused one from a memfd, a denied call, an unload, a
// hidden module, and what an earlier boot loaded.
func day(t *testing.T, e *extension) {
	t.Helper()
	const boot, earlier = "5f0c6a1e-0d3b-4f55-9d0a-1f2d3c4b5a69", "0b7e2468-5d3c-4a9b-8f86-d081884c7d65"
	now := time.Now().Add(-10 * time.Minute)
	event := func(name, loadID string, change func(*kmodquery.Event)) kmodquery.Event {
		now = now.Add(time.Second)
		e := kmodquery.Event{
			Time: now.Unix(), TimeNanos: now.UnixNano(), BootID: boot, EventName: name, Source: kmodquery.SourceEBPF, LoadID: loadID,
			Pid: new(int64(4211)), Parent: new(int64(4180)), UID: new(int64(0)), EUID: new(int64(0)), AUID: new(int64(1000)),
			ProcessName: "modprobe", ProcessPath: "/usr/bin/kmod", Count: new(int64(1)),
		}
		change(&e)
		return e
	}
	attempt := func(loadID string, result int64, of func(*kmodquery.Event)) {
		read := event(kmodquery.EventSecurityKernelReadFile, loadID, of)
		read.Type, read.ReportsLoad = kmodquery.TypeKernelModule, new(int64(1))
		load := event(kmodquery.EventModuleLoad, loadID, of)
		returned := event(kmodquery.EventFinitModule, loadID, of)
		returned.Result, load.ReportsLoad, returned.ReportsLoad = &result, new(int64(0)), new(int64(0))
		if result == 0 {
			e.append(t, read, load, returned)
		} else {
			returned.Error = "ENOEXEC"
			e.append(t, read, returned)
		}
	}
	attempt("0000000000000001", 0, func(e *kmodquery.Event) {
		e.BootID, e.Time, e.TimeNanos = earlier, e.Time-3*86400, e.TimeNanos-3*86400*1e9
		e.Name, e.Path, e.Origin, e.SignatureStatus, e.Signer = "loop", "/usr/lib/modules/6.1.0/loop.ko", kmodquery.OriginFile, "valid", "Debian"
	})
	attempt("0000000000000002", 0, func(e *kmodquery.Event) {
		e.Name, e.Path, e.Origin, e.SignatureStatus = "nbd", "/tmp/nbd.ko", kmodquery.OriginFile, "unsigned"
		e.SHA256, e.FirstSeen = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", new(int64(1))
		e.Cmdline, e.Ancestors = "insmod /tmp/nbd.ko", `[{"pid":4180,"path":"/usr/bin/sudo","comm":"sudo","uid":0},{"pid":4100,"path":"/usr/bin/bash","comm":"bash","uid":1000}]`
	})
	attempt("0000000000000003", 0, func(e *kmodquery.Event) {
		e.Name, e.Path, e.Origin, e.SignatureStatus, e.Signer = "sctp", "/usr/lib/modules/6.1.0/sctp.ko", kmodquery.OriginFile, "valid", "Debian"
		e.RequestedBy = `{"pid":5000,"path":"/usr/bin/python3","comm":"python3","cmdline":"python3 probe.py","uid":0,"container_id":"f00dcafe0123","request":"net-pf-2-proto-132"}`
	})
	attempt("0000000000000004", -8, func(e *kmodquery.Event) {
		e.Path, e.Origin, e.ProcessPath, e.SignatureStatus = "/memfd:x", kmodquery.OriginMemfd, "/tmp/dropper", "untrusted"
	})
	e.append(t,
		event(kmodquery.EventInitModule, "", func(e *kmodquery.Event) {
			e.UID, e.EUID, e.ProcessPath, e.Result, e.Error = new(int64(1000)), new(int64(1000)), "/home/eve/try", new(int64(-1)), "EPERM"
			e.Count, e.ReportsLoad, e.Origin = new(int64(7)), new(int64(1)), kmodquery.OriginMemory
		}),
		event(kmodquery.EventModuleHidden, "", func(e *kmodquery.Event) {
			e.Source, e.Name, e.Reason = kmodquery.SourceProcfs, "ghost", "sysfs shows it, /proc/modules does not"
		}),
		event(kmodquery.EventDeleteModule, "0000000000000005", func(e *kmodquery.Event) { e.Name, e.Result = "nbd", new(int64(0)) }),
		event(kmodquery.EventModuleFree, "0000000000000005", func(e *kmodquery.Event) { e.Name = "nbd" }),
	)
	require.NoError(t, e.store.CloseLoads(t.Context(), time.Now()))
}

// packaged is an inventory whose modules are in a package, besides evil.
type packaged []kmodquery.Module

func (p packaged) Modules(context.Context) ([]kmodquery.Module, error) { return p, nil }

func (packaged) File(_ context.Context, m kmodquery.Module) kmodquery.ModuleFile {
	if m.Name == "evil" {
		return kmodquery.ModuleFile{Path: "/tmp/evil.ko"}
	}
	return kmodquery.ModuleFile{Path: "/usr/lib/modules/6.1.0/" + m.Name + ".ko", Package: "linux-image"}
}

// answers are the rows of each question of the cookbook on the day, in some of their columns.
var answers = map[string]struct {
	columns []string
	rows    []string
}{
	"What was loaded in the last hour, and by whom?": {
		[]string{"outcome", "name", "path", "process_path", "auid"},
		[]string{
			"loaded nbd /tmp/nbd.ko /usr/bin/kmod 1000", "loaded sctp /usr/lib/modules/6.1.0/sctp.ko /usr/bin/kmod 1000",
			"rejected  /memfd:x /tmp/dropper 1000", "denied  memory /home/eve/try 1000",
		},
	},
	"What was loaded since the host booted?": {
		[]string{"outcome", "name"}, []string{"loaded nbd", "loaded sctp", "rejected ", "denied "},
	},
	"Which attempts failed, and why?": {
		[]string{"outcome", "error", "path"}, []string{"rejected ENOEXEC /memfd:x", "denied EPERM memory"},
	},
	"Who was denied?": {[]string{"uid", "process_path", "attempts"}, []string{"1000 /home/eve/try 7"}},
	"What did one attempt do, step by step?": {
		[]string{"event_name", "result"}, []string{"security_kernel_read_file ", "module_load ", "finit_module 0"},
	},
	"What was unloaded, and by whom?":                  {[]string{"name", "result", "auid"}, []string{"nbd 0 1000"}},
	"How long was a module loaded?":                    {[]string{"name"}, []string{"nbd"}},
	"Which loads stand out?":                           {[]string{"severity", "path"}, []string{"3 /tmp/nbd.ko", "4 /memfd:x"}},
	"Why is it a finding?":                             {[]string{"signature_id"}, []string{"KMQ-1003", "KMQ-1005", "KMQ-1002", "KMQ-1009", "KMQ-1001", "KMQ-1001", "KMQ-1013"}},
	"Has this host ever loaded a file with this hash?": {[]string{"name", "path"}, []string{"nbd /tmp/nbd.ko"}},
	"What was loaded from memory, from a deleted file, or from a folder that everybody can write?": {
		[]string{"outcome", "origin", "path"}, []string{"loaded file /tmp/nbd.ko", "rejected memfd /memfd:x", "denied memory "},
	},
	"Which loads had no signature that the kernel trusts?": {
		[]string{"path", "signature_status"}, []string{"/tmp/nbd.ko unsigned", "/memfd:x untrusted"},
	},
	"Was a module hidden?":      {[]string{"event_name", "name"}, []string{"module_hidden ghost"}},
	"What is new on this host?": {[]string{"name"}, []string{"nbd"}},
	"What did a container load?": {
		[]string{"name", "path"}, []string{"sctp /usr/lib/modules/6.1.0/sctp.ko"},
	},
	"For which program did the kernel load a module by itself?": {
		[]string{"name", "program", "request"}, []string{"sctp /usr/bin/python3 net-pf-2-proto-132"},
	},
	"Through which programs did it come?": {
		[]string{"step", "pid", "program"}, []string{"0 4180 /usr/bin/sudo", "1 4100 /usr/bin/bash"},
	},
	"Which loaded modules are unsigned, out of tree or forced?": {[]string{"name", "taint_flags"}, []string{"evil OE"}},
	"Which loaded modules does no package own?":                 {[]string{"name"}, []string{"evil"}},
	"What loads modules when the host boots, without a package that owns it?": {
		[]string{"file", "name"}, []string{"/etc/modules evil"},
	},
	"Is this sensor healthy?": {
		[]string{"source", "state", "lost"}, []string{"ebpf active 0", "audit standby 0", "procfs active 0"},
	},
	"Was there a time in which nobody watched?": {[]string{"source", "gap_end"}, []string{"ebpf 2026-09-01 12:00:00"}},
}

// Every statement of the cookbook answers its question, with the same rows under osquery and in
// the shell.
func TestCookbookAnswersItsQuestions(t *testing.T) {
	content, err := os.ReadFile("../docs/cookbook.md")
	require.NoError(t, err)
	statements := map[string]string{}
	for _, match := range regexp.MustCompile("(?m)^### (.*)\n\n```sql\n([^`]*);\n```\n").FindAllStringSubmatch(string(content), -1) {
		statements[match[1]] = match[2]
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(answers)), slices.Collect(maps.Keys(statements)))

	host := start(t, t.TempDir())
	e := newExtension(t)
	e.places.set(
		kmodquery.AutostartEntry{Place: kmodquery.PlaceModulesLoad, File: "/etc/modules", Line: 1, Action: "load", Name: "evil", Effective: new(int64(1))},
		kmodquery.AutostartEntry{Place: kmodquery.PlaceModulesLoad, File: ownedFile, Line: 1, Action: "load", Name: "loop", Effective: new(int64(1))},
	)
	e.recorder.set(
		kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateActive, GapStart: noon.Unix() - 60, GapEnd: noon.Unix()},
		kmodquery.Sensor{Source: kmodquery.SourceAudit, State: kmodquery.StateStandby},
		kmodquery.Sensor{Source: kmodquery.SourceProcfs, State: kmodquery.StateActive},
	)
	e.plugins = nil
	for _, plugin := range tables.Plugins(tables.Config{
		Store: e.store, Cursors: e.store, Recorder: e.recorder, Signatures: signatures.All(), Kernel: "6.1.0", Autostart: e.places,
		Inventory: packaged{
			{Name: "loop", State: "Live", Taints: new(int64(0)), Views: []string{kmodquery.ViewModules}},
			{Name: "evil", State: "Live", Taints: new(int64(1<<12 | 1<<13)), Views: []string{kmodquery.ViewModules}},
		},
	}) {
		e.plugins = append(e.plugins, watched{plugin, e.requests})
	}
	day(t, e)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	shell := openShell(t, host, e)
	for question, statement := range statements {
		t.Run(question, func(t *testing.T) {
			want := answers[question]
			inOsquery, err := host.Query(t.Context(), statement)
			require.NoError(t, err, statement)
			for of, rows := range map[string][]map[string]string{"osquery": inOsquery, "the shell": rowsIn(t, shell, statement)} {
				var got []string
				for _, row := range rows {
					var cells []string
					for _, column := range want.columns {
						require.Contains(t, row, column)
						cells = append(cells, row[column])
					}
					got = append(got, strings.Join(cells, " "))
				}
				require.ElementsMatch(t, want.rows, got, of)
			}
		})
	}
}
