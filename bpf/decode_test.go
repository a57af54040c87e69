//go:build linux

package bpf

import (
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// bytesOf is the record as the ring buffer would hand it over.
func bytesOf[T any](record T) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&record)), unsafe.Sizeof(record))...)
}

func header(kind moduleRecordKind) moduleRecordHeader {
	h := moduleRecordHeader{
		BootNs: 5, AttemptNs: 3, ParentAttemptNs: 2, Kind: kind, Pid: 10, Tid: 11, Parent: 9,
		Uid: 1, Euid: 2, Gid: 3, Egid: 4, HasAuid: 1, Auid: 6, SessionId: 7,
	}
	copy(h.Comm[:], "insmod")
	return h
}

func wantHeader(kind Kind) Record {
	return Record{
		Kind: kind, Boot: 5 * time.Nanosecond, Attempt: 3, ParentAttempt: 2, Pid: 10, Tid: 11, Parent: 9,
		UID: 1, EUID: 2, GID: 3, EGID: 4, HasAUID: true, AUID: 6, SessionID: 7, Comm: "insmod",
	}
}

func TestDecodeCall(t *testing.T) {
	raw := moduleSystemCallRecord{Header: header(moduleRecordKindRECORD_SYSTEM_CALL), Result: -2, Flags: 8, Size: 4, Call: moduleSystemCallCALL_DELETE_MODULE, NameLen: 6}
	copy(raw.Name[:], "dummy\x00left over")
	want := wantHeader(SystemCall)
	want.Call = &Call{Name: DeleteModule, Result: -2, Flags: 8, Size: 4, Module: Text{Value: "dummy"}}
	got, err := Decode(bytesOf(raw))
	require.NoError(t, err)
	require.Equal(t, want, got)

	raw.Call, raw.ParamsLen = moduleSystemCallCALL_FINIT_MODULE, -14
	want.Call = &Call{Name: FinitModule, Result: -2, Flags: 8, Size: 4, Params: Text{Missing: true}}
	got, err = Decode(bytesOf(raw))
	require.NoError(t, err)
	require.Equal(t, want, got)

	raw.ParamsLen = 0
	want.Call.Params = Text{}
	got, err = Decode(bytesOf(raw))
	require.NoError(t, err)
	require.Equal(t, want, got)

	for i := range raw.Params {
		raw.Params[i] = 'p'
	}
	raw.Params[len(raw.Params)-1] = 0
	raw.ParamsLen = int32(len(raw.Params))
	got, err = Decode(bytesOf(raw))
	require.NoError(t, err)
	require.True(t, got.Call.Params.Truncated)
	require.Len(t, got.Call.Params.Value, len(raw.Params)-1)

	raw.Call = 9
	_, err = Decode(bytesOf(raw))
	require.EqualError(t, err, "decode record: unknown system call 9")
}

func TestDecodeModule(t *testing.T) {
	raw := moduleModuleRecord{Header: header(moduleRecordKindRECORD_MODULE_LOAD), Taints: 0x2000, ParamsLen: 4}
	copy(raw.Name[:], "dummy")
	copy(raw.Version[:], "1.0")
	copy(raw.Srcversion[:], "ABC")
	copy(raw.Params[:], "a=1\x00b")
	want := wantHeader(ModuleLoad)
	want.Module = &Module{Name: "dummy", Version: "1.0", Srcversion: "ABC", Taints: 0x2000, Params: Text{Value: "a=1"}}
	got, err := Decode(bytesOf(raw))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestDecodePaths(t *testing.T) {
	tests := []struct {
		name       string
		state      modulePathState
		components []string // as they travel: the file first
		count      uint32
		want       string
		truncated  bool
	}{
		{"a file on one mount", modulePathStatePATH_WHOLE, []string{"x.ko", "tmp"}, 2, "/tmp/x.ko", false},
		{"across a mount", modulePathStatePATH_WHOLE, []string{"x.ko", "", "mnt"}, 3, "/mnt/x.ko", false},
		{"slots that are not in use", modulePathStatePATH_WHOLE, []string{"x.ko", "tmp", "stale"}, 2, "/tmp/x.ko", false},
		{"memfd", modulePathStatePATH_DETACHED, []string{"memfd:x"}, 1, "/memfd:x", false},
		{"deeper than the record", modulePathStatePATH_TRUNCATED, []string{"x.ko", "a"}, 32, "a/x.ko", true},
		{"on a mount of its own", modulePathStatePATH_UNREACHABLE, []string{"dummy.ko", "modules", "lib"}, 3, "lib/modules/dummy.ko", true},
		{"a count out of range", modulePathStatePATH_WHOLE, []string{"x.ko"}, 4000, "/x.ko", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			raw := moduleFileRecord{Header: header(moduleRecordKindRECORD_READ_FILE), PathState: test.state, Components: test.count}
			for i, name := range test.components {
				copy(raw.Path[i][:], name)
			}
			got, err := Decode(bytesOf(raw))
			require.NoError(t, err)
			require.Equal(t, test.want, got.File.Path)
			require.Equal(t, test.truncated, got.File.Incomplete)
		})
	}
}

func TestDecodeLoadDataHasNoFile(t *testing.T) {
	raw := moduleFileRecord{Header: header(moduleRecordKindRECORD_LOAD_DATA), Id: 2, IsModule: 1, Size: 9, Inode: 77}
	copy(raw.Path[0][:], "left over")
	got, err := Decode(bytesOf(raw))
	require.NoError(t, err)
	require.Equal(t, &File{ID: 2, IsModule: true, Size: 9}, got.File)
}

func TestDecodeRefusesWhatIsNoRecord(t *testing.T) {
	_, err := Decode(nil)
	require.ErrorContains(t, err, "0 bytes")
	_, err = Decode(bytesOf(header(99)))
	require.EqualError(t, err, "decode record: unknown kind 99")
	_, err = Decode(bytesOf(header(moduleRecordKindRECORD_READ_FILE)))
	require.ErrorContains(t, err, "bytes where at least")
}

func FuzzDecode(f *testing.F) {
	f.Add(bytesOf(moduleFileRecord{Header: header(moduleRecordKindRECORD_READ_FILE), PathState: modulePathStatePATH_WHOLE, Components: 3}))
	f.Add(bytesOf(moduleModuleRecord{Header: header(moduleRecordKindRECORD_MODULE_LOAD), ParamsLen: 1 << 30}))
	f.Add(bytesOf(moduleSystemCallRecord{Header: header(moduleRecordKindRECORD_SYSTEM_CALL), Call: moduleSystemCallCALL_INIT_MODULE, ParamsLen: -1 << 31}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		record, err := Decode(raw)
		if err != nil {
			return
		}
		shifted, err := Decode(append([]byte{0}, raw...)[1:])
		require.NoError(t, err)
		require.Equal(t, record, shifted, "alignment must not matter")
	})
}
