//go:build linux

package bpf

import (
	"strings"
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
		ContextNs: 8, RequestNs: 12, RequestTid: 13, Capabilities: 1 << 40, MntNs: 14, PidNs: 15, UserNs: 16,
	}
	copy(h.Comm[:], "insmod")
	return h
}

func wantHeader(kind Kind) Record {
	return Record{
		Kind: kind, Boot: 5 * time.Nanosecond, Attempt: 3, ParentAttempt: 2, Pid: 10, Tid: 11, Parent: 9,
		UID: 1, EUID: 2, GID: 3, EGID: 4, HasAUID: true, AUID: 6, SessionID: 7, Comm: "insmod",
		Context: 8, Request: 12, RequestTid: 13, Capabilities: 1 << 40, MntNS: 14, PidNS: 15, UserNS: 16,
	}
}

func TestDecodeUnknownRequest(t *testing.T) {
	for _, header := range []moduleRecordHeader{
		{RequestNs: 12, RequestTid: 13}, {}, {RequestTid: 1},
	} {
		header.Kind = moduleRecordKindRECORD_PARAMS
		raw := moduleParamsRecord{Header: header}
		got, err := Decode(bytesOf(raw))
		require.NoError(t, err)
		require.Equal(t, header.RequestNs == 0 && header.RequestTid != 0, got.IsRequestUnknown)
	}
}

func TestDecodeHeader(t *testing.T) {
	raw := moduleImageRecord{Header: header(moduleRecordKindRECORD_IMAGE)}
	raw.Header.Kthread, raw.Header.HasAuid = 2, 0
	for i := range raw.Header.Comm {
		raw.Header.Comm[i] = 'c'
	}
	want := wantHeader(ImageTaken)
	want.KernelThread, want.HasAUID, want.Comm, want.Image = true, false, strings.Repeat("c", 16), &Image{Attempt: 3}
	got, err := Decode(bytesOf(raw))
	require.NoError(t, err)
	require.Equal(t, want, got)
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

	raw.Header.Taken, raw.Inode, raw.Device = 1, 1<<40, 5
	got, err = Decode(bytesOf(raw))
	require.NoError(t, err)
	require.True(t, got.Call.Taken)
	require.EqualValues(t, 1<<40, got.Call.Inode)
	require.EqualValues(t, 5, got.Call.Device)

	raw.Call = 9
	_, err = Decode(bytesOf(raw))
	require.EqualError(t, err, "decode record: unknown system call 9")
}

func TestDecodeVerdict(t *testing.T) {
	tests := []struct {
		name     string
		verified uint32
		verdict  int32
		want     *int64
	}{
		{"it did not run", 0, 0, nil},
		{"left over", 0, -74, nil},
		{"verified", 1, 0, new(int64(0))},
		{"refused", 1, -126, new(int64(-126))},
		{"any number is true", 256, -126, new(int64(-126))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			call, err := Decode(bytesOf(moduleSystemCallRecord{
				Header: header(moduleRecordKindRECORD_SYSTEM_CALL), Call: moduleSystemCallCALL_INIT_MODULE,
				Verified: test.verified, Verdict: test.verdict,
			}))
			require.NoError(t, err)
			require.Equal(t, test.want, call.Call.Verdict)
			load, err := Decode(bytesOf(moduleModuleRecord{
				Header: header(moduleRecordKindRECORD_MODULE_LOAD), Verified: test.verified, Verdict: test.verdict,
			}))
			require.NoError(t, err)
			require.Equal(t, test.want, load.Module.Verdict)
		})
	}
}

func TestDecodeSigOK(t *testing.T) {
	for raw, want := range map[moduleSigOk]*bool{
		moduleSigOkSIG_OK_UNKNOWN: nil, moduleSigOkSIG_OK_NO: new(false), moduleSigOkSIG_OK_YES: new(true),
		99: new(false), // nothing but yes is trusted
	} {
		got, err := Decode(bytesOf(moduleModuleRecord{Header: header(moduleRecordKindRECORD_MODULE_LOAD), SigOk: raw}))
		require.NoError(t, err)
		require.Equal(t, want, got.Module.SigOK, raw)
	}
}

