//go:build linux

package ebpf

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"time"

	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/module"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
)

// typeNames names the numbers of a record's File.ID on the running kernel.
type typeNames interface {
	ReadFileType(id uint32) string
	LoadDataType(id uint32) string
}

// A translator makes events of records. It is pure: the moment at which the
// kernel's boot clock stood at zero is given to it.
type translator struct {
	bootID string
	types  typeNames
}

// blank is an event that says no more than when it was.
func (t translator) blank(boot time.Duration, bootTime time.Time) kmodquery.Event {
	at := bootTime.Add(boot)
	return kmodquery.Event{
		Time:      at.Unix(),
		TimeNanos: at.UnixNano(),
		Uptime:    new(int64(boot / time.Second)),
		BootID:    t.bootID,
		Source:    kmodquery.SourceEBPF,
		Count:     new(int64(1)),
	}
}

// event says what one record says, and what others said of its process, which
// is nil where there were none.
func (t translator) event(r bpf.Record, p *process, bootTime time.Time) kmodquery.Event {
	e := t.blank(r.Boot, bootTime)
	e.Pid = number(r.Pid)
	e.Tid = number(r.Tid)
	e.ProcessName = r.Comm
	e.UID = number(r.UID)
	e.GID = number(r.GID)
	t.task(&e, r)
	e.LoadID = t.loadID(r.Attempt, r.Tid)
	e.ParentLoadID = t.loadID(r.ParentAttempt, r.Tid)
	if e.ParentLoadID == "" {
		e.ParentLoadID = t.loadID(r.Request, r.RequestTid)
	}
	if e.LoadID == "" && belongsToAttempt(r) {
		e.Missing.Add("load_id")
	}
	if r.File != nil && r.File.IsModule {
		texts(&e, r)
	}
	switch r.Kind {
	case bpf.SystemCall:
		t.call(&e, r.Call)
		if r.Call.Name != bpf.DeleteModule && r.Call.HasArguments {
			texts(&e, r)
		}
		if r.Call.Name == bpf.InitModule {
			e.Origin = buffer(&e, r)
		}
	case bpf.ReadFile:
		e.EventName = kmodquery.EventSecurityKernelReadFile
		e.Type = t.types.ReadFileType(r.File.ID)
		file(&e, r.File)
		if r.Unread.Has(bpf.UnreadUntyped) {
			e.Missing.Add("filesystem")
		}
	case bpf.LoadData:
		e.EventName = kmodquery.EventSecurityKernelLoadData
		e.Type = t.types.LoadDataType(r.File.ID)
		if r.File.IsModule {
			e.Origin = buffer(&e, r)
			e.Size = argument(&e, "size", r.File.HasArguments, r.File.Size)
		}
	case bpf.ModuleLoad:
		e.EventName = kmodquery.EventModuleLoad
		live(&e, r)
		e.Params = params(&e, r.Module.Params)
		e.SignatureStatus = module.SignatureStatus(r.Module.Verdict, r.Module.SigOK, nil)
	case bpf.ModuleFree:
		e.EventName = kmodquery.EventModuleFree
		live(&e, r)
	case bpf.ModuleRequest:
		e.EventName = kmodquery.EventModuleRequest
		e.Name = r.Module.Name
		if r.Unread.Has(bpf.UnreadUntyped) {
			e.Missing.Add("name")
		}
	}
	if p == nil {
		p = &process{}
	}
	p.describe(&e, r.KernelThread)
	return e
}

// task is what struct task_struct says, as far as it could be read.
func (t translator) task(e *kmodquery.Event, r bpf.Record) {
	if r.Unread.Has(bpf.UnreadUntyped) {
		e.Missing.Add("pid_ns", "cgroup", "container_id", "requested_by")
	} else {
		e.PidNS = number(r.PidNS)
	}
	if r.Unread.Has(bpf.UnreadTask) {
		e.Missing.Add("parent", "euid", "egid", "auid", "session_id", "capabilities", "mnt_ns", "user_ns")
		return
	}
	e.Parent = number(r.Parent)
	e.EUID = number(r.EUID)
	e.EGID = number(r.EGID)
	e.Capabilities = argument(e, "capabilities", true, r.Capabilities)
	e.MntNS = number(r.MntNS)
	e.UserNS = number(r.UserNS)
	if r.HasAUID {
		e.AUID = number(r.AUID)
		e.SessionID = number(r.SessionID)
	}
}

