//go:build linux

package ebpf

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmodquery/kmodquery/linux/module"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

// lockedRecord returns what a program can record on a locked-down kernel.
func lockedRecord(kind bpf.Kind, unread bpf.Unread) bpf.Record {
	r := bpf.Record{
		Kind: kind, Boot: time.Hour, Attempt: 5, Context: 5, Pid: 10, Tid: 11, UID: 1, GID: 3, Comm: "insmod",
		Unread: unread,
	}
	if unread&bpf.UnreadTask == 0 {
		r.Parent, r.EUID, r.EGID, r.Capabilities, r.MntNS, r.UserNS = 9, 2, 4, 1<<16, 100, 101
		r.HasAUID, r.AUID, r.SessionID = true, 6, 7
	}
	return r
}

const (
	unreadProcess = "process_path,cwd,cmdline,ancestors"
	unreadUntyped = "pid_ns,cgroup,container_id,requested_by"
	unreadTask    = "parent,euid,egid,auid,session_id,capabilities,mnt_ns,user_ns"
)

type lockedTypes struct{}

func (lockedTypes) ReadFileType(uint32) string { return kmodquery.TypeKernelModule }
func (lockedTypes) LoadDataType(uint32) string { return kmodquery.TypeKernelModule }

func TestUnreadColumnsAreMissing(t *testing.T) {
	const untyped, all = bpf.UnreadUntyped, bpf.UnreadUntyped | bpf.UnreadTask
	module := &bpf.Module{Name: "x", Params: bpf.Text{Missing: true}}
	file := &bpf.File{IsModule: true, Path: "tmp/x.ko", Incomplete: true}
	call := &bpf.Call{Name: "init_module", HasArguments: true, Params: bpf.Text{Missing: true}}
	for _, test := range []struct {
		name    string
		kind    bpf.Kind
		unread  bpf.Unread
		fill    func(*bpf.Record)
		missing string
	}{
		{"module_load", bpf.ModuleLoad, untyped, func(r *bpf.Record) { r.Module = module }, "version,srcversion,params"},
		{"module_free", bpf.ModuleFree, untyped, func(r *bpf.Record) { r.Module = module }, "version,srcversion"},
		{"module_request", bpf.ModuleRequest, untyped, func(r *bpf.Record) { r.Module = &bpf.Module{} }, "name"},
		{"read_file", bpf.ReadFile, untyped, func(r *bpf.Record) { r.File = file }, "version,srcversion,path,filesystem,flags"},
		{"load_data", bpf.LoadData, untyped, func(r *bpf.Record) { r.File = &bpf.File{IsModule: true} }, "version,srcversion,size"},
		{"init_module", bpf.SystemCall, untyped, func(r *bpf.Record) { r.Call = call }, "version,srcversion,params"},
		{"module_load without a task", bpf.ModuleLoad, all, func(r *bpf.Record) { r.Module = module }, unreadTask + ",version,srcversion,params"},
		{"load_data without a task", bpf.LoadData, all, func(r *bpf.Record) { r.File = &bpf.File{IsModule: true} },
			unreadTask + ",version,srcversion,size,origin"},
		{"load_data inside a load", bpf.LoadData, all, func(r *bpf.Record) { r.ParentAttempt, r.File = 4, &bpf.File{IsModule: true} },
			unreadTask + ",version,srcversion,size"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := lockedRecord(test.kind, test.unread)
			test.fill(&r)
			e := translator{types: lockedTypes{}}.event(r, &process{}, time.Unix(0, 0))
			want := strings.Join([]string{unreadUntyped, test.missing, unreadProcess}, ",")
			require.ElementsMatch(t, strings.Split(want, ","), slices.Collect(e.Missing.All()))
			for column := range e.Missing.All() {
				if column != "path" && column != "origin" { // which are there in part
					require.True(t, e.Lacks(column), column)
				}
			}
			require.EqualValues(t, 1, *e.UID)
			require.Equal(t, "insmod", e.ProcessName)
			if test.unread == untyped {
				require.EqualValues(t, 9, *e.Parent)
				require.EqualValues(t, 2, *e.EUID)
				require.EqualValues(t, 6, *e.AUID)
				require.EqualValues(t, 100, *e.MntNS)
			}
		})
	}
}

// A column that the image has, or lacks, is no longer missing.
func TestImageProvidesUnreadColumns(t *testing.T) {
	for _, test := range []struct {
		name          string
		found         imageInfo
		version, left string
	}{
		{"an image with a version", imageInfo{columns: kmodquery.Event{SHA256: "ab", Version: "1", Flags: new(int64(4))}}, "1", "path"},
		{"an image without one", imageInfo{columns: kmodquery.Event{SHA256: "ab"}}, "", "flags,path"},
		{"no image", noImageInfo(), "", "flags,path,version,srcversion," + strings.Join(module.Columns, ",")},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRecorded()
			read := kmodquery.Event{EventName: kmodquery.EventSecurityKernelReadFile, LoadID: "a", Path: "tmp/x.ko"}
			read.Missing.Add("version", "srcversion", "path", "flags")
			r.add(read, start)
			r.expectImage("a")
			r.add(kmodquery.Event{EventName: kmodquery.EventModuleLoad, LoadID: "a", Name: "x"}, start)
			require.Empty(t, r.events)
			r.setImage("a", test.found)
			got := r.events
			require.Len(t, got, 2)
			require.Equal(t, test.version, got[0].Version)
			require.ElementsMatch(t, strings.Split(test.left, ","), slices.Collect(got[0].Missing.All()))
			require.Equal(t, "tmp/x.ko", got[1].Path)
			require.True(t, got[1].Missing.Has("path"), "the path is incomplete in every event")
		})
	}
}

func TestImageThatIsNotSentHasItsFile(t *testing.T) {
	file := &bpf.File{IsModule: true, Path: "tmp/x.ko", Incomplete: true}
	r := newReading(t)
	read := lockedRecord(bpf.ReadFile, bpf.UnreadUntyped|bpf.UnreadTask)
	read.File = file
	taken := lockedRecord(bpf.ImageTaken, bpf.UnreadUntyped|bpf.UnreadTask)
	taken.Image = &bpf.Image{Size: 9, Flags: 4}
	r.take(read, taken)
	require.Len(t, r.wanted, 1)
	require.Same(t, file, r.wanted[0].file)
	require.False(t, r.wanted[0].sent)
	var e kmodquery.Event
	r.wanted[0].describe(&e)
	require.EqualValues(t, 4, *e.Flags)
	require.Nil(t, e.Size, "that of the file is known, and the image's may be decompressed")
}
