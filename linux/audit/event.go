//go:build linux

package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/audit/record"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/module"
)

const (
	// maxRaw bounds the raw column, in bytes.
	maxRaw = 16 << 10
	// maxProctitle is the length in bytes to which the kernel truncates a PROCTITLE
	// (kernel/auditsc.c, MAX_PROCTITLE_AUDIT_LEN).
	maxProctitle = 128
)

// Columns that the eBPF source fills for every call, for every load, and for the
// module's file, and that no audit record has.
var (
	missingAlways = []string{"tid", "capabilities", "ancestors", "cgroup", "container_id", "mnt_ns", "pid_ns", "user_ns"}
	missingOfLoad = []string{"params", "requested_by"}
	missingOfFile = []string{"path", "origin", "filesystem", "device", "inode", "size", "mtime", "ctime"}
)

// A translator converts audit's events. It is pure.
type translator struct {
	bootID   string
	bootTime time.Time // the wall clock's time when the boot clock was zero
	// isLive is set if the records come from the kernel, and so are of this boot. A host
	// without a clock gives those before the first step of NTP the time of an earlier one.
	isLive bool
}

// event converts an event.
func (t translator) event(from record.Event) kmodquery.Event {
	at := from.ID.Time()
	e := kmodquery.Event{
		Time: at.Unix(), TimeNanos: at.UnixNano(),
		EventName: from.Call, Source: kmodquery.SourceAudit,
		Count: new(int64(1)),
		Raw:   rawText(&from),
	}
	t.boot(&e, at)
	e.LoadID = t.loadID(from.ID, e.BootID)
	e.Missing.Add(missingAlways...)
	call := from.Records[0].Fields
	setProcess(&e, call)
	e.Result = setNumber(&e, "result", call, "exit")
	if e.Result != nil {
		e.Error = host.ErrnoName(*e.Result)
	}
	hasModule := setName(&e, &from)
	setArguments(&e, call)
	e.Cmdline = cmdline(&e, &from)
	if cwd, ok := from.First(auparse.AUDIT_CWD); ok {
		e.Cwd, _ = cwd.Fields.Text("cwd")
	}
	if e.Cwd == "" {
		e.Missing.Add("cwd")
	}
	if from.Call != kmodquery.EventDeleteModule {
		setLoad(&e, &from, hasModule)
	}
	return e
}

// boot sets the boot id and the uptime if the event is of this boot.
func (t translator) boot(e *kmodquery.Event, at time.Time) {
	uptime := at.Sub(t.bootTime)
	isEarlier := uptime < -host.ClockStep
	if isEarlier && !t.isLive {
		e.Missing.Add("boot_id", "uptime")
		return
	}
	e.BootID = t.bootID
	if isEarlier {
		e.Missing.Add("uptime")
		return
	}
	e.Uptime = new(int64(max(uptime, 0) / time.Second))
}

