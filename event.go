package kmodquery

import (
	"slices"
	"strings"
)

// Event names: the kernel's own name for the system call, security hook or
// tracepoint that stated the fact.
const (
	// EventInitModule, EventFinitModule and EventDeleteModule are system
	// calls, written with their result when they return (init_module(2),
	// delete_module(2)). An init_module that has not returned within the
	// source's bound is written without a result, so that a module whose init
	// never ends is still reported; its return then is an
	// EventSysExitInitModule.
	EventInitModule        = "init_module"
	EventFinitModule       = "finit_module"
	EventDeleteModule      = "delete_module"
	EventSysExitInitModule = "sys_exit_init_module"

	// EventSecurityKernelReadFile and EventSecurityKernelLoadData are the LSM
	// hooks of the same name, called before the kernel reads a file or takes a
	// buffer for a purpose of its own; Type says which.
	EventSecurityKernelReadFile = "security_kernel_read_file"
	EventSecurityKernelLoadData = "security_kernel_load_data"

	// EventModuleLoad, EventModuleFree and EventModuleRequest are the kernel's
	// module tracepoints (include/trace/events/module.h).
	EventModuleLoad    = "module_load"
	EventModuleFree    = "module_free"
	EventModuleRequest = "module_request"

	// EventModulePresent is a module that was there when the recorder began to
	// look. EventModuleHidden is one that the kernel's own list does not show
	// though it is there; EventModuleUnwitnessed one that is there though no
	// source saw it come; EventTaintReset a kernel whose taint lacks bits that
	// it had, or that a module brought. All are found by comparing views of the
	// kernel, with each other and with the events.
	EventModulePresent     = "module_present"
	EventModuleHidden      = "module_hidden"
	EventModuleUnwitnessed = "module_unwitnessed"
	EventTaintReset        = "taint_reset"

	// EventKextload and EventKextunload are macOS's kernel extensions coming
	// and going; EventKextAllowed and EventKextBlocked what the system's policy
	// says of one.
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

// TypeKernelModule is the Type of an event whose bytes are a kernel module, as
// the kernel's kernel_read_file_str and kernel_load_data_str spell it.
const TypeKernelModule = "kernel-module"

// Origins of a module's bytes.
const (
	OriginFile    = "file"    // a file that has a name
	OriginMemfd   = "memfd"   // memfd_create(2)
	OriginDeleted = "deleted" // a file without a name left: unlinked after opening, or O_TMPFILE
	OriginMemory  = "memory"  // a buffer of the caller, by init_module(2)
	OriginKernel  = "kernel"  // a buffer handed over by code inside the kernel, such as another module's init
)

// What SHA256 was computed from.
const (
	HashSourceKernel = "kernel" // the bytes that the kernel itself read
	HashSourceFile   = "file"   // the file, after the kernel had read it and while it was still the same by device, inode, size and ctime
)

// States of a module's signature, by the kernel's own verdict where it gave
// one.
const (
	SignatureValid     = "valid"     // the kernel verified it with a key that it trusts
	SignatureUnsigned  = "unsigned"  // there is none
	SignatureUntrusted = "untrusted" // there is one, and the kernel lacks its key or its algorithm, or did not look at it
	SignatureRejected  = "rejected"  // the kernel refused the module for it, or for the want of it
	SignatureUnknown   = "unknown"   // neither the kernel's verdict nor the image could be had
)

// An Event is one fact that one source saw. It is written once and never
// changes after it was given to the event store.
//
// Each field is one column of the store and of the table
// kernel_module_events; its JSON name is the column's name, and [EventColumns]
// lists them in this order. A nil pointer and an empty string both mean that
// the fact is unknown or does not apply, and become NULL. Strings hold the
// host's bytes as they were: they may contain control characters and invalid
// UTF-8.
type Event struct {
	Time      int64  `json:"time"`              // Unix time in seconds
	TimeNanos int64  `json:"time_nanos"`        // the same moment in nanoseconds
	Uptime    *int64 `json:"uptime,omitempty"`  // CLOCK_BOOTTIME in seconds
	BootID    string `json:"boot_id,omitempty"` // /proc/sys/kernel/random/boot_id
	EID       int64  `json:"eid"`               // given by the event store, never reused
	EventName string `json:"event_name"`        // one of the Event constants
	Source    string `json:"source"`            // one of the Source constants

	LoadID       string `json:"load_id,omitempty"`        // shared by all events of one attempt
	ParentLoadID string `json:"parent_load_id,omitempty"` // the attempt that this one was made from

	Name       string `json:"name,omitempty"`
	Path       string `json:"path,omitempty"` // absolute, across mounts, as the loader's namespace sees it
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
	Params     *string `json:"params,omitempty"` // "" says that there were none
	Flags      *int64  `json:"flags,omitempty"`  // of finit_module(2) or delete_module(2)
	Taints     *int64  `json:"taints,omitempty"` // mask of TAINT_ bits, Documentation/admin-guide/tainted-kernels.rst

	Result *int64 `json:"result,omitempty"` // 0 or -errno
	Error  string `json:"error,omitempty"`  // the errno's name

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
	AUID      *int64 `json:"auid,omitempty"`       // login uid; 4294967295, as audit has it, where none was set
	SessionID *int64 `json:"session_id,omitempty"` // audit session; 4294967295 where there is none

	Capabilities *int64 `json:"capabilities,omitempty"` // effective set as a mask
	Ancestors    string `json:"ancestors,omitempty"`    // JSON array, nearest first; texts in it as Escape writes them
	RequestedBy  string `json:"requested_by,omitempty"` // JSON object, likewise
	ContainerID  string `json:"container_id,omitempty"`
	Cgroup       string `json:"cgroup,omitempty"`
	MntNS        *int64 `json:"mnt_ns,omitempty"`
	PidNS        *int64 `json:"pid_ns,omitempty"`
	UserNS       *int64 `json:"user_ns,omitempty"`

	TeamID           string `json:"team_id,omitempty"`
	CDHash           string `json:"cdhash,omitempty"`
	ProcessSigningID string `json:"process_signing_id,omitempty"`
	ProcessTeamID    string `json:"process_team_id,omitempty"`

	FirstSeen *int64 `json:"first_seen,omitempty"`
	Count     *int64 `json:"count,omitempty"`   // attempts that this row stands for
	Missing   string `json:"missing,omitempty"` // columns that should have a value and could not be had, comma-separated
	Raw       string `json:"raw,omitempty"`     // the record of a text source as it stood
	Reason    string `json:"reason,omitempty"`  // why the recorder says so, for events that it found by comparing

	// Position is no column. It says how far in its log a source has come with
	// this event: everything before is told by this event and the source's
	// earlier ones. The event store keeps the last one of each source together
	// with the event, so that the source can go on behind it. Empty in sources
	// that have no log to go back to, and where it would say nothing new.
	Position string `json:"-"`
	// Receipt is no column either. It names this event among all that its source
	// ever tells: one that has to read again what may have been told, because it
	// cannot know whether that was stored, asks the event store which of its
	// receipts are there. The receipts and positions of a source are ordered as
	// texts: those before its last position are forgotten. Empty in sources that
	// repeat nothing.
	Receipt string `json:"-"`
}

// Miss names columns whose value should have been there and could not be had.
// A column already named is not named twice.
func (e *Event) Miss(columns ...string) {
	for _, column := range columns {
		switch {
		case e.Missing == "":
			e.Missing = column
		case !strings.Contains(","+e.Missing+",", ","+column+","):
			e.Missing += "," + column
		}
	}
}

// IsUnprivileged reports whether any user of the host can cause such an event as
// often as they like: a request for a module, or a system call that the kernel
// refused before it read a byte of a module. The store bounds these events
// separately, so that they never displace others.
func (e *Event) IsUnprivileged() bool {
	switch e.EventName {
	case EventModuleRequest:
		return true
	case EventInitModule, EventFinitModule, EventDeleteModule:
		tookBytes := e.SHA256 != "" || strings.Contains(","+e.Missing+",", ",sha256,")
		return e.Error == "EPERM" && !tookBytes
	}
	return false
}

// Found takes back what Miss said of a column, because its value was had in
// another way.
func (e *Event) Found(column string) {
	names := strings.Split(e.Missing, ",")
	names = slices.DeleteFunc(names, func(name string) bool { return name == column })
	e.Missing = strings.Join(names, ",")
}
