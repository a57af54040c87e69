//go:build linux

package bpf

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unsafe"
)

// Kind identifies the hook that sent a [Record].
type Kind uint32

// The kinds of records.
const (
	SystemCall    = Kind(moduleRecordKindRECORD_SYSTEM_CALL)
	ReadFile      = Kind(moduleRecordKindRECORD_READ_FILE)
	LoadData      = Kind(moduleRecordKindRECORD_LOAD_DATA)
	ModuleLoad    = Kind(moduleRecordKindRECORD_MODULE_LOAD)
	ModuleFree    = Kind(moduleRecordKindRECORD_MODULE_FREE)
	ModuleRequest = Kind(moduleRecordKindRECORD_MODULE_REQUEST)
	ImageTaken    = Kind(moduleRecordKindRECORD_IMAGE)
	ProcessPath   = Kind(moduleRecordKindRECORD_PATH)
	ProcessArgs   = Kind(moduleRecordKindRECORD_CMDLINE)
	ParamsTaken   = Kind(moduleRecordKindRECORD_PARAMS)
)

var kindNames = map[Kind]string{
	SystemCall: "system_call", ReadFile: "security_kernel_read_file", LoadData: "security_kernel_load_data",
	ModuleLoad: "module_load", ModuleFree: "module_free", ModuleRequest: "module_request", ImageTaken: "image",
	ProcessPath: "path", ProcessArgs: "cmdline", ParamsTaken: "params",
}

// String returns the name of the kind.
func (k Kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("kind %d", uint32(k))
}

// Names of the system calls in [Call.Name].
const (
	InitModule   = "init_module"
	FinitModule  = "finit_module"
	DeleteModule = "delete_module"
)

var callNames = map[moduleSystemCall]string{
	moduleSystemCallCALL_INIT_MODULE:   InitModule,
	moduleSystemCallCALL_FINIT_MODULE:  FinitModule,
	moduleSystemCallCALL_DELETE_MODULE: DeleteModule,
}

// A Record is what one hook sent, with the kernel's own numbers. Strings are the
// host's bytes, unchanged.
type Record struct {
	Kind Kind
	// Boot is CLOCK_BOOTTIME when the hook ran.
	Boot time.Duration
	// Attempt is CLOCK_BOOTTIME when the thread Tid began the system call that the
	// record belongs to. Attempt and Tid identify the attempt within one boot.
	// Attempt is 0 if the beginning was not seen or the record belongs to no attempt.
	// ParentAttempt is the Attempt of the load, in the same thread, during which this
	// attempt was made.
	Attempt, ParentAttempt time.Duration
	// Context and Tid identify the ProcessPath and ProcessArgs records about this
	// record's process, which come before it. 0 if there are none.
	Context time.Duration
	// Request is the Attempt of the ModuleRequest, or of the load whose init started a
	// program, by the thread RequestTid, for which the kernel started this process or an
	// ancestor; 0 if there is none, or if it is unknown because that ancestor has ended.
	Request          time.Duration
	RequestTid       uint32
	IsRequestUnknown bool

	Pid, Tid, Parent     uint32 // in the initial pid namespace
	UID, EUID, GID, EGID uint32 // in the initial user namespace
	HasAUID              bool   // the kernel has CONFIG_AUDIT, so AUID and SessionID are set
	AUID, SessionID      uint32
	Capabilities         uint64 // effective, a bit each
	MntNS, PidNS, UserNS uint32 // inode numbers of the namespaces
	KernelThread         bool
	// Unread is the fields that the program could not read because the kernel is
	// locked down. They are empty.
	Unread Unread
	Comm   string

	// The one that Kind names is not nil.
	Call   *Call   // SystemCall
	File   *File   // ReadFile and, without a path, LoadData
	Module *Module // ModuleLoad, ModuleFree and, with a name only, ModuleRequest
	Image  *Image  // ImageTaken
	Path   *Path   // ProcessPath
	Args   *Args   // ProcessArgs
	Params *Text   // ParamsTaken: the parameters as the kernel took them
}

// Call is a system call that has returned.
type Call struct {
	Name   string // InitModule, FinitModule or DeleteModule
	Result int64  // 0 or -errno
	// HasArguments is whether the call's entry was seen. If not, Flags, Size, Params
	// and Module are empty.
	HasArguments bool
	Flags        uint64 // of finit_module and delete_module
	Size         uint64 // init_module's len
	Params       Text   // from the caller's memory; Missing if there is a ParamsTaken record
	Module       Text   // the name given to delete_module
	Verdict      *int64
	// Taken is whether the kernel took a module. Older builds recorded false.
	Taken bool
	// Device and Inode are those of finit_module's file if Taken is false: its bytes
	// may have been read for another call. 0 if they are unknown.
	Device uint32
	Inode  uint64
	// Denied identifies the calls like this one if it was refused with EPERM before
	// the kernel took a byte; nil otherwise.
	Denied *DeniedCalls
	// Canary is the value given to Programs.Canary if it made the call; 0 otherwise.
	Canary uint64
}

