package packs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables"
	"github.com/kmodquery/kmodquery/tables/signatures"
)

// A rule is a public detection, and what this project has for it: signatures, a query, or both,
// and what stays open.
type rule struct {
	name       string
	signatures []string
	query      string
	open       string
}

var rules = []rule{
	{"Elastic: kernel driver load by non-root", []string{"KMQ-1013"},
		"SELECT utc, outcome, name, path, uid, process_path FROM kernel_module_loads WHERE uid != 0", ""},
	{"Elastic: kernel module load via a built-in utility", nil,
		"SELECT time, name, cmdline, cwd, ancestors FROM kernel_module_events\nWHERE reports_load = 1 AND process_path LIKE '%/kmod' AND auid != 4294967295",
		"the command lines of the ancestors are not recorded"},
	{"Elastic: kernel module load from an unusual location", []string{"KMQ-1002"},
		"SELECT time, name, path, cwd FROM kernel_module_events\nWHERE reports_load = 1 AND (cwd LIKE '/tmp%' OR cwd LIKE '/var/tmp%' OR cwd LIKE '/dev/shm%')", ""},
	{"Elastic: tainted kernel module load, out-of-tree kernel module load", []string{"KMQ-1001"},
		"SELECT time, name, path, taint_flags FROM kernel_module_events\nWHERE event_name = 'module_load' AND (taint_flags LIKE '%E%' OR taint_flags LIKE '%O%' OR taint_flags LIKE '%F%')", ""},
	{"Elastic: kernel module removal", nil,
		"SELECT time, name, error, process_path, cmdline, ancestors FROM kernel_module_events WHERE event_name = 'delete_module'", ""},
	{"Elastic: a file of modules-load.d, modprobe.d, udev, dracut, GRUB or a systemd unit created or changed; Neo23x0: modprobe.d watched", nil,
		"SELECT place, file, line, action, name, argument FROM kernel_module_autostart\nWHERE effective IS NOT 0 AND coalesce(file_package, '') = '' AND file NOT LIKE '/proc/%'",
		"the table shows the present; osquery's differential results show what was added. The creation of a file is in osquery's file_events"},
	{"Elastic Defend: kernel module load from a memfd", []string{"KMQ-1003"}, "", ""},
	{"Elastic Defend: the loader is a shell, an interpreter, a memfd, a hidden file or in a writable folder", []string{"KMQ-1009"}, "", ""},
	{"Elastic Defend: kernel module load by an unusual parent", []string{"KMQ-1010"}, "", "the command lines of the ancestors are not recorded"},
	{"Elastic, Sigma: writes to MSRs allowed", nil,
		"SELECT time, name, params, process_path FROM kernel_module_events WHERE reports_load = 1 AND name = 'msr' AND params LIKE '%allow_writes=on%'", ""},
	{"Elastic: kernel extension of a security product unloaded (macOS)", nil,
		"SELECT time, name, result, process_path, auid FROM kernel_module_events WHERE event_name = 'kextunload'", ""},
	{"Elastic: kernel extension copied and then loaded (macOS)", []string{"KMQ-1002"},
		"SELECT utc, name, path, team_id FROM kernel_module_loads WHERE name LIKE '%.%' AND path LIKE '/Library/%' AND coalesce(collection, '') = ''", "the age of the bundle is not recorded"},
	{"Sigma: loading of a kernel module by insmod", nil,
		"SELECT utc, name, path, cmdline FROM kernel_module_loads WHERE process_name = 'insmod' OR cmdline LIKE 'insmod %'", ""},
	{"Falco: Linux kernel module injection", []string{"KMQ-1008"}, "", "the image of a container is not recorded, its id is"},
	{"Tracee: hidden kernel module", []string{"KMQ-1005"}, "", ""},
	{"Tracee: hooked system calls, ftrace hooks, hooked seq_ops and proc_fops", nil, "",
		"pointers into modules are not read. The load of the module that hooks is observed"},
	{"Tetragon: module loaded outside the host's namespaces", []string{"KMQ-1008"},
		"SELECT time, name, path, pid_ns, user_ns, container_id FROM kernel_module_events\nWHERE reports_load = 1 AND (pid_ns != 4026531836 OR user_ns != 4026531837)",
		"the numbers are those of the first namespaces, the same on every host; that of the first mount namespace is not fixed"},
	{"Datadog: unfamiliar kernel module", []string{"KMQ-1014"},
		"SELECT utc, name, path, sha256 FROM kernel_module_loads WHERE first_seen = 1", ""},
	{"Datadog: kernel module loaded from memory", []string{"KMQ-1003", "KMQ-1016"}, "", ""},
	{"Datadog: rootkit installation, by several signals", nil,
		"SELECT utc, name, path, findings, severity FROM kernel_module_loads WHERE findings LIKE '%KMQ-%,%KMQ-%'", ""},
	{"Wazuh 5132, 5133: unsigned, untrusted kernel module", []string{"KMQ-1001"}, "", ""},
	{"audit-userspace 43, Neo23x0: the system calls of modules", []string{"TRC-1017"},
		"SELECT time, event_name, name, error, uid, auid, process_path FROM kernel_module_events\nWHERE event_name IN ('init_module', 'finit_module', 'delete_module')", ""},
	{"ATT&CK AN1243 (Linux): loads, and repeated tries without the right", []string{"TRC-1017", "KMQ-1013"},
		"SELECT uid, process_path, sum(count) AS attempts FROM kernel_module_events WHERE error = 'EPERM'\nGROUP BY uid, process_path HAVING attempts > 3",
		"the creation of a module's file is in osquery's file_events"},
	{"ATT&CK AN1244 (macOS): loads of kernel extensions, and changes of their policy", []string{"TRC-1017"},
		"SELECT name, team_id, policy, last_loaded, state FROM kernel_module_inventory WHERE policy IN ('user', 'unapproved')", ""},
}

