package kmodquery

// Event names: the kernel's own name for the system call, security hook or
// tracepoint that reported the fact.
const (
	// EventInitModule, EventFinitModule and EventDeleteModule are system calls
	// (init_module(2), delete_module(2)). The event is written when the call
	// returns and has its result. If the call does not return within the source's
	// bound, the event is written without a result, so that a module whose init
	// function never returns is still reported; the late return is an
	// EventSysExitInitModule.
	EventInitModule        = "init_module"
	EventFinitModule       = "finit_module"
	EventDeleteModule      = "delete_module"
	EventSysExitInitModule = "sys_exit_init_module"

	// EventSecurityKernelReadFile and EventSecurityKernelLoadData are the LSM
	// hooks of the same name. The kernel calls them before it reads a file, or
	// takes a buffer, for its own use; Type is the kind of use.
	EventSecurityKernelReadFile = "security_kernel_read_file"
	EventSecurityKernelLoadData = "security_kernel_load_data"

	// EventModuleLoad, EventModuleFree and EventModuleRequest are the kernel's
	// module tracepoints (include/trace/events/module.h).
	EventModuleLoad    = "module_load"
	EventModuleFree    = "module_free"
	EventModuleRequest = "module_request"

	// The recorder finds these by comparing views of the kernel with each other
	// and with the events. EventModulePresent is a module that was loaded before
	// the recorder started. EventModuleHidden is a loaded module that the kernel's
	// own list omits. EventModuleUnwitnessed is a loaded module whose load no
	// source observed. EventTaintReset is a kernel taint that lost bits, or lacks
	// bits that a module set.
	EventModulePresent     = "module_present"
	EventModuleHidden      = "module_hidden"
	EventModuleUnwitnessed = "module_unwitnessed"
	EventTaintReset        = "taint_reset"

	// EventSensorTampered is a source that was kept from observing: its hooks were
	// detached or disabled, or their records were filtered. Reason says which.
	EventSensorTampered = "sensor_tampered"

	// EventKextload and EventKextunload are the load and the unload of a macOS
	// kernel extension. EventKextAllowed and EventKextBlocked are decisions of the
	// system's policy about one.
	EventKextload    = "kextload"
	EventKextunload  = "kextunload"
	EventKextAllowed = "kext_allowed"
	EventKextBlocked = "kext_blocked"
)

// Sources of events, as the source column and the sensors table spell them.
const (
	SourceEBPF             = "ebpf"
	SourceAudit            = "audit"
	SourceJournal          = "journal"
	SourceKmsg             = "kmsg"
	SourceSyslog           = "syslog"
	SourceProcfs           = "procfs"
	SourceEndpointSecurity = "endpoint_security"
	SourceUnifiedLog       = "unified_log"
	SourceShowloaded       = "showloaded"
)

// TypeKernelModule is the Type of an event whose bytes are a kernel module. The
// spelling is that of the kernel's kernel_read_file_str and kernel_load_data_str.
const TypeKernelModule = "kernel-module"

// Origins of a module's bytes.
const (
	OriginFile    = "file"    // a file with a name
	OriginMemfd   = "memfd"   // memfd_create(2)
	OriginDeleted = "deleted" // a file without a name: unlinked after it was opened, or made with O_TMPFILE
	OriginMemory  = "memory"  // a buffer that a process passed to init_module(2)
	OriginKernel  = "kernel"  // a buffer passed by code inside the kernel, such as another module's init function
)

// Sources of the hash in SHA256.
const (
	HashSourceKernel = "kernel" // the bytes that the kernel read
	HashSourceFile   = "file"   // the file, read after the kernel had read it, with unchanged device, inode, size and ctime
)