// What the kernel counts as one kind of denied calls must be one here too.
func TestDecodeDenied(t *testing.T) {
	raw := moduleSystemCallRecord{
		Header: header(moduleRecordKindRECORD_SYSTEM_CALL), Call: moduleSystemCallCALL_INIT_MODULE, Result: -1,
		Inode: 1 << 40, Device: 5,
	}
	decode := func(change func(*moduleSystemCallRecord)) *DeniedCalls {
		changed := raw
		change(&changed)
		got, err := Decode(bytesOf(changed))
		require.NoError(t, err)
		return got.Call.Denied
	}
	require.Nil(t, decode(func(*moduleSystemCallRecord) {}), "a module's init that returned EPERM is no denied call")

	raw.Denied = 1
	one := decode(func(*moduleSystemCallRecord) {})
	require.Equal(t, &DeniedCalls{key: moduleDeniedKey{
		ExeInode: 1 << 40, ExeDevice: 5, Call: moduleSystemCallCALL_INIT_MODULE, Uid: 1, Euid: 2,
	}}, one)
	for name, c := range map[string]struct {
		change func(*moduleSystemCallRecord)
		isSame bool
	}{
		"process":    {func(r *moduleSystemCallRecord) { r.Header.Pid, r.Header.Tid, r.Header.AttemptNs = 99, 99, 99 }, true},
		"group":      {func(r *moduleSystemCallRecord) { r.Header.Gid, r.Header.Egid = 99, 99 }, true},
		"arguments":  {func(r *moduleSystemCallRecord) { r.Size, r.Flags = 99, 99 }, true},
		"user":       {func(r *moduleSystemCallRecord) { r.Header.Uid++ }, false},
		"effective":  {func(r *moduleSystemCallRecord) { r.Header.Euid++ }, false},
		"inode":      {func(r *moduleSystemCallRecord) { r.Inode++ }, false},
		"device":     {func(r *moduleSystemCallRecord) { r.Device++ }, false},
		"other call": {func(r *moduleSystemCallRecord) { r.Call = moduleSystemCallCALL_FINIT_MODULE }, false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.isSame, *one == *decode(c.change))
		})
	}
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

