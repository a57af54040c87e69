//go:build linux

package ebpf

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

type fixedTypes struct{}

func (fixedTypes) ReadFileType(id uint32) string {
	return map[uint32]string{1: "firmware", 2: "kernel-module", 7: "kernel-module"}[id]
}
func (fixedTypes) LoadDataType(uint32) string { return "kernel-module" }

var (
	translate = translator{bootID: "b0", types: fixedTypes{}}
	boot      = time.Unix(1_700_000_000, 250)
	insmod    = bpf.Record{
		Boot: 90*time.Second + 5, Attempt: 89 * time.Second, Context: 89 * time.Second,
		Pid: 10, Tid: 11, Parent: 1, UID: 1000, EUID: 0, GID: 1001, EGID: 2,
		HasAUID: true, AUID: 4294967295, SessionID: 4, Comm: "insmod",
		Capabilities: 1 << 16, MntNS: 4026531841, PidNS: 4026531836, UserNS: 4026531837,
	}
)

// knownProcess returns a process of which every record came.
func knownProcess() *process {
	p := &process{}
	for _, r := range processRecords {
		p.add(r)
	}
	return p
}

func record(kind bpf.Kind, change func(*bpf.Record)) bpf.Record {
	r := insmod
	r.Kind = kind
	change(&r)
	return r
}

func TestTranslateProcessAndTime(t *testing.T) {
	e := translate.event(record(bpf.ModuleRequest, func(r *bpf.Record) { r.Module = &bpf.Module{Name: "fs-xfs"} }), knownProcess(), boot)
	require.EqualValues(t, 1_700_000_090, e.Time)
	require.EqualValues(t, 1_700_000_090_000_000_255, e.TimeNanos)
	require.EqualValues(t, 90, *e.Uptime)
	require.Equal(t, "b0", e.BootID)
	require.Equal(t, "ebpf", e.Source)
	require.Equal(t, "insmod", e.ProcessName)
	for name, want := range map[string]int64{
		"pid": 10, "tid": 11, "parent": 1, "uid": 1000, "euid": 0, "gid": 1001, "egid": 2, "auid": 4294967295, "session_id": 4,
		"capabilities": 1 << 16, "mnt_ns": 4026531841, "pid_ns": 4026531836, "user_ns": 4026531837, "count": 1,
	} {
		column, ok := kmodquery.EventColumn(name)
		require.True(t, ok, name)
		require.Equal(t, want, column.Value(&e), name)
	}
	require.Equal(t, "module_request", e.EventName)
	require.Equal(t, "fs-xfs", e.Name)
	require.Equal(t, "/sbin/insmod", e.ProcessPath)
	require.Equal(t, "insmod x.ko", e.Cmdline)
	require.Equal(t, "/root", e.Cwd)
	require.Equal(t, "/user.slice", e.Cgroup)
	require.JSONEq(t, `[{"pid":9,"path":"/bin/sh","comm":"sh","uid":1000},{"pid":1,"path":"/sbin/init","comm":"init","uid":0}]`, e.Ancestors)
	require.Empty(t, e.Missing)

	e = translate.event(record(bpf.ModuleRequest, func(r *bpf.Record) {
		r.Module, r.HasAUID, r.Capabilities = &bpf.Module{}, false, 1<<64-1
	}), knownProcess(), boot)
	require.Nil(t, e.AUID)
	require.Nil(t, e.SessionID)
	require.Nil(t, e.Capabilities)
	require.Equal(t, "capabilities", e.Missing.String())
}

func TestTranslateFiles(t *testing.T) {
	module := bpf.File{
		ID: 2, IsModule: true, Path: "/tmp/x.ko", Filesystem: "tmpfs", Device: 0x00800001, Inode: 5, Size: 7,
		Links: 1, HasArguments: true, Flags: 4, Mtime: 100, Ctime: 200,
	}
	with := func(change func(*bpf.File)) *bpf.File {
		f := module
		change(&f)
		return &f
	}
	tests := []struct {
		name string
		file *bpf.File
		want func(*kmodquery.Event)
	}{
		{"a file", &module, func(*kmodquery.Event) {}},
		{"unlinked", with(func(f *bpf.File) { f.Links = 0 }), func(e *kmodquery.Event) { e.Origin = "deleted" }},
		{"another name of it remains", with(func(f *bpf.File) { f.Unhashed = true }), func(e *kmodquery.Event) { e.Origin = "deleted" }},
		{"memfd", with(func(f *bpf.File) { f.Links = 0; f.InternalFS = true; f.Path = "/memfd:x" }),
			func(e *kmodquery.Event) { e.Origin = "memfd"; e.Path = "/memfd:x" }},
		{"named like a memfd", with(func(f *bpf.File) { f.Path = "/memfd:x" }), func(e *kmodquery.Event) { e.Path = "/memfd:x" }},
		{"too deep", with(func(f *bpf.File) { f.Path = "a/x.ko"; f.Incomplete = true }),
			func(e *kmodquery.Event) { e.Path = "a/x.ko"; e.Missing = "path" }},
		{"firmware", with(func(f *bpf.File) { f.ID = 1; f.IsModule = false }),
			func(e *kmodquery.Event) { e.Type = "firmware"; e.Flags = nil }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := kmodquery.Event{
				EventName: "security_kernel_read_file", Type: "kernel-module", Path: "/tmp/x.ko", Origin: "file",
				Filesystem: "tmpfs", Device: new(int64(8<<8 | 1)), Inode: new(int64(5)), Size: new(int64(7)),
				Mtime: new(int64(100)), Ctime: new(int64(200)), Flags: new(int64(4)),
			}
			test.want(&want)
			got := translate.event(record(bpf.ReadFile, func(r *bpf.Record) { r.File = test.file }), knownProcess(), boot)
			require.Equal(t, want, onlySubject(got))
		})
	}
}