// loadID returns the id of an attempt. It is the same each time the log is read.
func (t translator) loadID(id record.ID, bootID string) string {
	key := []byte(bootID + "\x00" + kmodquery.SourceAudit + "\x00")
	key = binary.LittleEndian.AppendUint64(key, uint64(id.Millis))
	key = binary.LittleEndian.AppendUint32(key, id.Serial)
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

func setProcess(e *kmodquery.Event, call record.Fields) {
	e.Pid = setNumber(e, "pid", call, "pid")
	e.Parent = setNumber(e, "parent", call, "ppid")
	e.UID = setNumber(e, "uid", call, "uid")
	e.GID = setNumber(e, "gid", call, "gid")
	e.EUID = setNumber(e, "euid", call, "euid")
	e.EGID = setNumber(e, "egid", call, "egid")
	e.AUID = setNumber(e, "auid", call, "auid")
	e.SessionID = setNumber(e, "session_id", call, "ses")
	name, ok := call.Text("comm")
	if e.ProcessName = name; !ok {
		e.Missing.Add("process_name")
	}
	// A kernel thread has none: (null).
	e.ProcessPath, _ = call.Text("exe")
	if e.ProcessPath == "" && call.Word("exe") == "" {
		e.Missing.Add("process_path")
	}
}

// setNumber returns a number that every record of a call has. If there is none it adds
// the column to the missing ones.
func setNumber(e *kmodquery.Event, column string, call record.Fields, field string) *int64 {
	n, ok := call.Int(field)
	if !ok {
		e.Missing.Add(column)
		return nil
	}
	return &n
}

// setName sets the module's name, and reports whether the kernel has read the module.
func setName(e *kmodquery.Event, from *record.Event) bool {
	module, ok := from.First(auparse.AUDIT_KERN_MODULE)
	if ok {
		e.Name, _ = module.Fields.Text("name")
	}
	// 7.3 writes this for an image without a name; 6.1 writes no such record.
	if e.Name == "?" && from.Call != kmodquery.EventDeleteModule {
		e.Name = ""
	}
	if e.Name == "" {
		e.Missing.Add("name")
	}
	return ok
}

// setArguments sets the columns of the arguments that are no pointers.
func setArguments(e *kmodquery.Event, call record.Fields) {
	argument := func(column, field string) *int64 {
		n, ok := call.Hex(field)
		if !ok || n > math.MaxInt64 {
			e.Missing.Add(column)
			return nil
		}
		return new(int64(n))
	}
	switch e.EventName {
	case kmodquery.EventInitModule:
		e.Size = argument("size", "a1")
	case kmodquery.EventFinitModule:
		e.Flags = argument("flags", "a2")
	case kmodquery.EventDeleteModule:
		e.Flags = argument("flags", "a1")
	}
	if e.Flags != nil {
		*e.Flags &= math.MaxUint32 // an int or unsigned int, in a register of any content
	}
}

// setLoad sets the columns of a load.
func setLoad(e *kmodquery.Event, from *record.Event, hasModule bool) {
	e.Type = kmodquery.TypeKernelModule
	e.Missing.Add(missingOfLoad...)
	if from.Call == kmodquery.EventInitModule {
		e.Origin = kmodquery.OriginMemory
	} else {
		e.Missing.Add(missingOfFile...)
		setPath(e, from)
	}
	if isRefused(e, hasModule) {
		return
	}
	e.Missing.Add(module.Columns...)
	e.Missing.Add("version", "srcversion", "first_seen", "taints")
	e.SignatureStatus = module.SignatureStatus(nil, nil, e.Result)
	if e.SignatureStatus == "" {
		e.SignatureStatus = kmodquery.SignatureUnknown
	}
}

// isRefused reports whether the kernel refused the call before it read a byte of the
// module. A missing signature also gives EPERM, later, with the same record. But any
// user can make the former as often as they like.
func isRefused(e *kmodquery.Event, hasModule bool) bool {
	return !hasModule && (e.Error == "EPERM" || e.Error == "EBADF")
}

// setPath sets the module's path if a record has it.
func setPath(e *kmodquery.Event, from *record.Event) {
	for _, r := range from.Records {
		if path := r.ModulePath(); path != "" {
			e.Path, e.Origin = path, kmodquery.OriginFile
			e.Missing.Remove("path", "origin")
			return
		}
	}
}

// cmdline returns the process's arguments, separated by blanks.
func cmdline(e *kmodquery.Event, from *record.Event) string {
	if title, ok := from.First(auparse.AUDIT_PROCTITLE); ok {
		args, ok := title.Fields.Text("proctitle")
		if ok && len(args) >= maxProctitle {
			e.Missing.Add("cmdline")
		}
		// A kernel thread has none.
		return strings.ReplaceAll(strings.TrimSuffix(args, "\x00"), "\x00", " ")
	}
	if args := execveArgs(from); len(args) > 0 {
		return strings.Join(args, " ")
	}
	e.Missing.Add("cmdline")
	return ""
}

// execveArgs returns the arguments in EXECVE records up to the first that the kernel
// split.
func execveArgs(from *record.Event) []string {
	var args []string
	for _, r := range from.Records {
		if r.Type != auparse.AUDIT_EXECVE {
			continue
		}
		for {
			arg, ok := r.Fields.Text("a" + strconv.Itoa(len(args)))
			if !ok {
				break
			}
			args = append(args, arg)
		}
	}
	return args
}

// rawText returns the records, one per line, as many as fit.
func rawText(from *record.Event) string {
	var raw strings.Builder
	for _, r := range from.Records {
		if raw.Len()+1+len(r.Text) > maxRaw {
			break
		}
		if raw.Len() > 0 {
			raw.WriteByte('\n')
		}
		// A module's name may contain line feeds.
		raw.WriteString(strings.ReplaceAll(r.Text, "\n", " "))
	}
	return raw.String()
}