// techniques of rootkits, what reports them, and the tests that show it.
var techniques = []struct{ does, caught, tests string }{
	{"hooks the BPF helpers of the ring buffer, so that records vanish or are filtered", "`sensor_tampered` (KMQ-1006)", "TestGuestReportsFilteredRecords"},
	{"hides some seconds after the load", "`module_hidden` (KMQ-1005): the views are compared all the time", "TestGuestViewsFindHiddenModules"},
	{"hides and is listed in turn", "`module_hidden` (KMQ-1005)", "TestModulesThatHideInTurnAreReported"},
	{"sets its state to UNFORMED", "`module_hidden` (KMQ-1005); nothing in /sys/module is read of it", "TestGuestCrossViewReportsDifferences"},
	{"removes itself from the list of modules, from sysfs and from the module tree", "`module_hidden` (KMQ-1005), from the load or from its memory", "TestGuestViewsFindHiddenModules TestGuestCrossViewReportsDifferences"},
	{"takes another name", "`module_unwitnessed` (KMQ-1006)", "TestRenamedModulesAreReportedAsSuch"},
	{"clears the kernel's taint", "`taint_reset` (KMQ-1007)", "TestGuestCrossViewReportsDifferences"},
	{"filters what is read from the kernel's log, kallsyms and vmallocinfo", "the events of the load, and `module_hidden` (KMQ-1005) from them", "TestGuestViewsFindHiddenModules"},
	{"filters the records of audit", "the hooks of eBPF, which are preferred; audit as a stand-in is blind for it", "TestGuestSourcesFailOver"},
	{"switches ftrace off, or keeps probes from being attached", "`sensor_tampered` (KMQ-1006), and the sensor is `failed`", "TestGuestReportsTracingThatIsSwitchedOff"},
	{"closes links or kills who attaches", "`sensor_tampered` (KMQ-1006); pinned hooks go on", "TestGuestAttachesAgainWhenLinksAreClosed TestGuestKillsLoseNoEvent"},
	{"is in the folder of modules under an honest name", "`changed` (KMQ-1014) and `first_seen`; the package of the file in kernel_module_inventory", "TestGuestSignaturesTellLoadsApart TestChangedIsWhatNoEarlierAttemptHad"},
	{"is loaded at boot by modules-load.d, udev or a unit", "kernel_module_autostart: entries of no package", "TestCookbookAnswersItsQuestions"},
	{"is loaded by an infected service", "KMQ-1010, and KMQ-1009 for the loader", "TestSignaturesFire"},
	{"is loaded by the init of another module", "`parent_load_id`, and KMQ-1004", "TestGuestReportsALoadInsideALoad"},
}