func TestTranslateModulesAndCalls(t *testing.T) {
	tests := []struct {
		name   string
		record bpf.Record
		want   kmodquery.Event
	}{
		{"module_load", record(bpf.ModuleLoad, func(r *bpf.Record) {
			r.Module = &bpf.Module{Name: "x", Version: "1", Srcversion: "AB", Taints: 0x3000, Params: bpf.Text{Value: "a=1 b"}}
		}), kmodquery.Event{EventName: "module_load", Type: "kernel-module", Name: "x", Version: "1", Srcversion: "AB",
			Taints: new(int64(0x3000)), Params: new("a=1 b")}},
		{"module_free", record(bpf.ModuleFree, func(r *bpf.Record) { r.Module = &bpf.Module{Name: "x"} }),
			kmodquery.Event{EventName: "module_free", Type: "kernel-module", Name: "x", Taints: new(int64(0))}},
		{"load_data", record(bpf.LoadData, func(r *bpf.Record) { r.File = &bpf.File{IsModule: true, HasArguments: true, Size: 9} }),
			kmodquery.Event{EventName: "security_kernel_load_data", Type: "kernel-module", Origin: "memory", Size: new(int64(9))}},
		{"init_module denied", record(bpf.SystemCall, func(r *bpf.Record) {
			r.Call = &bpf.Call{Name: "init_module", Result: -1, HasArguments: true, Size: 9, Params: bpf.Text{Missing: true}}
		}), kmodquery.Event{EventName: "init_module", Type: "kernel-module", Origin: "memory", Size: new(int64(9)),
			Result: new(int64(-1)), Error: "EPERM", Missing: "params"}},
		{"finit_module", record(bpf.SystemCall, func(r *bpf.Record) {
			r.Call = &bpf.Call{Name: "finit_module", HasArguments: true, Flags: 4, Params: bpf.Text{Value: "", Truncated: false}}
		}), kmodquery.Event{EventName: "finit_module", Type: "kernel-module", Flags: new(int64(4)),
			Result: new(int64(0)), Params: new("")}},
		{"delete_module of nothing", record(bpf.SystemCall, func(r *bpf.Record) {
			r.Call = &bpf.Call{Name: "delete_module", Result: -2, HasArguments: true, Flags: 0o4000, Module: bpf.Text{Value: "x"}}
		}), kmodquery.Event{EventName: "delete_module", Name: "x", Flags: new(int64(0o4000)), Result: new(int64(-2)), Error: "ENOENT"}},
		{"an errno that user space has no name for", record(bpf.SystemCall, func(r *bpf.Record) {
			r.Call = &bpf.Call{Name: "finit_module", Result: -524, HasArguments: true, Params: bpf.Text{Value: "long", Truncated: true}}
		}), kmodquery.Event{EventName: "finit_module", Type: "kernel-module", Flags: new(int64(0)), Result: new(int64(-524)),
			Error: "errno 524", Params: new("long"), Missing: "params"}},
		{"init_module by another module's init", record(bpf.SystemCall, func(r *bpf.Record) {
			r.ParentAttempt = 5
			r.Call = &bpf.Call{Name: "init_module", HasArguments: true, Size: 9}
		}), kmodquery.Event{EventName: "init_module", Type: "kernel-module", Origin: "kernel", Size: new(int64(9)),
			Result: new(int64(0)), Params: new("")}},
		{"load_data by a thread of the kernel", record(bpf.LoadData, func(r *bpf.Record) {
			r.KernelThread = true
			r.File = &bpf.File{IsModule: true, HasArguments: true, Size: 9}
		}), kmodquery.Event{EventName: "security_kernel_load_data", Type: "kernel-module", Origin: "kernel", Size: new(int64(9))}},
		{"load_data by another module's init", record(bpf.LoadData, func(r *bpf.Record) {
			r.ParentAttempt = 5
			r.File = &bpf.File{IsModule: true}
		}), kmodquery.Event{EventName: "security_kernel_load_data", Type: "kernel-module", Origin: "kernel", Missing: "size"}},
		{"load_data of no module", record(bpf.LoadData, func(r *bpf.Record) { r.KernelThread, r.File = true, &bpf.File{Size: 9} }),
			kmodquery.Event{EventName: "security_kernel_load_data", Type: "kernel-module"}},
		{"module_load that was verified", record(bpf.ModuleLoad, func(r *bpf.Record) {
			r.Module = &bpf.Module{Name: "x", SigOK: new(true), Verdict: new(int64(0)), Params: bpf.Text{Missing: true}}
		}), kmodquery.Event{EventName: "module_load", Type: "kernel-module", Name: "x", Taints: new(int64(0)),
			SignatureStatus: "valid", Missing: "params"}},
		{"finit_module whose signature was rejected", record(bpf.SystemCall, func(r *bpf.Record) {
			r.Call = &bpf.Call{Name: "finit_module", Result: -129, HasArguments: true, Verdict: new(int64(-126))}
		}), kmodquery.Event{EventName: "finit_module", Type: "kernel-module", Flags: new(int64(0)), Params: new(""),
			Result: new(int64(-129)), Error: "EKEYREJECTED", SignatureStatus: "rejected"}},
		{"a call whose entry was not seen", record(bpf.SystemCall, func(r *bpf.Record) {
			r.Call = &bpf.Call{Name: "finit_module", Params: bpf.Text{Missing: true}}
		}), kmodquery.Event{EventName: "finit_module", Type: "kernel-module", Result: new(int64(0)), Missing: "flags,params"}},
		{"a length that cannot be", record(bpf.LoadData, func(r *bpf.Record) {
			r.File = &bpf.File{IsModule: true, HasArguments: true, Size: 1<<64 - 1}
		}), kmodquery.Event{EventName: "security_kernel_load_data", Type: "kernel-module", Origin: "memory", Missing: "size"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, onlySubject(translate.event(test.record, knownProcess(), boot)))
		})
	}
}

