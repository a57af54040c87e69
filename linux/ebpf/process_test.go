//go:build linux

package ebpf

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/test/hostile"
)

// pathRecord returns a record of a path of insmod's process.
func pathRecord(path bpf.Path) bpf.Record {
	return record(bpf.ProcessPath, func(r *bpf.Record) { r.Attempt, r.Path = 0, &path })
}

func argsRecord(args bpf.Args) bpf.Record {
	return record(bpf.ProcessArgs, func(r *bpf.Record) { r.Attempt, r.Args = 0, &args })
}

// processRecords are the records that the programs send of insmod's process.
var processRecords = []bpf.Record{
	argsRecord(bpf.Args{Value: "insmod\x00x.ko\x00"}),
	pathRecord(bpf.Path{Role: bpf.Cwd, Value: "/root"}),
	pathRecord(bpf.Path{Role: bpf.Cgroup, Value: "/"}),
	pathRecord(bpf.Path{Role: bpf.CgroupV1, Value: "/user.slice"}),
	pathRecord(bpf.Path{Role: bpf.Executable, Value: "/sbin/insmod", Pid: 10, UID: 1000, Comm: "insmod"}),
	pathRecord(bpf.Path{Role: bpf.Executable, Generation: 1, Value: "/bin/sh", Pid: 9, UID: 1000, Comm: "sh"}),
	pathRecord(bpf.Path{Role: bpf.Executable, Generation: 2, Value: "/sbin/init", Pid: 1, Comm: "init", Last: true}),
}

// described returns the event columns of a process with these records.
func described(isKernelThread bool, records ...bpf.Record) kmodquery.Event {
	p := &process{}
	for _, r := range records {
		p.add(r)
	}
	var e kmodquery.Event
	p.describe(&e, isKernelThread)
	return e
}

// without returns processRecords except one that was lost.
func without(i int) []bpf.Record { return slices.Delete(slices.Clone(processRecords), i, i+1) }

func TestProcessColumns(t *testing.T) {
	require.Equal(t, kmodquery.Event{
		ProcessPath: "/sbin/insmod", Cmdline: "insmod x.ko", Cwd: "/root", Cgroup: "/user.slice",
		Ancestors: `[{"pid":9,"path":"/bin/sh","comm":"sh","uid":1000},{"pid":1,"path":"/sbin/init","comm":"init","uid":0}]`,
	}, described(false, processRecords...))
	require.Equal(t, described(false, processRecords...), described(false, slices.Concat(processRecords, processRecords)...))
}

func TestProcessWithLostRecords(t *testing.T) {
	tests := []struct {
		name    string
		records []bpf.Record
		column  string // that has no value, or less of one
		want    string // Missing
	}{
		{"args", without(0), "cmdline", "cmdline"},
		{"cwd", without(1), "cwd", "cwd"},
		{"executable", without(4), "process_path", "process_path"},
		{"last ancestor", without(6), "", "ancestors"},
		{"everything", nil, "process_path", "process_path,cwd,cmdline,cgroup,container_id,ancestors"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := described(false, test.records...)
			require.Equal(t, test.want, e.Missing.String())
			if test.column != "" {
				column, ok := kmodquery.EventColumn(test.column)
				require.True(t, ok)
				require.Nil(t, column.Value(&e))
			}
		})
	}
	t.Run("an ancestor between others", func(t *testing.T) {
		require.Equal(t, "ancestors", described(false, without(5)...).Missing.String())
	})
	t.Run("both control groups", func(t *testing.T) {
		require.Equal(t, "cgroup,container_id", described(false, slices.Concat(processRecords[:2], processRecords[4:])...).Missing.String())
	})
}