// sourcesInOrder are all sources, as docs/coverage.md orders them.
var sourcesInOrder = []string{
	kmodquery.SourceEBPF, kmodquery.SourceAudit, kmodquery.SourceJournal, kmodquery.SourceKmsg, kmodquery.SourceSyslog, kmodquery.SourceProcfs,
	kmodquery.SourceEndpointSecurity, kmodquery.SourceUnifiedLog, kmodquery.SourceShowloaded,
}

// given are the sources that report a fact of a load, and given to one signature those that report
// the value that it is about. All sources report what is not here.
var given = map[string][]string{
	"signature_status": {kmodquery.SourceEBPF, kmodquery.SourceAudit, kmodquery.SourceJournal, kmodquery.SourceKmsg, kmodquery.SourceSyslog, kmodquery.SourceUnifiedLog},
	"origin":           {kmodquery.SourceEBPF, kmodquery.SourceAudit, kmodquery.SourceUnifiedLog},
	"process_path":     {kmodquery.SourceEBPF, kmodquery.SourceAudit, kmodquery.SourceEndpointSecurity},
	"flags":            {kmodquery.SourceEBPF, kmodquery.SourceAudit},
	"container_id":     {kmodquery.SourceEBPF},
	"ancestors":        {kmodquery.SourceEBPF},
	"changed":          {kmodquery.SourceEBPF, kmodquery.SourceUnifiedLog, kmodquery.SourceShowloaded},
	"KMQ-1003":         {kmodquery.SourceEBPF},
	"KMQ-1004":         {kmodquery.SourceEBPF},
	"KMQ-1016":         {kmodquery.SourceEBPF, kmodquery.SourceAudit},
}

// isGiven reports whether a source reports the first fact of a signature of loads, which is the
// one that decides.
func isGiven(s kmodquery.Signature, source string) bool {
	sources, ok := given[s.ID]
	if !ok && len(s.Facts) > 0 {
		sources, ok = given[s.Facts[0]]
	}
	return !ok || slices.Contains(sources, source)
}

// sourcesOf returns the sources that have an event which the signature can accept.
func sourcesOf(s kmodquery.Signature) (sources []string) {
	views := []string{kmodquery.SourceProcfs, kmodquery.SourceShowloaded}
	isOfLoads := slices.Equal(s.Events, kmodquery.LoadReportEvents())
	for _, source := range sourcesInOrder {
		if slices.ContainsFunc(s.Events, func(name string) bool {
			e := kmodquery.Event{Source: source, EventName: name, Type: kmodquery.TypeKernelModule}
			switch {
			case isOfLoads:
				return e.IsLoadReport() && isGiven(s, source)
			case name == kmodquery.EventSensorTampered:
				return source == kmodquery.SourceEBPF
			case name == kmodquery.EventTaintReset:
				return source == kmodquery.SourceProcfs
			case slices.Contains([]string{kmodquery.EventModuleHidden, kmodquery.EventModuleUnwitnessed}, name):
				return slices.Contains(views, source)
			}
			return e.IsLoadReport() || source == kmodquery.SourceEBPF || source == kmodquery.SourceAudit
		}) {
			sources = append(sources, source)
		}
	}
	return sources
}

// testsOf returns the tests below a folder, each with the string literals in it.
func testsOf(t *testing.T, folder string) map[string][]string {
	t.Helper()
	tests := map[string][]string{}
	require.NoError(t, filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, declaration := range file.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(function.Name.Name, "Test") || function.Recv != nil {
				continue
			}
			name := function.Name.Name
			tests[name] = append(tests[name], "")
			ast.Inspect(function, func(n ast.Node) bool {
				if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					tests[name] = append(tests[name], literal.Value)
				}
				return true
			})
		}
		return nil
	}))
	return tests
}

func code(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return "`" + strings.Join(names, "`, `") + "`"
}