// buffer is the origin of a module that init_module takes. The kernel's own
// threads and another module's init are no callers of system calls.
func buffer(e *kmodquery.Event, r bpf.Record) string {
	if r.Unread.Has(bpf.UnreadTask) && r.ParentAttempt == 0 {
		e.Missing.Add("origin") // it may be the kernel's
	}
	if r.KernelThread || r.ParentAttempt != 0 {
		return kmodquery.OriginKernel
	}
	return kmodquery.OriginMemory
}

func (t translator) call(e *kmodquery.Event, c *bpf.Call) {
	e.EventName = c.Name
	e.Result = new(c.Result)
	e.SignatureStatus = module.SignatureStatus(c.Verdict, nil, e.Result)
	e.Error = host.ErrnoName(c.Result)
	switch c.Name {
	case bpf.InitModule:
		e.Type = kmodquery.TypeKernelModule
		e.Size = argument(e, "size", c.HasArguments, c.Size)
		e.Params = params(e, c.Params)
	case bpf.FinitModule:
		e.Type = kmodquery.TypeKernelModule
		e.Flags = argument(e, "flags", c.HasArguments, c.Flags)
		e.Params = params(e, c.Params)
	case bpf.DeleteModule:
		e.Flags = argument(e, "flags", c.HasArguments, c.Flags)
		e.Name = c.Module.Value
		if c.Module.Missing || c.Module.Truncated {
			e.Missing.Add("name")
		}
	}
}

func file(e *kmodquery.Event, f *bpf.File) {
	e.Path = f.Path
	if f.Incomplete {
		e.Missing.Add("path")
	}
	// A memfd lies unlinked on the kernel's own tmpfs mount; elsewhere its
	// name proves nothing.
	switch {
	case f.InternalFS && f.Links == 0:
		e.Origin = kmodquery.OriginMemfd
	case f.Unhashed || f.Links == 0:
		e.Origin = kmodquery.OriginDeleted
	default:
		e.Origin = kmodquery.OriginFile
	}
	e.Filesystem = f.Filesystem
	e.Device = number(device(f))
	e.Inode = number(f.Inode)
	e.Size = number(f.Size)
	e.Mtime = new(f.Mtime)
	e.Ctime = new(f.Ctime)
	if f.IsModule {
		e.Flags = argument(e, "flags", f.HasArguments, f.Flags)
	}
}

// texts names those of a module that only its image may tell.
func texts(e *kmodquery.Event, r bpf.Record) {
	if r.Unread.Has(bpf.UnreadUntyped) {
		e.Missing.Add("version", "srcversion")
	}
}

func live(e *kmodquery.Event, r bpf.Record) {
	m := r.Module
	e.Type = kmodquery.TypeKernelModule
	texts(e, r)
	e.Name = m.Name
	e.Version = m.Version
	e.Srcversion = m.Srcversion
	e.Taints = number(m.Taints)
}

func params(e *kmodquery.Event, text bpf.Text) *string {
	if text.Missing {
		e.Missing.Add("params")
		return nil
	}
	if text.Truncated {
		e.Missing.Add("params")
	}
	return &text.Value
}

// loadID names an attempt: the same on every delivery of its records, and
// never the same for another attempt, another boot or another host.
func (t translator) loadID(attempt time.Duration, tid uint32) string {
	if attempt == 0 {
		return ""
	}
	key := []byte(t.bootID)
	key = binary.LittleEndian.AppendUint64(key, uint64(attempt))
	key = binary.LittleEndian.AppendUint32(key, tid)
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// belongsToAttempt reports whether a record of this kind always has an attempt
// whose beginning could have been seen.
func belongsToAttempt(r bpf.Record) bool {
	switch r.Kind {
	case bpf.ReadFile, bpf.LoadData:
		return r.File.IsModule
	default:
		return true
	}
}

// argument is a system call's argument, unknown where its entry was not seen or
// where it is too large to be true.
func argument(e *kmodquery.Event, column string, known bool, value uint64) *int64 {
	if !known || value > math.MaxInt64 {
		e.Missing.Add(column)
		return nil
	}
	return number(value)
}

func number[T ~uint32 | ~uint64](n T) *int64 { return new(int64(n)) }
