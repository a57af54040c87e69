package packs_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/leak"
	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

// example stores the events of a load and of a refused one, as the eBPF source reports them.
func example(t *testing.T, e *extension) {
	t.Helper()
	read := kmodquery.Event{
		Time: noon.Unix(), TimeNanos: noon.UnixNano(), EventName: kmodquery.EventSecurityKernelReadFile, Source: kmodquery.SourceEBPF,
		Type: kmodquery.TypeKernelModule, LoadID: "5d3c1f0a9b7e2468", Name: "nbd", Path: "/tmp/nbd.ko", Origin: kmodquery.OriginFile,
		SHA256:          "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		SignatureStatus: kmodquery.SignatureUnsigned,
		Pid:             new(int64(4211)), Parent: new(int64(4180)), ProcessName: "insmod", ProcessPath: "/usr/bin/kmod", Cmdline: "insmod /tmp/nbd.ko",
		UID: new(int64(0)), EUID: new(int64(0)), AUID: new(int64(1000)), Count: new(int64(1)), FirstSeen: new(int64(1)),
	}
	load := read
	load.EventName, load.Type, load.Taints, load.Params = kmodquery.EventModuleLoad, "", new(int64(8192)), new("nbds_max=4")
	returned := load
	returned.EventName, returned.Result = kmodquery.EventFinitModule, new(int64(0))
	refusedRead := read
	refusedRead.LoadID, refusedRead.Name, refusedRead.Path, refusedRead.Cmdline = "77aa01c2d4e5f680", "vfs_hook", "/tmp/.x/a.ko", "insmod /tmp/.x/a.ko"
	refusedRead.Pid, refusedRead.SHA256 = new(int64(4222)), "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"
	refused := refusedRead
	refused.EventName, refused.Type, refused.Result, refused.Error = kmodquery.EventFinitModule, "", new(int64(-8)), "ENOEXEC"
	e.append(t, read, load, returned, refusedRead, refused)
}

// exampleLog returns the results log of ten minutes with the example and lost records.
func exampleLog(t *testing.T, flags map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	leak.Check(t)
	host, err := osqueryhost.Start(t.Context(), osqueryhost.Options{
		Dir: dir, Interval: -1, Platform: "linux", HostIdentifier: "web-1", Flags: flags,
	})
	require.NoError(t, err)
	t.Cleanup(func() { host.Close() })
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	example(t, e)
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	e.recorder.set(kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateActive, Lost: 3})
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	e.recorder.set(kmodquery.Sensor{Source: kmodquery.SourceEBPF, State: kmodquery.StateActive})
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	content, err := os.ReadFile(filepath.Join(dir, "osqueryd.results.log"))
	require.NoError(t, err)
	return string(content)
}

// The guide shows the log that osquery writes.
func TestResultsLogOfTheGuideIsAsPublished(t *testing.T) {
	content, err := os.ReadFile(guideFile)
	require.NoError(t, err)
	const begin, end = "<!-- Written by \"go test ./packs -golden\". -->\n", "<!-- end -->\n"
	before, rest, ok := strings.Cut(string(content), begin)
	require.True(t, ok)
	_, after, ok := strings.Cut(rest, end)
	require.True(t, ok)
	var b strings.Builder
	b.WriteString(before + begin)
	for i, line := range strings.Split(strings.TrimSpace(exampleLog(t, nil)), "\n") {
		fmt.Fprintf(&b, "\nLine %d:\n\n```json\n%s\n```\n", i+1, line)
	}
	b.WriteString("\n" + end + after)
	requireFile(t, guideFile, b.String())
}

// With --logger_numerics numbers are no text, and without --logger_event_type a run is one
// line, which is empty for the first run of a query without rows. The guide says so.
func TestFlagsOfTheResultsLog(t *testing.T) {
	var line struct {
		Numerics    bool
		Columns     map[string]any
		DiffResults struct{ Added []map[string]any }
	}
	of := func(log, query string) {
		t.Helper()
		for text := range strings.Lines(log) {
			if strings.Contains(text, `"pack_kernel-modules_`+query+`"`) {
				require.NoError(t, json.Unmarshal([]byte(text), &line))
				return
			}
		}
		require.Fail(t, "no line of "+query)
	}
	of(exampleLog(t, map[string]string{"logger_numerics": "true"}), "kernel_module_loaded")
	require.True(t, line.Numerics)
	require.IsType(t, float64(0), line.Columns["eid"])
	require.Equal(t, "", line.Columns["result"])
	require.Equal(t, "", line.Columns["signer"])

	log := exampleLog(t, map[string]string{"logger_event_type": "false"})
	of(log, "kernel_module_findings")
	require.Len(t, line.DiffResults.Added, 2)
	require.IsType(t, "", line.DiffResults.Added[0]["eid"])
	of(log, "kernel_module_discrepancies")
	require.Empty(t, line.DiffResults.Added)
}

// The guide names this as the longest line of the pack.
const longestLine = 256 << 10

// The longest texts, each byte of which is escaped, give lines that every logger takes.
func TestTheLongestLineFitsEveryLogger(t *testing.T) {
	dir := t.TempDir()
	host := start(t, dir)
	e := newExtension(t)
	defer e.serve(t, host)()
	require.NoError(t, host.Tick(t.Context(), noon))
	host.Schedule(t.Context(), readPack(t))
	text := func(size int) string { return strings.Repeat("\x01", size) }
	requestedBy, err := json.Marshal(map[string]string{"path": text(4096), "comm": text(15), "cmdline": text(4096)})
	require.NoError(t, err)
	event := kmodquery.Event{
		Time: noon.Unix(), EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceJournal, Name: text(55), Path: text(4096),
		Params: new(text(8192)), Signer: text(256), Version: text(256), ProcessName: text(15), ProcessPath: text(4096), Cmdline: text(4096),
		RequestedBy: string(requestedBy), ContainerID: text(64),
	}
	read := event
	read.EventName, read.Source, read.Type = kmodquery.EventSecurityKernelReadFile, kmodquery.SourceEBPF, kmodquery.TypeKernelModule
	e.append(t, event, read)
	require.NoError(t, e.advance(t, host, 5*time.Minute))
	content, err := os.ReadFile(filepath.Join(dir, "osqueryd.results.log"))
	require.NoError(t, err)
	longest := 0
	for line := range strings.Lines(string(content)) {
		longest = max(longest, len(line))
	}
	require.Len(t, lines(t, host, "kernel_module_loaded", "event_name"), 1)
	require.Less(t, longest, longestLine)
	guide, err := os.ReadFile(guideFile)
	require.NoError(t, err)
	require.Contains(t, string(guide), fmt.Sprintf("at most %d KiB", longestLine>>10))
}
