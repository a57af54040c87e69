package kmodquery

import (
	"cmp"
	"slices"
)

// Views of the kernel that can show a module, as the views column of the inventory
// spells them.
const (
	ViewModules     = "modules"     // /proc/modules, the kernel's own list
	ViewSysfs       = "sysfs"       // /sys/module
	ViewKallsyms    = "kallsyms"    // /proc/kallsyms
	ViewFtrace      = "ftrace"      // available_filter_functions of tracefs
	ViewBTF         = "btf"         // /sys/kernel/btf
	ViewVmallocinfo = "vmallocinfo" // /proc/vmallocinfo
	ViewShowloaded  = "showloaded"  // kmutil showloaded or kextstat, the list of macOS's kernel
	ViewKextPolicy  = "kextpolicy"  // macOS's history of loaded kernel extensions
	ViewEvents      = "events"      // the stored events: a load without a later unload
)

// ModuleGone is the State of a module that is not loaded, and that the host's own
// records list as loaded before.
const ModuleGone = "Gone"

// A Module is one module of the running kernel as its views show it at one moment.
// A nil pointer and an empty string mean that the fact is unknown. [ModuleFile] has
// the columns of the inventory that are costly to determine.
type Module struct {
	Name       string   // empty for module memory that no view names
	Size       *int64   // bytes of memory
	Refs       *int64   // number of users
	UsedBy     []string // modules among the users
	State      string   // Live, Loading or Unloading, or [ModuleGone]
	Address    *int64   // of the module's memory; nil if the kernel hides addresses
	Taints     *int64   // mask of TAINT_ bits
	Version    string
	Srcversion string
	Views      []string // View constants of the views that show the module, in the order of the constants

	LoadID    string // of the load, if a source observed it
	FirstSeen *int64 // as in the events of the load
	Path      string // file that the module was read from, if a source observed the load

	// macOS's record of a kernel extension.
	TeamID     string // Apple team that signed the loaded extension
	CDHash     string // of the loaded extension
	Policy     string // one of the Policy constants
	LastLoaded *int64 // Unix time in seconds
}

// Decisions of macOS's policy on a kernel extension.
const (
	PolicyMDM        = "mdm"        // allowed by a profile of the device management
	PolicyUser       = "user"       // allowed by a user in the system settings
	PolicyUnapproved = "unapproved" // not allowed, or not any more
)

// IsHidden reports whether the kernel's own list omits a module that another view
// shows. One observation proves nothing, because a module that is being loaded or
// unloaded is in some views earlier than in others.
func (m *Module) IsHidden() bool {
	isListed := slices.Contains(m.Views, ViewModules) || slices.Contains(m.Views, ViewShowloaded)
	return !isListed && m.State != ModuleGone
}

// JoinModules returns the modules that views show, each with what the events say of
// the loaded module of that name. It appends the loaded modules that no view shows,
// if their Views contain [ViewEvents], which means that a source would have observed
// an unload. Those are hidden.
func JoinModules(shown, loaded []Module) []Module {
	byName := make(map[string]*Module, len(loaded))
	for i := range loaded {
		byName[loaded[i].Name] = &loaded[i]
	}
	joined := make([]Module, 0, len(shown))
	for _, module := range shown {
		if known := byName[module.Name]; module.Name != "" && known != nil {
			module.LoadID, module.FirstSeen, module.Path = known.LoadID, known.FirstSeen, cmp.Or(known.Path, module.Path)
			module.Views = append(slices.Clone(module.Views), ViewEvents)
			delete(byName, module.Name)
		}
		joined = append(joined, module)
	}
	for i := range loaded {
		if byName[loaded[i].Name] != nil && slices.Contains(loaded[i].Views, ViewEvents) {
			joined = append(joined, loaded[i])
		}
	}
	return joined
}

// A ModuleFile is the file on disk of a loaded module. The file may have changed
// since the module was loaded; the events of the load describe what was loaded.
type ModuleFile struct {
	Path    string  // absolute, with links resolved; the file that modprobe would load, if no source observed the load
	SHA256  string  // of the file, in hex
	Signer  string  // as named by the file's signature
	Package string  // that owns the file, as the package manager prints it
	TeamID  string  // Apple team of the signer, on macOS
	CDHash  string  // of the code directory, on macOS, in hex
	Missing Columns // those of these columns that apply and could not be determined
}

// A FileID identifies a file and its content as the kernel reports them.
type FileID struct {
	Device     int64 // of the superblock, in stat(2)'s form; not st_dev on btrfs and overlayfs
	Inode      int64
	Size       int64  // bytes
	Ctime      int64  // Unix time in seconds
	CtimeNanos *int64 // nanoseconds within that second; nil if unknown
}
