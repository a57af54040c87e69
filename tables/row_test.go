package tables

import (
	"context"
	"encoding/json"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/hostile"
)

func FuzzCell(f *testing.F) {
	for _, text := range append(hostile.Texts(), "\x00", "\\\x00", "\\x\x00", "\\x0\x80") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, bytes string) {
		text := kmodquery.ShownText("params", bytes)
		require.Empty(t, hostile.Harm(text))
		require.Equal(t, bytes, hostile.Unescape(text))
		if plain(bytes) {
			require.Equal(t, bytes, text)
			require.Equal(t, bytes, kmodquery.ShownText("ancestors", bytes))
		}
		require.Empty(t, hostile.Harm(kmodquery.ShownText("ancestors", bytes)), "a store may hold what no source writes")
		event := full()
		event.Params = &bytes
		event.Ancestors = jsonOf(t, []map[string]string{{"comm": kmodquery.Escape(bytes)}})
		shown := object(&event, nil)
		require.Empty(t, hostile.Harm(shown))
		var decoded struct{ Params, Ancestors string }
		require.NoError(t, json.Unmarshal([]byte(shown), &decoded))
		require.Equal(t, text, decoded.Params)
		require.Equal(t, event.Ancestors, decoded.Ancestors)
	})
}

// typicalLoad is a module_load by modprobe as the eBPF source reports it.
func typicalLoad() kmodquery.Event {
	n := int64(1_790_000_000)
	return kmodquery.Event{
		Time: n, TimeNanos: n * 1_000_000_000, Uptime: &n, BootID: "0b1e6f9e-6f0c-4a5e-9f2b-3f6f3a0c8d11", EID: n, StoredTime: &n,
		EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF, LoadID: "0b1e6f9e-1790000000", ReportsLoad: &n,
		Name: "dummy", Path: "/usr/lib/modules/6.12.0-1-amd64/kernel/drivers/net/dummy.ko.xz", Type: kmodquery.TypeKernelModule,
		Origin: kmodquery.OriginFile, Filesystem: "ext4", Device: &n, Inode: &n, Size: &n, Mtime: &n, Ctime: &n,
		SHA256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", HashSource: kmodquery.HashSourceKernel,
		SignatureStatus: kmodquery.SignatureValid, Pid: &n, Tid: &n, Parent: &n, ProcessName: "modprobe", ProcessPath: "/usr/bin/kmod",
		Cmdline: "modprobe dummy", Cwd: "/", UID: &n, EUID: &n, GID: &n, EGID: &n, AUID: &n, SessionID: &n,
		Ancestors: `[{"pid":1,"path":"/usr/lib/systemd/systemd","comm":"systemd","uid":0}]`, Cgroup: "/system.slice/ssh.service",
	}
}

// Most columns of an event are NULL, and a reply has up to a hundred thousand rows.
func TestARowTakesMemoryForItsCellsOnly(t *testing.T) {
	event := kmodquery.Event{Time: 1, Name: "dummy", Result: ptr[int64](-8)}
	row := rowFunc(eventColumns)
	require.Equal(t, map[string]string{"time": "1", "time_nanos": "0", "eid": "0", "name": "dummy", "result": "-8", "unprivileged": "0", "rowid": "7"},
		row(&event, 7))
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { row(&event, 7) }), 3.0, "the map and the text of a number")

	const rows = 1000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rows {
		row(&event, 7)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, (after.TotalAlloc-before.TotalAlloc)/rows, uint64(1000), "a map with room for every column takes 5,000 bytes")
}

// A replyOf is a store of a number of equal events.
type replyOf struct {
	Store
	event kmodquery.Event
	rows  int
}

func (s replyOf) Events(_ context.Context, _ kmodquery.Filter, visit func(*kmodquery.Event) error) error {
	for range s.rows {
		if err := visit(&s.event); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkReply makes the rows of a reply, without the store and without osquery's socket.
func BenchmarkReply(b *testing.B) {
	c := testConfig(b)
	c.Store, c.ReplyBytes = replyOf{event: typicalLoad(), rows: 10_000}, 1<<40
	plugin := pluginNamed(b, c, "kernel_module_events")
	b.ReportAllocs()
	for b.Loop() {
		response := plugin.Call(b.Context(), map[string]string{"action": "generate", "context": "{}"})
		require.Len(b, response.Response, 10_000)
	}
}

func jsonOf(t testing.TB, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	require.NoError(t, err)
	return string(text)
}