func TestDecodeParams(t *testing.T) {
	tests := []struct {
		name, text string
		length     int32
		want       Text
	}{
		{"none", "\x00left over", 1, Text{}},
		{"one", "a=1\x00left over", 4, Text{Value: "a=1"}},
		{"unreadable", "left over", -14, Text{Missing: true}},
		{"cut", strings.Repeat("p", 1023) + "\x00", 1024, Text{Value: strings.Repeat("p", 1023), Truncated: true}},
		{"no end", strings.Repeat("p", 1024), 1 << 30, Text{Value: strings.Repeat("p", 1024), Truncated: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			raw := moduleParamsRecord{Header: header(moduleRecordKindRECORD_PARAMS), ParamsLen: test.length}
			copy(raw.Params[:], test.text)
			want := wantHeader(ParamsTaken)
			want.Params = &test.want
			got, err := Decode(bytesOf(raw))
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

// walks are paths as they travel, the file first, and what they are.
var walks = []struct {
	name       string
	state      modulePathState
	components []string
	used       uint32
	want       string
	incomplete bool
}{
	{"a file on one mount", modulePathStatePATH_WHOLE, []string{"x.ko", "tmp"}, 2, "/tmp/x.ko", false},
	{"across a mount", modulePathStatePATH_WHOLE, []string{"x.ko", "", "mnt"}, 3, "/mnt/x.ko", false},
	{"slots that are not in use", modulePathStatePATH_WHOLE, []string{"x.ko", "tmp", "stale"}, 2, "/tmp/x.ko", false},
	{"the root", modulePathStatePATH_WHOLE, nil, 0, "/", false},
	{"memfd", modulePathStatePATH_DETACHED, []string{"memfd:x"}, 1, "/memfd:x", false},
	{"deeper than the record", modulePathStatePATH_TRUNCATED, []string{"x.ko", "a"}, 32, "a/x.ko", true},
	{"as deep as the record", modulePathStatePATH_WHOLE, strings.Split("x.ko"+strings.Repeat(" a", 31), " "), 32,
		strings.Repeat("/a", 31) + "/x.ko", false},
	{"on a mount of its own", modulePathStatePATH_UNREACHABLE, []string{"dummy.ko", "modules", "lib"}, 3, "lib/modules/dummy.ko", true},
	{"the root of a mount of its own", modulePathStatePATH_UNREACHABLE, nil, 0, "", true},
	{"a count out of range", modulePathStatePATH_WHOLE, []string{"x.ko"}, 4000, "/x.ko", false},
	{"a state that there is not", 99, []string{"x.ko", "tmp"}, 2, "tmp/x.ko", true},
	{"the longest name", modulePathStatePATH_WHOLE, []string{strings.Repeat("n", 255)}, 1, "/" + strings.Repeat("n", 255), false},
	{"a name without an end", modulePathStatePATH_WHOLE, []string{strings.Repeat("n", 256)}, 1, "/" + strings.Repeat("n", 256), false},
	{"no text at all", modulePathStatePATH_WHOLE, []string{"\xff\n"}, 1, "/\xff\n", false},
}

const componentLen = len(moduleFileRecord{}.Path.Component[0])

// sent is a record as far as it is sent: to the end of the last component in use.
func sent[T any](record T, used uint32) []byte {
	var none moduleFileRecord
	all := len(none.Path.Component)
	return bytesOf(record)[:int(unsafe.Sizeof(record))-(all-min(int(used), all))*componentLen]
}

func TestDecodePaths(t *testing.T) {
	for _, test := range walks {
		t.Run(test.name, func(t *testing.T) {
			raw := moduleFileRecord{Header: header(moduleRecordKindRECORD_READ_FILE)}
			raw.Path.State, raw.Path.Components = test.state, test.used
			for i, name := range test.components {
				copy(raw.Path.Component[i][:], name)
			}
			for name, bytes := range map[string][]byte{"whole": bytesOf(raw), "as far as it is sent": sent(raw, test.used)} {
				got, err := Decode(bytes)
				require.NoError(t, err, name)
				require.Equal(t, test.want, got.File.Path, name)
				require.Equal(t, test.incomplete, got.File.Incomplete, name)
			}
		})
	}
}

func TestDecodeFile(t *testing.T) {
	raw := moduleFileRecord{
		Header: header(moduleRecordKindRECORD_READ_FILE), Inode: 1 << 40, Size: 2, Flags: 4, Mtime: -5, Ctime: 6, CtimeNsec: 1<<31 | 7,
		Id: 8, IsModule: 1, Device: 9, Links: 10, Unhashed: 1, MntInternal: 1, HasArguments: 1,
	}
	copy(raw.Filesystem[:], "ext4\x00left over")
	raw.Path.State, raw.Path.Components = modulePathStatePATH_WHOLE, 1
	copy(raw.Path.Component[0][:], "x.ko")
	want := wantHeader(ReadFile)
	want.File = &File{
		ID: 8, IsModule: true, HasArguments: true, Size: 2, Flags: 4, Path: "/x.ko", Filesystem: "ext4", Device: 9,
		Inode: 1 << 40, Links: 10, Unhashed: true, InternalFS: true, Mtime: -5, Ctime: 6, CtimeNanos: 7,
	}
	got, err := Decode(sent(raw, 1))
	require.NoError(t, err)
	require.Equal(t, want, got)

	short := sent(raw, 0)
	_, err = Decode(short[:len(short)-1])
	require.ErrorContains(t, err, "bytes where at least")
}

func TestDecodeLoadDataHasNoFile(t *testing.T) {
	raw := moduleFileRecord{Header: header(moduleRecordKindRECORD_LOAD_DATA), Id: 2, IsModule: 1, Size: 9, Inode: 77}
	copy(raw.Path.Component[0][:], "left over")
	for _, bytes := range [][]byte{bytesOf(raw), sent(raw, 0)} {
		got, err := Decode(bytes)
		require.NoError(t, err)
		require.Equal(t, &File{ID: 2, IsModule: true, Size: 9}, got.File)
	}
}

func TestDecodeRefusesWhatIsNoRecord(t *testing.T) {
	_, err := Decode(nil)
	require.ErrorContains(t, err, "0 bytes")
	_, err = Decode(bytesOf(header(99)))
	require.EqualError(t, err, "decode record: unknown kind 99")
	for kind := SystemCall; kind <= ParamsTaken; kind++ {
		_, err = Decode(bytesOf(header(moduleRecordKind(kind))))
		require.ErrorContains(t, err, "bytes where at least", kind)
	}
}

func FuzzDecode(f *testing.F) {
	file := moduleFileRecord{Header: header(moduleRecordKindRECORD_READ_FILE)}
	file.Path.State, file.Path.Components = modulePathStatePATH_WHOLE, 3
	f.Add(bytesOf(file))
	f.Add(sent(file, 3))
	f.Add(sent(moduleFileRecord{Header: header(moduleRecordKindRECORD_LOAD_DATA)}, 0))
	for _, kind := range []moduleRecordKind{moduleRecordKindRECORD_MODULE_LOAD, moduleRecordKindRECORD_MODULE_FREE, moduleRecordKindRECORD_MODULE_REQUEST} {
		f.Add(bytesOf(moduleModuleRecord{Header: header(kind), ParamsLen: 1 << 30, SigOk: 7, Verified: 1}))
	}
	for call := range callNames {
		f.Add(bytesOf(moduleSystemCallRecord{Header: header(moduleRecordKindRECORD_SYSTEM_CALL), Call: call, ParamsLen: -1 << 31, NameLen: 1 << 30, Denied: 1}))
	}
	f.Add(bytesOf(moduleImageRecord{Header: header(moduleRecordKindRECORD_IMAGE), Size: 1 << 63, State: moduleImageStateIMAGE_WHOLE}))
	path := modulePathRecord{Header: header(moduleRecordKindRECORD_PATH)}
	path.Path.State, path.Path.Components = modulePathStatePATH_TRUNCATED, 1<<32-1
	for role := range 5 {
		path.Role = modulePathRole(role)
		f.Add(sent(path, 1))
	}
	args := moduleCmdlineRecord{Header: header(moduleRecordKindRECORD_CMDLINE), Len: 1<<64 - 1}
	f.Add(bytesOf(args))
	f.Add(bytesOf(args)[:int(unsafe.Offsetof(args.Cmdline))+9])
	f.Add(bytesOf(moduleParamsRecord{Header: header(moduleRecordKindRECORD_PARAMS), ParamsLen: 1 << 30}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		record, err := Decode(raw)
		if err != nil {
			return
		}
		subjects := 0
		for _, has := range []bool{
			record.Call != nil, record.File != nil, record.Module != nil, record.Image != nil, record.Path != nil, record.Args != nil, record.Params != nil,
		} {
			if has {
				subjects++
			}
		}
		require.Equal(t, 1, subjects, "a record is about one thing")

		kept := append([]byte{0}, raw...)[1:]
		shifted, err := Decode(kept)
		require.NoError(t, err)
		require.Equal(t, record, shifted, "alignment must not matter")
		clear(kept)
		require.Equal(t, record, shifted, "nothing of raw is kept")
	})
}

// BenchmarkDecodePath decodes the record of a path of usual depth, of which a load sends
// five to twenty.
func BenchmarkDecodePath(b *testing.B) {
	record := modulePathRecord{Header: header(moduleRecordKindRECORD_PATH), Role: modulePathRoleROLE_EXE}
	record.Path.State, record.Path.Components = modulePathStatePATH_WHOLE, 3
	for i, name := range []string{"insmod", "bin", "usr"} {
		copy(record.Path.Component[i][:], name)
	}
	raw := sent(record, 3)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(raw); err != nil {
			b.Fatal(err)
		}
	}
}