func TestProcessIncompletePaths(t *testing.T) {
	tests := []struct {
		name string
		at   int
		want kmodquery.Event // what differs
	}{
		{"cwd", 1, kmodquery.Event{Cwd: "cut", Missing: "cwd"}},
		{"executable", 4, kmodquery.Event{ProcessPath: "cut", Missing: "process_path"}},
		{"cgroup", 3, kmodquery.Event{Cgroup: "cut", Missing: "cgroup,container_id"}},
		{"ancestor", 5, kmodquery.Event{Missing: "ancestors",
			Ancestors: `[{"pid":9,"path":"cut","comm":"sh","uid":1000},{"pid":1,"path":"/sbin/init","comm":"init","uid":0}]`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			records := slices.Clone(processRecords)
			path := *records[test.at].Path
			path.Value, path.Incomplete = "cut", true
			records[test.at].Path = &path
			want := described(false, processRecords...)
			for _, column := range kmodquery.EventColumns() {
				if differs, ok := column.Value(&test.want).(string); ok {
					*column.Pointer(&want).(*string) = differs
				}
			}
			require.Equal(t, want, described(false, records...))
		})
	}
}

func TestProcessKernelThreads(t *testing.T) {
	e := described(true,
		pathRecord(bpf.Path{Role: bpf.Cwd, Value: "/"}),
		pathRecord(bpf.Path{Role: bpf.Cgroup, Value: "/"}),
		pathRecord(bpf.Path{Role: bpf.Executable, KernelThread: true, Pid: 40, Comm: "kworker/0:1"}),
		pathRecord(bpf.Path{Role: bpf.Executable, Generation: 1, KernelThread: true, Pid: 2, Comm: "kthreadd", Last: true}),
	)
	require.Equal(t, kmodquery.Event{Cwd: "/", Cgroup: "/", Ancestors: `[{"pid":2,"path":"","comm":"kthreadd","uid":0}]`}, e)

	// Process 1 has no ancestor.
	e = described(false, processRecords[0], processRecords[1], processRecords[2], pathRecord(bpf.Path{Role: bpf.Executable, Value: "/sbin/init", Pid: 1, Last: true}))
	require.Equal(t, "[]", e.Ancestors)
	require.Empty(t, e.Missing)
}

func TestProcessAncestorsAreJSON(t *testing.T) {
	for _, text := range hostile.Texts() {
		records := slices.Clone(processRecords)
		records[5] = pathRecord(bpf.Path{Role: bpf.Executable, Generation: 1, Value: "/tmp/" + text, Pid: 1<<32 - 1, UID: 1<<32 - 1, Comm: text})
		e := described(false, records...)
		require.Empty(t, hostile.Harm(e.Ancestors))
		var chain []ancestor
		require.NoError(t, json.Unmarshal([]byte(e.Ancestors), &chain))
		require.Equal(t, "/tmp/"+text, hostile.Unescape(chain[0].Path))
		require.Equal(t, text, hostile.Unescape(chain[0].Comm))
		require.EqualValues(t, 1<<32-1, chain[0].Pid)
		require.EqualValues(t, 1<<32-1, chain[0].UID)
	}
}

func TestRequesterIsJSON(t *testing.T) {
	for _, text := range hostile.Texts() {
		shown := requestOf(&kmodquery.Event{ProcessPath: text, ProcessName: text, Cmdline: text, ContainerID: text, Name: text}).column
		require.Empty(t, hostile.Harm(shown))
		var decoded requester
		require.NoError(t, json.Unmarshal([]byte(shown), &decoded))
		for _, field := range []string{decoded.Path, decoded.Comm, decoded.Cmdline, decoded.ContainerID, decoded.Request} {
			require.Equal(t, text, hostile.Unescape(field))
		}
	}
}