// Text is a string that the program read for the record.
type Text struct {
	Value     string
	Truncated bool // it did not fit
	Missing   bool // it could not be read
}

// File is the file or the buffer that the kernel is about to read.
type File struct {
	ID       uint32 // see Programs.ReadFileType and Programs.LoadDataType
	IsModule bool
	// HasArguments is whether the system call's entry was seen. If not, Flags is empty,
	// and so is the Size of LoadData.
	HasArguments bool
	Size         uint64 // bytes of the file, or init_module's len
	Flags        uint64 // finit_module's flags

	// The rest is empty for LoadData.
	Path         string // absolute, or relative where Incomplete
	Incomplete   bool   // Path lacks its beginning: it is too deep, or not in the thread's mount namespace
	Filesystem   string
	Device       uint32 // the kernel's own dev_t: major << 20 | minor
	Inode        uint64
	Links        uint32
	Unhashed     bool  // its name was removed
	InternalFS   bool  // on a mount of the kernel's own, as memfds are
	Mtime, Ctime int64 // Unix time in seconds
	CtimeNanos   int64 // nanoseconds within the second Ctime
}

// Module is the content of struct module.
type Module struct {
	Name       string
	Version    string
	Srcversion string
	Taints     uint64
	Params     Text // ModuleLoad only, and as in Call
	// SigOK is whether the signature was verified with a key that the kernel trusts;
	// nil if the kernel does not verify signatures.
	SigOK *bool
	// Verdict is the result of mod_verify_sig for the attempt, 0 or -errno; nil if it
	// did not run or was not seen.
	Verdict *int64
}

// RingSize is the number of bytes that a record of a length takes in the ring buffer,
// with its header of eight bytes and padding to eight bytes.
func RingSize(length int) int { return 8 + (length+7)&^7 }

// Decode decodes a record from a ring buffer. It does not retain raw.
func Decode(raw []byte) (Record, error) {
	header, err := view[moduleRecordHeader](raw)
	if err != nil {
		return Record{}, err
	}
	record := Record{
		Kind:          Kind(header.Kind),
		Boot:          time.Duration(header.BootNs),
		Attempt:       time.Duration(header.AttemptNs),
		ParentAttempt: time.Duration(header.ParentAttemptNs),
		Pid:           header.Pid,
		Tid:           header.Tid,
		Parent:        header.Parent,
		UID:           header.Uid,
		EUID:          header.Euid,
		GID:           header.Gid,
		EGID:          header.Egid,
		HasAUID:       header.HasAuid != 0,
		AUID:          header.Auid,
		SessionID:     header.SessionId,
		Context:       time.Duration(header.ContextNs),
		Request:       time.Duration(header.RequestNs),
		RequestTid:    header.RequestTid,
		Capabilities:  header.Capabilities,
		MntNS:         header.MntNs,
		PidNS:         header.PidNs,
		UserNS:        header.UserNs,
		KernelThread:  header.Kthread != 0,
		Unread:        Unread(header.Unread),
		Comm:          text(header.Comm[:]),
	}
	record.IsRequestUnknown = record.Request == 0 && record.RequestTid != 0
	switch record.Kind {
	case SystemCall:
		record.Call, err = decodeCall(raw)
	case ReadFile, LoadData:
		record.File, err = decodeFile(raw)
	case ModuleLoad, ModuleFree, ModuleRequest:
		record.Module, err = decodeModule(raw)
	case ImageTaken:
		record.Image, err = decodeImage(raw)
	case ProcessPath:
		record.Path, err = decodeProcessPath(raw)
	case ProcessArgs:
		record.Args, err = decodeArgs(raw)
	case ParamsTaken:
		record.Params, err = decodeParams(raw)
	default:
		err = fmt.Errorf("decode record: unknown kind %d", header.Kind)
	}
	return record, err
}

func decodeCall(raw []byte) (*Call, error) {
	r, err := view[moduleSystemCallRecord](raw)
	if err != nil {
		return nil, err
	}
	name, ok := callNames[r.Call]
	if !ok {
		return nil, fmt.Errorf("decode record: unknown system call %d", r.Call)
	}
	call := &Call{
		Name: name, Result: r.Result, HasArguments: r.HasArguments != 0, Flags: r.Flags, Size: r.Size,
		Verdict: verdict(r.Verified, r.Verdict), Taken: r.Header.Taken != 0,
	}
	switch r.Denied {
	case 0:
		call.Device, call.Inode = r.Device, r.Inode
	case canary:
		call.Canary = r.Size
	default:
		call.Denied = &DeniedCalls{key: moduleDeniedKey{
			ExeInode: r.Inode, ExeDevice: r.Device, Call: r.Call, Uid: r.Header.Uid, Euid: r.Header.Euid,
		}}
	}
	if call.Name == DeleteModule {
		call.Module = counted(r.Name[:], r.NameLen)
	} else {
		call.Params = counted(r.Params[:], r.ParamsLen)
	}
	return call, nil
}

