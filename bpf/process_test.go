//go:build linux

package bpf

import (
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestDecodeProcessPath(t *testing.T) {
	raw := modulePathRecord{
		Header: header(moduleRecordKindRECORD_PATH), Role: modulePathRoleROLE_EXE, Generation: 3, Pid: 20, Uid: 21, Last: 1, HasExe: 1,
	}
	copy(raw.Comm[:], "bash\x00left over")
	raw.Path.State, raw.Path.Components = modulePathStatePATH_WHOLE, 2
	copy(raw.Path.Component[0][:], "bash")
	copy(raw.Path.Component[1][:], "bin")

	tests := []struct {
		name   string
		change func(*modulePathRecord)
		want   Path
	}{
		{"executable", func(*modulePathRecord) {},
			Path{Role: Executable, Value: "/bin/bash", Generation: 3, Pid: 20, UID: 21, Comm: "bash", Last: true}},
		{"there are more ancestors", func(r *modulePathRecord) { r.Last, r.Generation = 0, 0 },
			Path{Role: Executable, Value: "/bin/bash", Pid: 20, UID: 21, Comm: "bash"}},
		{"a thread of the kernel", func(r *modulePathRecord) { r.HasExe, r.Path.State = 0, modulePathStatePATH_NONE },
			Path{Role: Executable, Generation: 3, Pid: 20, UID: 21, Comm: "bash", Last: true, KernelThread: true}},
		{"an exiting process", func(r *modulePathRecord) { r.Path.State = modulePathStatePATH_NONE },
			Path{Role: Executable, Incomplete: true, Generation: 3, Pid: 20, UID: 21, Comm: "bash", Last: true}},
		{"cwd, with what the executable left", func(r *modulePathRecord) { r.Role = modulePathRoleROLE_CWD },
			Path{Role: Cwd, Value: "/bin/bash"}},
		{"cwd on a mount of its own", func(r *modulePathRecord) {
			r.Role, r.Path.State, r.HasExe = modulePathRoleROLE_CWD, modulePathStatePATH_UNREACHABLE, 0
		}, Path{Role: Cwd, Value: "bin/bash", Incomplete: true}},
		{"the root of the control groups", func(r *modulePathRecord) {
			r.Role, r.Path.Components, r.Generation = modulePathRoleROLE_CGROUP, 0, 0
		}, Path{Role: Cgroup, Value: "/"}},
		{"one of two control groups", func(r *modulePathRecord) {
			r.Role, r.Path.Components, r.Generation = modulePathRoleROLE_CGROUP, 0, 1
		}, Path{Role: Cgroup, Value: "/", HasV1: true}},
		{"a control group that is too deep", func(r *modulePathRecord) {
			r.Role, r.Path.State = modulePathRoleROLE_CGROUP_V1, modulePathStatePATH_TRUNCATED
		}, Path{Role: CgroupV1, Value: "bin/bash", Incomplete: true}},
		{"a role that there is not", func(r *modulePathRecord) { r.Role = 99 }, Path{Role: 99, Value: "/bin/bash"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			changed := raw
			test.change(&changed)
			want := wantHeader(ProcessPath)
			want.Path = &test.want
			got, err := Decode(sent(changed, changed.Path.Components))
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

func TestDecodeProcessPathWalks(t *testing.T) {
	for _, test := range walks {
		t.Run(test.name, func(t *testing.T) {
			raw := modulePathRecord{Header: header(moduleRecordKindRECORD_PATH), Role: modulePathRoleROLE_CWD}
			raw.Path.State, raw.Path.Components = test.state, test.used
			for i, name := range test.components {
				copy(raw.Path.Component[i][:], name)
			}
			got, err := Decode(sent(raw, test.used))
			require.NoError(t, err)
			require.Equal(t, &Path{Role: Cwd, Value: test.want, Incomplete: test.incomplete}, got.Path)
		})
	}
}

// Nothing is read beyond what was sent, whatever the record says of itself.
func TestDecodeShortProcessPath(t *testing.T) {
	raw := modulePathRecord{Header: header(moduleRecordKindRECORD_PATH), Role: modulePathRoleROLE_CWD}
	raw.Path.State, raw.Path.Components = modulePathStatePATH_WHOLE, 3
	for i, name := range []string{"c", "b", "a"} {
		copy(raw.Path.Component[i][:], name)
	}
	got, err := Decode(sent(raw, 1))
	require.NoError(t, err)
	require.Equal(t, "/c", got.Path.Value)

	fixed := sent(raw, 0)
	got, err = Decode(fixed)
	require.NoError(t, err)
	require.Equal(t, "/", got.Path.Value)
	_, err = Decode(fixed[:len(fixed)-1])
	require.ErrorContains(t, err, "bytes where at least")
}

func TestDecodeArgs(t *testing.T) {
	const most = len(moduleCmdlineRecord{}.Cmdline)
	tests := []struct {
		name   string
		record moduleCmdlineRecord
		text   string
		sent   int // bytes of the text
		want   Args
	}{
		{"arguments", moduleCmdlineRecord{Len: 5}, "a\x00bc\x00", 5, Args{Value: "a\x00bc\x00"}},
		{"none", moduleCmdlineRecord{}, "", 0, Args{}},
		{"with what another record left", moduleCmdlineRecord{Len: 2}, "a\x00bc\x00", 5, Args{Value: "a\x00"}},
		{"truncated", moduleCmdlineRecord{Len: uint64(most), Truncated: 1}, strings.Repeat("x", most), most,
			Args{Value: strings.Repeat("x", most), Truncated: true}},
		{"as much as there is room for", moduleCmdlineRecord{Len: uint64(most)}, strings.Repeat("x", most), most,
			Args{Value: strings.Repeat("x", most)}},
		{"unreadable", moduleCmdlineRecord{Len: 2, Error: -14, Truncated: 1}, "a\x00", 2, Args{Missing: true}},
		{"longer than what was sent", moduleCmdlineRecord{Len: 4000}, "a\x00bc\x00", 3, Args{Value: "a\x00b"}},
		{"longer than a record", moduleCmdlineRecord{Len: 1<<64 - 1}, "a\x00", most,
			Args{Value: "a\x00" + strings.Repeat("\x00", most-2)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.record.Header = header(moduleRecordKindRECORD_CMDLINE)
			copy(test.record.Cmdline[:], test.text)
			want := wantHeader(ProcessArgs)
			want.Args = &test.want
			got, err := Decode(bytesOf(test.record)[:int(unsafe.Offsetof(test.record.Cmdline))+test.sent])
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
	raw := bytesOf(moduleCmdlineRecord{Header: header(moduleRecordKindRECORD_CMDLINE)})
	_, err := Decode(raw[:unsafe.Offsetof(moduleCmdlineRecord{}.Cmdline)-1])
	require.ErrorContains(t, err, "bytes where at least")
}
