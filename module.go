package kmodquery

import (
	"cmp"
	"slices"
	"strings"
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
	ViewShowloaded  = "showloaded"  // kmutil showloaded, the list of macOS's kernel
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
	Loaded    *LoadedImage
	// SignatureStatus is the kernel's verdict on the loaded bytes, one of the Signature constants,
	// as in the events of the load.
	SignatureStatus string

	// macOS's record of a kernel extension.
	TeamID     string // Apple team that signed the loaded extension
	CDHash     string // of the loaded extension
	Policy     string // one of the Policy constants
	LastLoaded *int64 // Unix time in seconds
	Collection string // one of the Collection constants
}

// A LoadedImage is what a source observed of the bytes that the kernel took as a module. It
// is nil if no source observed the load.
type LoadedImage struct {
	File        *FileID // nil if the bytes came from memory, or if the file is unknown
	ImageSHA256 string  // as in the events of the load
	Signer      *string // as the signature names it, "" if there is none; nil if that is unknown
}

// A FileID identifies a file and its content as the kernel reports them.
type FileID struct {
	Device     int64 // of the superblock, in stat(2)'s form; not st_dev on btrfs and overlayfs
	Inode      int64
	Size       int64  // bytes
	Ctime      int64  // Unix time in seconds
	CtimeNanos *int64 // nanoseconds within that second; nil if unknown
}

// LoadedImage returns what an event says of a module's bytes, or nil if its source does
// not know where they came from.
func (e *Event) LoadedImage() *LoadedImage {
	if e.Origin == "" && e.Path == "" {
		return nil
	}
	image := &LoadedImage{ImageSHA256: e.ImageSHA256}
	if e.Device != nil && e.Inode != nil && e.Size != nil && e.Ctime != nil {
		image.File = &FileID{Device: *e.Device, Inode: *e.Inode, Size: *e.Size, Ctime: *e.Ctime}
	}
	if e.SHA256 != "" && !e.Missing.Has("signer") {
		image.Signer = new(e.Signer)
	}
	return image
}

// IsComparable reports whether a file can be compared with the image. It may be called on nil.
func (i *LoadedImage) IsComparable() bool { return i != nil && (i.File != nil || i.ImageSHA256 != "") }

// Collections from which macOS loads kernel extensions. The boot collection is loaded with the
// kernel, and Apple signs it and the system collection.
const (
	CollectionBoot      = "boot"
	CollectionSystem    = "system"
	CollectionAuxiliary = "auxiliary" // extensions of others than Apple
	CollectionCodeless  = "codeless"  // in none, because it has no executable
	CollectionUnknown   = "unknown"
)

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

// FolderName returns the name of a module's folder in sysfs, where a slash is not possible.
// Some views show a hidden module under that name only.
func FolderName(name string) string { return strings.ReplaceAll(name, "/", "!") }

// JoinModules returns the modules that views show, each with what the events say of
// the loaded module of that name, the first one if there are several. It appends the loaded modules that no view shows,
// if their Views contain [ViewEvents], which means that a source would have observed
// an unload. Those are hidden.
func JoinModules(shown, loaded []Module) []Module {
	byName := make(map[string]int, len(loaded))
	for i := range slices.Backward(loaded) {
		byName[FolderName(loaded[i].Name)] = i
	}
	isJoined := make([]bool, len(loaded))
	joined := make([]Module, 0, len(shown))
	for _, module := range shown {
		if i, ok := byName[FolderName(module.Name)]; ok && module.Name != "" && !isJoined[i] {
			known := &loaded[i]
			isJoined[i] = true
			module.Name = known.Name
			module.LoadID, module.FirstSeen, module.Path = known.LoadID, known.FirstSeen, cmp.Or(known.Path, module.Path)
			module.Loaded, module.SignatureStatus = known.Loaded, known.SignatureStatus
			module.Views = append(slices.Clone(module.Views), ViewEvents)
		}
		joined = append(joined, module)
	}
	for i := range loaded {
		if !isJoined[i] && slices.Contains(loaded[i].Views, ViewEvents) {
			joined = append(joined, loaded[i])
		}
	}
	return joined
}

// A ModuleFile is the file on disk of a loaded module. If a source observed what was
// loaded, it is known only of a file that holds those bytes.
type ModuleFile struct {
	Path    string  // as the kernel reported it; the file that modprobe would load, if no source observed the load
	SHA256  string  // of the file, in hex
	Signer  string  // of the bytes that were loaded, otherwise of the file, as the signature names it
	Package string  // that owns the file, as the package manager prints it
	TeamID  string  // Apple team of the signer, on macOS
	CDHash  string  // of the code directory, on macOS, in hex
	Missing Columns // those of these columns that apply and could not be determined
}