func decodeModule(raw []byte) (*Module, error) {
	r, err := view[moduleModuleRecord](raw)
	if err != nil {
		return nil, err
	}
	module := &Module{
		Name:       text(r.Name[:]),
		Version:    text(r.Version[:]),
		Srcversion: text(r.Srcversion[:]),
		Taints:     r.Taints,
		Params:     counted(r.Params[:], r.ParamsLen),
		Verdict:    verdict(r.Verified, r.Verdict),
	}
	if r.SigOk != moduleSigOkSIG_OK_UNKNOWN {
		module.SigOK = new(r.SigOk == moduleSigOkSIG_OK_YES)
	}
	return module, nil
}

func decodeParams(raw []byte) (*Text, error) {
	r, err := view[moduleParamsRecord](raw)
	if err != nil {
		return nil, err
	}
	return new(counted(r.Params[:], r.ParamsLen)), nil
}

func verdict(verified uint32, errno int32) *int64 {
	if verified == 0 {
		return nil
	}
	return new(int64(errno))
}

func decodeFile(raw []byte) (*File, error) {
	var room moduleFileRecord
	r, err := prefix(&room, raw, int(unsafe.Offsetof(moduleFileRecord{}.Path)+unsafe.Offsetof(moduleFileRecord{}.Path.Component)))
	if err != nil {
		return nil, err
	}
	file := &File{ID: r.Id, IsModule: r.IsModule != 0, HasArguments: r.HasArguments != 0, Size: r.Size, Flags: r.Flags}
	if r.Path.State == modulePathStatePATH_NONE {
		return file, nil
	}
	file.Filesystem = text(r.Filesystem[:])
	file.Device = r.Device
	file.Inode = r.Inode
	file.Links = r.Links
	file.Unhashed = r.Unhashed != 0
	file.InternalFS = r.MntInternal != 0
	file.Mtime = r.Mtime
	file.Ctime = r.Ctime
	file.CtimeNanos = int64(r.CtimeNsec &^ ctimeQueried)
	file.Path, file.Incomplete = path(r.Path.State, r.Path.Components, &r.Path.Component)
	return file, nil
}

// ctimeQueried is the bit of the inode's i_ctime_nsec by which kernels from 6.13 on
// note that it was read (I_CTIME_QUERIED, include/linux/fs.h).
const ctimeQueried = 1 << 31

// maxPath is PATH_MAX (include/uapi/linux/limits.h). Paths can be longer, because a
// process can change its directory step by step; their beginning is left out.
const maxPath = 4096

// path joins the components of a walk, which come last first. The path is incomplete
// and relative if the walk did not reach a root.
func path(state modulePathState, used uint32, components *[32][256]uint8) (_ string, incomplete bool) {
	var names []string
	for i := min(int(used), len(components)) - 1; i >= 0; i-- {
		if name := text(components[i][:]); name != "" {
			names = append(names, name)
		}
	}
	joined := strings.Join(names, "/")
	if len(joined) > maxPath {
		return joined[len(joined)-maxPath:], true
	}
	switch state {
	case modulePathStatePATH_NONE:
		return "", false
	case modulePathStatePATH_WHOLE, modulePathStatePATH_DETACHED:
		return "/" + joined, false
	}
	return joined, true
}

// view returns raw as a T.
func view[T any](raw []byte) (*T, error) {
	return prefix[T](nil, raw, int(unsafe.Sizeof(*new(T))))
}

// prefix returns raw as a T of which at least the first fixed bytes were sent. The rest
// is zero. If raw is shorter, or not aligned to eight bytes, prefix copies it to whole,
// which is zero, or nil for a new one.
func prefix[T any](whole *T, raw []byte, fixed int) (*T, error) {
	if len(raw) < fixed {
		return nil, fmt.Errorf("decode record: %d bytes where at least %d are due", len(raw), fixed)
	}
	start := unsafe.Pointer(unsafe.SliceData(raw))
	if len(raw) >= int(unsafe.Sizeof(*whole)) && uintptr(start)%8 == 0 {
		return (*T)(start), nil
	}
	if whole == nil {
		whole = new(T)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(whole)), unsafe.Sizeof(*whole)), raw)
	return whole, nil
}

func text(raw []byte) string {
	if end := bytes.IndexByte(raw, 0); end >= 0 {
		raw = raw[:end]
	}
	return string(raw)
}

// counted decodes the result of bpf_probe_read_user_str or _kernel_str: the string's
// length with its NUL, 0 for an empty string (kernels before 7.x), or a negative
// number if there was none or it could not be read.
func counted(raw []byte, length int32) Text {
	switch {
	case length < 0:
		return Text{Missing: true}
	case int(length) >= len(raw):
		return Text{Value: text(raw), Truncated: true}
	default:
		return Text{Value: text(raw)}
	}
}