func TestProcessCgroup(t *testing.T) {
	const id = "f1d43f50ce8bdb35a0d0b1d8de41c5b0d7d1b4c6b45c5ff42e4b4a25c1a3fd2b"
	path := func(value string) *bpf.Path { return &bpf.Path{Value: value} }
	tests := []struct {
		name   string
		v2, v1 *bpf.Path
		want   kmodquery.Event
	}{
		{"only the default hierarchy", path("/docker/" + id), nil, kmodquery.Event{Cgroup: "/docker/" + id, ContainerID: id}},
		{"its root", path("/"), nil, kmodquery.Event{Cgroup: "/"}},
		{"both: the default one is used", path("/user.slice"), path("/elsewhere"), kmodquery.Event{Cgroup: "/user.slice"}},
		{"both: only the older one is used", path("/"), path("/docker/" + id), kmodquery.Event{Cgroup: "/docker/" + id, ContainerID: id}},
		{"both: the container shows in the older one", path("/user.slice"), path("/docker/" + id),
			kmodquery.Event{Cgroup: "/user.slice", ContainerID: id}},
		{"both: the default one's container counts", path("/lxc.payload.web"), path("/docker/" + id),
			kmodquery.Event{Cgroup: "/lxc.payload.web", ContainerID: "web"}},
		{"the default one was lost", nil, path("/docker/" + id), kmodquery.Event{Cgroup: "/docker/" + id, ContainerID: id, Missing: "cgroup"}},
		{"the default one was lost, the other is of no container", nil, path("/"), kmodquery.Event{Cgroup: "/", Missing: "cgroup,container_id"}},
		{"the older one was lost", &bpf.Path{Value: "/", HasV1: true}, nil, kmodquery.Event{Cgroup: "/", Missing: "cgroup,container_id"}},
		{"the older one was lost, and is not used", &bpf.Path{Value: "/a", HasV1: true}, nil, kmodquery.Event{Cgroup: "/a", Missing: "container_id"}},
		{"both were lost", nil, nil, kmodquery.Event{Missing: "cgroup,container_id"}},
		{"both at the root", path("/"), path("/"), kmodquery.Event{Cgroup: "/"}},
		{"too deep", &bpf.Path{Value: "a/b", Incomplete: true}, path("/x"), kmodquery.Event{Cgroup: "a/b", Missing: "cgroup,container_id"}},
		{"too deep, and not used", path("/a"), &bpf.Path{Value: "b/c", Incomplete: true}, kmodquery.Event{Cgroup: "/a", Missing: "container_id"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var e kmodquery.Event
			(&process{cgroup: test.v2, cgroupV1: test.v1}).describeCgroup(&e)
			require.Equal(t, test.want, e)
		})
	}
}

func TestProcessCmdline(t *testing.T) {
	tests := []struct {
		name string
		args *bpf.Args
		want string
		miss string
	}{
		{"arguments", &bpf.Args{Value: "insmod\x00x.ko\x00n=1\x00"}, "insmod x.ko n=1", ""},
		{"one", &bpf.Args{Value: "insmod\x00"}, "insmod", ""},
		{"none", &bpf.Args{}, "", ""},
		{"empty ones", &bpf.Args{Value: "insmod\x00\x00x.ko\x00\x00"}, "insmod  x.ko ", ""},
		{"only empty ones", &bpf.Args{Value: "\x00\x00"}, " ", ""},
		{"blanks in them", &bpf.Args{Value: "sh\x00-c\x00insmod x.ko\x00"}, "sh -c insmod x.ko", ""},
		{"without an end", &bpf.Args{Value: "insmod\x00x.ko"}, "insmod x.ko", ""},
		{"no text at all", &bpf.Args{Value: "\xff\n\x00\x1b[0m\x00"}, "\xff\n \x1b[0m", ""},
		{"truncated", &bpf.Args{Value: "insmod\x00/lo", Truncated: true}, "insmod /lo", "cmdline"},
		{"truncated after a NUL: there is another", &bpf.Args{Value: "insmod\x00", Truncated: true}, "insmod ", "cmdline"},
		{"unreadable", &bpf.Args{Missing: true}, "", "cmdline"},
		{"lost", nil, "", "cmdline"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var e kmodquery.Event
			require.Equal(t, test.want, cmdline(&e, test.args))
			require.Equal(t, test.miss, e.Missing.String())
		})
	}
}
