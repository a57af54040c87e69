//go:build linux

package ebpf

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/module"
)

// typeNames names the values of File.ID on the running kernel.
type typeNames interface {
	ReadFileType(id uint32) string
	LoadDataType(id uint32) string
}

// A translator converts records to events. It has no state: callers pass the wall
// clock's time at which the kernel's boot clock was zero.
type translator struct {
	bootID string
	types  typeNames
}

// blank returns an event that has only its time.
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

// event builds an event from a record and the process of its attempt.
func (t translator) event(r bpf.Record, p *process, bootTime time.Time) kmodquery.Event {
	e := t.blank(r.Boot, bootTime)
	e.Pid = number(r.Pid)
	e.Tid = number(r.Tid)
	e.ProcessName = r.Comm
	e.UID = number(r.UID)
	e.GID = number(r.GID)
	t.task(&e, r)
	e.ParentLoadID = cmp.Or(
		t.loadID(attemptID{r.ParentAttempt, r.Tid}), t.loadID(attemptID{r.Request, r.RequestTid}))
	if r.Attempt == 0 && (r.File == nil || r.File.IsModule) { // other files need no attempt
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
	p.describe(&e, r.KernelThread)
	return e
}

// task sets the columns that come from struct task_struct.
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

// buffer returns the origin of a module that init_module takes. Kernel threads and
// the init of another module call the kernel's function directly.
func buffer(e *kmodquery.Event, r bpf.Record) string {
	if r.Unread.Has(bpf.UnreadTask) && r.ParentAttempt == 0 {
		e.Missing.Add("origin") // the caller may be a kernel thread
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
	if c.Name == bpf.InitModule {
		e.Size = argument(e, "size", c.HasArguments, c.Size)
	} else {
		e.Flags = argument(e, "flags", c.HasArguments, c.Flags)
	}
	if c.Inode != 0 {
		e.Device, e.Inode = number(device(&bpf.File{Device: c.Device})), number(c.Inode)
	}
	if c.Name != bpf.DeleteModule {
		e.Type = kmodquery.TypeKernelModule
		e.Params = params(e, c.Params)
		return
	}
	e.Name = c.Module.Value
	if c.Module.Missing || c.Module.Truncated {
		e.Missing.Add("name")
	}
}

func file(e *kmodquery.Event, f *bpf.File) {
	e.Path = f.Path
	if f.Incomplete {
		e.Missing.Add("path")
	}
	// A memfd is unlinked and on the kernel's internal tmpfs mount. Its name alone
	// proves nothing.
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

// texts adds the columns to Missing that a locked-down kernel does not let the
// programs read. The image may provide them.
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
	if text.Missing || text.Truncated {
		e.Missing.Add("params")
	}
	if text.Missing {
		return nil
	}
	return &text.Value
}

// loadID returns the load_id of an attempt: the same each time that its records are
// read, and unique across attempts, boots and hosts. It is empty for a zero id.
func (t translator) loadID(id attemptID) string {
	if id.begin == 0 {
		return ""
	}
	key := []byte(t.bootID)
	key = binary.LittleEndian.AppendUint64(key, uint64(id.begin))
	key = binary.LittleEndian.AppendUint32(key, id.tid)
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// argument returns an argument of a system call. It is nil, and in Missing, if the
// call's entry was not seen or the value is too large to be valid.
func argument(e *kmodquery.Event, column string, known bool, value uint64) *int64 {
	if !known || value > math.MaxInt64 {
		e.Missing.Add(column)
		return nil
	}
	return number(value)
}

func number[T ~uint32 | ~uint64](n T) *int64 { return new(int64(n)) }