func TestTranslateLoadID(t *testing.T) {
	id := func(change func(*bpf.Record)) string {
		r := record(bpf.ModuleFree, func(r *bpf.Record) { r.Module = &bpf.Module{} })
		change(&r)
		return translate.loadID(idOf(r))
	}
	one := id(func(*bpf.Record) {})
	require.Regexp(t, "^[0-9a-f]{16}$", one)
	require.Equal(t, one, id(func(r *bpf.Record) { r.Boot += time.Hour; r.Pid = 99 }))
	require.NotEqual(t, one, id(func(r *bpf.Record) { r.Attempt++ }))
	require.NotEqual(t, one, id(func(r *bpf.Record) { r.Tid++ }))
	other := translator{bootID: "b1", types: fixedTypes{}}
	require.NotEqual(t, one, other.loadID(attemptID{insmod.Attempt, insmod.Tid}))

	r := record(bpf.ModuleFree, func(r *bpf.Record) { r.Module = &bpf.Module{}; r.Attempt = 0 })
	e := translate.event(r, knownProcess(), boot)
	require.Equal(t, "load_id", e.Missing.String())

	parent := func(change func(*bpf.Record)) string {
		r := record(bpf.ModuleFree, func(r *bpf.Record) { r.Module = &bpf.Module{} })
		change(&r)
		return translate.event(r, knownProcess(), boot).ParentLoadID
	}
	require.Empty(t, parent(func(*bpf.Record) {}))
	outer := func(r *bpf.Record) { r.ParentAttempt = 5 }
	request := func(r *bpf.Record) { r.Request, r.RequestTid = 6, 7 }
	require.Equal(t, translate.loadID(attemptID{5, 11}), parent(outer), "the same thread's outer load")
	require.Equal(t, translate.loadID(attemptID{6, 7}), parent(request))
	require.Equal(t, translate.loadID(attemptID{5, 11}), parent(func(r *bpf.Record) { outer(r); request(r) }), "the nearer cause")
}

// onlySubject clears the columns about process and time.
func onlySubject(e kmodquery.Event) kmodquery.Event {
	e.Time, e.TimeNanos, e.Uptime, e.BootID, e.Source = 0, 0, nil, "", ""
	e.LoadID, e.ParentLoadID = "", ""
	e.Pid, e.Tid, e.Parent, e.ProcessName = nil, nil, nil, ""
	e.UID, e.EUID, e.GID, e.EGID, e.AUID, e.SessionID = nil, nil, nil, nil, nil, nil
	e.Capabilities, e.MntNS, e.PidNS, e.UserNS, e.Count = nil, nil, nil, nil, nil
	e.ProcessPath, e.Cmdline, e.Cwd, e.Cgroup, e.ContainerID, e.Ancestors = "", "", "", "", "", ""
	return e
}