// States of a module's signature, by the kernel's own verdict if it gave one.
const (
	SignatureValid     = "valid"     // the kernel verified it with a key that it trusts
	SignatureUnsigned  = "unsigned"  // the module has no signature
	SignatureUntrusted = "untrusted" // the kernel lacks the signature's key or algorithm, or did not check the signature
	SignatureRejected  = "rejected"  // the kernel refused the module because of its signature, or because it has none
	SignatureUnknown   = "unknown"   // neither the kernel's verdict nor the image is known
)

// What of a module can differ from earlier attempts with its name.
const (
	ChangedHash    = "hash"
	ChangedSigner  = "signer"
	ChangedPath    = "path"
	ChangedNothing = "none"
)

// Decisions of macOS's policy, or of an Endpoint Security client, on a kernel extension.
const (
	VerdictAllow = "allow"
	VerdictDeny  = "deny"
)

// An Event is one fact that one source observed. The event store writes it once
// and never changes it.
//
// Each field is one column of the store and of the table kernel_module_events. A
// field's JSON name is the column's name, and [EventColumns] lists the columns in
// the order of the fields. A nil pointer and an empty string both mean that the
// fact is unknown or does not apply; they become NULL. Strings hold the host's
// bytes unchanged, which may include control characters and invalid UTF-8.
type Event struct {
	Time      int64  `json:"time"`              // Unix time in seconds
	TimeNanos int64  `json:"time_nanos"`        // the same moment in nanoseconds
	Uptime    *int64 `json:"uptime,omitempty"`  // CLOCK_BOOTTIME in seconds
	BootID    string `json:"boot_id,omitempty"` // /proc/sys/kernel/random/boot_id
	EID       int64  `json:"eid"`               // assigned by the event store, never reused
	// StoredTime is when the event store accepted it, in Unix time; nil in events that an
	// earlier version stored.
	StoredTime *int64 `json:"stored_time,omitempty"`
	EventName  string `json:"event_name"` // one of the Event constants
	Source     string `json:"source"`     // one of the Source constants

	LoadID       string `json:"load_id,omitempty"`        // shared by all events of one attempt
	ParentLoadID string `json:"parent_load_id,omitempty"` // the attempt inside which this one was made
	ReportsLoad  *int64 `json:"reports_load,omitempty"`   // 1 or 0, see IsLoadReport

	Name       string `json:"name,omitempty"`
	Path       string `json:"path,omitempty"` // absolute, across mounts, as seen in the loader's namespace
	Type       string `json:"type,omitempty"`
	Origin     string `json:"origin,omitempty"`
	Filesystem string `json:"filesystem,omitempty"`
	Device     *int64 `json:"device,omitempty"` // of the file's superblock, in stat(2)'s form; not st_dev on btrfs and overlayfs
	Inode      *int64 `json:"inode,omitempty"`
	Size       *int64 `json:"size,omitempty"`  // bytes
	Mtime      *int64 `json:"mtime,omitempty"` // Unix time in seconds
	Ctime      *int64 `json:"ctime,omitempty"` // Unix time in seconds

	SHA256          string `json:"sha256,omitempty"`       // of the bytes handed to the kernel, in hex
	ImageSHA256     string `json:"image_sha256,omitempty"` // of the module after decompression, in hex
	HashSource      string `json:"hash_source,omitempty"`
	SignatureStatus string `json:"signature_status,omitempty"`
	Signer          string `json:"signer,omitempty"`
	SignatureKeyID  string `json:"signature_key_id,omitempty"`
	SignatureHash   string `json:"signature_hash,omitempty"`

	Version    string  `json:"version,omitempty"`
	Srcversion string  `json:"srcversion,omitempty"`
	Vermagic   string  `json:"vermagic,omitempty"`
	License    string  `json:"license,omitempty"`
	Intree     *int64  `json:"intree,omitempty"`
	Params     *string `json:"params,omitempty"` // "" means that there were none
	Flags      *int64  `json:"flags,omitempty"`  // of finit_module(2) or delete_module(2)
	Taints     *int64  `json:"taints,omitempty"` // mask of TAINT_ bits, Documentation/admin-guide/tainted-kernels.rst

	Result *int64 `json:"result,omitempty"` // 0 or -errno
	Error  string `json:"error,omitempty"`  // the errno's name
	// Verdict is what a policy of macOS decided, one of the Verdict constants. An allowed
	// load may fail.
	Verdict string `json:"verdict,omitempty"`

	Pid         *int64 `json:"pid,omitempty"` // thread group id, in the initial pid namespace
	Tid         *int64 `json:"tid,omitempty"`
	Parent      *int64 `json:"parent,omitempty"`
	ProcessName string `json:"process_name,omitempty"` // comm, at most 15 bytes
	ProcessPath string `json:"process_path,omitempty"`
	Cmdline     string `json:"cmdline,omitempty"`
	Cwd         string `json:"cwd,omitempty"`

	UID       *int64 `json:"uid,omitempty"`
	EUID      *int64 `json:"euid,omitempty"`
	GID       *int64 `json:"gid,omitempty"`
	EGID      *int64 `json:"egid,omitempty"`
	AUID      *int64 `json:"auid,omitempty"`       // login uid; 4294967295, as in audit records, if none was set
	SessionID *int64 `json:"session_id,omitempty"` // audit session; 4294967295 if there is none

	Capabilities *int64 `json:"capabilities,omitempty"` // effective set as a mask
	Ancestors    string `json:"ancestors,omitempty"`    // JSON array, nearest first; its strings are escaped by Escape
	RequestedBy  string `json:"requested_by,omitempty"` // JSON object; its strings are escaped by Escape
	ContainerID  string `json:"container_id,omitempty"`
	Cgroup       string `json:"cgroup,omitempty"`
	MntNS        *int64 `json:"mnt_ns,omitempty"`
	PidNS        *int64 `json:"pid_ns,omitempty"`
	UserNS       *int64 `json:"user_ns,omitempty"`

	TeamID           string `json:"team_id,omitempty"`
	CDHash           string `json:"cdhash,omitempty"`
	ProcessSigningID string `json:"process_signing_id,omitempty"`
	ProcessTeamID    string `json:"process_team_id,omitempty"`

	// Of a load of a kernel extension: one of the Collection constants, and BootLoad is 1 if
	// it was reported soon after the boot and nothing in the log requested it, otherwise 0.
	// AuthenticatedRoot is 1 if the kernel only boots from a system volume with Apple's seal.
	Collection        string `json:"collection,omitempty"`
	BootLoad          *int64 `json:"boot_load,omitempty"`
	AuthenticatedRoot *int64 `json:"authenticated_root,omitempty"`

	FirstSeen *int64 `json:"first_seen,omitempty"`
	// Changed names what differs from what earlier attempts with this name had under the same
	// kernel release: Changed constants, separated by commas. "" if there were none.
	Changed string  `json:"changed,omitempty"`
	Count   *int64  `json:"count,omitempty"`   // attempts that this event stands for
	Missing Columns `json:"missing,omitempty"` // columns that apply and whose value could not be determined
	Raw     string  `json:"raw,omitempty"`     // the record of a text source, unchanged
	Reason  string  `json:"reason,omitempty"`  // of events found by comparing, and of EventSensorTampered: the observations behind them
}

// IsUnprivileged reports whether an unprivileged user can cause such an event any
// number of times: a request for a module, a system call that the kernel denied
// before it read a byte of a module, a refused kernel extension of macOS, or the row of such
// an attempt. The store keeps these events within a bound of their own, so that they
// never displace others.
func (e *Event) IsUnprivileged() bool {
	switch e.EventName {
	case EventModuleRequest, EventKextBlocked, EventLoadClosedUnprivileged:
		return true
	case EventKextload:
		return e.Error != ""
	case EventInitModule, EventFinitModule, EventDeleteModule:
		return e.Error == "EPERM" && e.SHA256 == "" && !e.Missing.Has("sha256")
	}
	return false
}
