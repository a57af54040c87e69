package kmodquery

import (
	"cmp"
	"slices"
	"strings"
)

// Views of the kernel that can show that a module is there, as the views column
// of the inventory spells them.
const (
	ViewModules     = "modules"     // /proc/modules, the kernel's own list
	ViewSysfs       = "sysfs"       // /sys/module
	ViewKallsyms    = "kallsyms"    // /proc/kallsyms
	ViewFtrace      = "ftrace"      // available_filter_functions of tracefs
	ViewBTF         = "btf"         // /sys/kernel/btf
	ViewVmallocinfo = "vmallocinfo" // /proc/vmallocinfo
	ViewShowloaded  = "showloaded"  // kmutil showloaded, or kextstat: what macOS's kernel lists
	ViewKextPolicy  = "kextpolicy"  // macOS's own memory of what was loaded
	ViewEvents      = "events"      // a source saw it come and none saw it go
)

// ModuleGone is the State of one that is not loaded now and, by what the host
// itself remembers, once was.
const ModuleGone = "Gone"

// A Module is one module of the running kernel as its views show it at one
// moment. A nil pointer and an empty string mean that the fact is unknown. It is
// what a row of the inventory says, but for what costs more to know: what the
// file on disk holds and which package owns it.
type Module struct {
	Name       string   // empty where only memory without a name was found
	Size       *int64   // bytes of memory
	Refs       *int64   // users of the module
	UsedBy     []string // the modules among them
	State      string   // Live, Loading or Unloading, or [ModuleGone]
	Address    *int64   // of its memory; nil where the kernel does not tell
	Taints     *int64   // mask of TAINT_ bits
	Version    string
	Srcversion string
	Views      []string // the View constants of those that show it, in their order

	LoadID    string // of the attempt that brought it, where a source saw that
	FirstSeen *int64 // as in that attempt's events
	Path      string // file that it was read from, where a source saw that

	// What macOS remembers of a kernel extension.
	TeamID     string // of who signed what was loaded
	CDHash     string // of what was loaded
	Policy     string // who let it load: one of the Policy constants
	LastLoaded *int64 // Unix time in seconds
}

// Who let a kernel extension load, by macOS's policy.
const (
	PolicyMDM        = "mdm"        // a profile of the device management
	PolicyUser       = "user"       // somebody in the system's settings
	PolicyUnapproved = "unapproved" // nobody yet, or not any more
)

// IsHidden reports whether the kernel's own list lacks the module though
// something else shows it. One look is no proof: a module that comes or goes is
// in some views before it is in others.
func (m *Module) IsHidden() bool {
	isListed := slices.Contains(m.Views, ViewModules) || slices.Contains(m.Views, ViewShowloaded)
	return !isListed && m.State != ModuleGone
}

// JoinModules adds what the events say of modules that are loaded to what the
// views show. One that no view shows is hidden and has only [ViewEvents], if some
// source would have seen it go: then the events' own Views say so.
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

// A ModuleFile is what lies on disk for a loaded module now. That it is what was
// loaded is for the events to say.
type ModuleFile struct {
	Path    string // absolute, without links; the one that modprobe would take, where no source saw another
	SHA256  string // of its bytes, in hex
	Signer  string // as its signature claims
	Package string // that owns it, in the words of the package manager
	TeamID  string // of its signer, on macOS
	CDHash  string // of its code directory, on macOS, in hex
	Missing string // of these columns, those that should have a value and could not be had, comma-separated
}

// Miss names columns whose value should have been there and could not be had.
// A column already named is not named twice.
func (f *ModuleFile) Miss(columns ...string) {
	for _, column := range columns {
		switch {
		case f.Missing == "":
			f.Missing = column
		case !slices.Contains(strings.Split(f.Missing, ","), column):
			f.Missing += "," + column
		}
	}
}