func TestCoverageIsAsPublished(t *testing.T) {
	tests, ofSignatures := testsOf(t, ".."), testsOf(t, "../tables/signatures")
	maps.Copy(ofSignatures, testsOf(t, "../test/e2e"))
	var b strings.Builder
	b.WriteString(`# Coverage

<!-- Written by "go test ./packs -golden" from the signatures, and from packs/coverage_test.go. -->

This page says which detections of others this project has, by which signature or query, and which test shows it. The signatures
themselves are in [detections](detections.md). All of this is about one kind of data of MITRE ATT&CK: the data component Kernel
Module Load, which is DC0031 since version 18, and was a part of the data source Kernel (DS0008) before.

## Signatures

A signature can fire for events of the sources in its row. It does so only if the event has the facts that the signature
reads: one source may know less of a load than another, and what is unknown makes no signature fire.

| technique | signature | severity | sources | tests |
|---|---|---|---|---|
`)
	all := signatures.All()
	slices.SortStableFunc(all, func(a, b kmodquery.Signature) int { return strings.Compare(a.ExternalID, b.ExternalID) })
	ids := map[string]bool{}
	for _, s := range all {
		ids[s.ID] = true
		var of []string
		for _, name := range slices.Sorted(maps.Keys(ofSignatures)) {
			if slices.ContainsFunc(ofSignatures[name], func(text string) bool { return strings.Contains(text, s.ID) }) {
				of = append(of, name)
			}
		}
		require.NotEmpty(t, of, s.ID)
		require.NotEmpty(t, sourcesOf(s), s.ID)
		fmt.Fprintf(&b, "| %s %s | %s | %d | %s | %s |\n", s.ExternalID, s.Technique, s.ID, s.Severity, code(sourcesOf(s)), code(of))
	}
	b.WriteString(`
Each signature has events for which it fires and events that are nearly so, in ` + "`TestSignaturesFire` and `TestSignaturesDoNotFire`" + `.

## Public rules

`)
	b.WriteString("| rule | signature | not covered |\n|---|---|---|\n")
	for _, r := range rules {
		for _, id := range r.signatures {
			require.True(t, ids[id], id)
		}
		by := strings.Join(r.signatures, ", ")
		if r.query != "" {
			by = strings.TrimPrefix(by+", a query", ", ")
		}
		if by == "" {
			by = "none"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.name, by, r.open)
	}
	b.WriteString("\n`TestQueriesOfPublicRulesFire` runs these queries on loads of both kinds.\n")
	for _, r := range rules {
		if r.query != "" {
			fmt.Fprintf(&b, "\n### %s\n\n```sql\n%s;\n```\n", r.name, r.query)
		}
	}
	b.WriteString("\n## Techniques of rootkits\n\n| a module | what reports it | tests |\n|---|---|---|\n")
	for _, technique := range techniques {
		names := strings.Fields(technique.tests)
		for _, name := range names {
			require.Contains(t, tests, name)
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", technique.does, technique.caught, code(names))
	}
	b.WriteString("\n[The threat model](threat-model.md) says what remains.\n")
	requireFile(t, "../docs/coverage.md", b.String())
}

// Each query of a public rule returns rows for what the rule is about, and nothing for an honest load
// unless the rule takes every load.
func TestQueriesOfPublicRulesFire(t *testing.T) {
	host := start(t, t.TempDir())
	e := newExtension(t)
	inventory := &replaced{packaged{{Name: "loop", State: "Live", Views: []string{kmodquery.ViewModules}}}}
	e.plugins = nil
	for _, plugin := range tables.Plugins(tables.Config{
		Store: e.store, Cursors: e.store, Recorder: e.recorder, Signatures: signatures.All(), Kernel: "6.1.0", Autostart: e.places, Inventory: inventory,
	}) {
		e.plugins = append(e.plugins, watched{plugin, e.requests})
	}
	now := time.Now().Unix() - 60
	load := func(id, eventName string, change func(*kmodquery.Event)) kmodquery.Event {
		now++
		event := kmodquery.Event{
			Time: now, TimeNanos: now * 1e9, EventName: eventName, Source: kmodquery.SourceEBPF, LoadID: id, Type: kmodquery.TypeKernelModule,
			Name: "loop", Path: "/usr/lib/modules/6.1.0/loop.ko", Origin: kmodquery.OriginFile, SHA256: "12", SignatureStatus: "valid", Taints: new(int64(0)),
			UID: new(int64(0)), AUID: new(int64(4294967295)), ProcessName: "modprobe", ProcessPath: "/usr/bin/kmod", Cmdline: "/sbin/modprobe -q -- loop", Cwd: "/",
			PidNS: new(int64(4026531836)), UserNS: new(int64(4026531837)), Params: new(""),
		}
		if eventName == kmodquery.EventSecurityKernelReadFile || eventName == kmodquery.EventKextload {
			event.ReportsLoad = new(int64(1))
		}
		change(&event)
		return event
	}
	attempt := func(id string, change func(*kmodquery.Event)) {
		returned := load(id, kmodquery.EventFinitModule, change)
		returned.Result, returned.ReportsLoad = new(int64(0)), new(int64(0))
		e.append(t, load(id, kmodquery.EventSecurityKernelReadFile, change), load(id, kmodquery.EventModuleLoad, change), returned)
	}
	attempt("1", func(*kmodquery.Event) {})
	require.NoError(t, e.store.CloseLoads(t.Context(), time.Now()))
	e.places.set(kmodquery.AutostartEntry{Place: kmodquery.PlaceModulesLoad, File: ownedFile, Line: 1, Action: "load", Name: "loop", Effective: new(int64(1))})
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	for _, r := range rules {
		// New modules and system calls are those of honest hosts too.
		if r.query != "" && !strings.HasPrefix(r.name, "Datadog: unfamiliar") && !strings.HasPrefix(r.name, "audit-userspace") {
			rows, err := host.Query(t.Context(), r.query)
			require.NoError(t, err, r.name)
			require.Empty(t, rows, r.name)
		}
	}

	bad := func(e *kmodquery.Event) {
		e.Name, e.Path, e.SHA256, e.Cwd, e.AUID, e.Cmdline = "msr", "/tmp/msr.ko", "13", "/tmp", new(int64(1000)), "insmod /tmp/msr.ko allow_writes=on"
		e.ProcessName, e.Params, e.SignatureStatus, e.Taints, e.PidNS = "insmod", new("allow_writes=on"), "unsigned", new(int64(1<<12|1<<13)), new(int64(4026532000))
	}
	attempt("2", bad)
	e.append(t, load("3", kmodquery.EventDeleteModule, bad),
		load("4", kmodquery.EventFinitModule, func(e *kmodquery.Event) {
			*e = kmodquery.Event{Time: e.Time, TimeNanos: e.TimeNanos, EventName: e.EventName, Source: e.Source, LoadID: e.LoadID, UID: new(int64(1000)),
				Result: new(int64(-1)), Error: "EPERM", Count: new(int64(4)), ReportsLoad: new(int64(1))}
		}),
		load("5", kmodquery.EventKextload, func(e *kmodquery.Event) {
			e.Source, e.Name, e.Path, e.Result = kmodquery.SourceUnifiedLog, "com.example.a", "/Library/Extensions/a.kext", new(int64(0))
		}),
		load("6", kmodquery.EventKextunload, func(e *kmodquery.Event) { e.Source, e.Name = kmodquery.SourceUnifiedLog, "com.example.av" }))
	require.NoError(t, e.store.CloseLoads(t.Context(), time.Now()))
	e.places.set(kmodquery.AutostartEntry{Place: kmodquery.PlaceModulesLoad, File: "/etc/modules", Line: 1, Action: "load", Name: "evil", Effective: new(int64(1))})
	inventory.packaged = packaged{{Name: "com.example.a", State: "Live", Policy: kmodquery.PolicyUser, Views: []string{kmodquery.ViewShowloaded}}}
	for _, r := range rules {
		if r.query != "" {
			rows, err := host.Query(t.Context(), r.query)
			require.NoError(t, err, r.name)
			require.NotEmpty(t, rows, r.name)
		}
	}
}

// replaced is an inventory that a test replaces.
type replaced struct{ packaged }
