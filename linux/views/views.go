package views

import (
	"cmp"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kmodquery/kmodquery"
)

// Paths of the views below the root.
const (
	procModules  = "proc/modules"
	procKallsyms = "proc/kallsyms"
	procVmalloc  = "proc/vmallocinfo"
	procTainted  = "proc/sys/kernel/tainted"
	procOnWarn   = "proc/sys/kernel/panic_on_warn"
	sysModule    = "sys/module"
	sysBTF       = "sys/kernel/btf"
)

// tracingFolders are the folders in which tracefs may be mounted.
var tracingFolders = []string{"sys/kernel/tracing", "sys/kernel/debug/tracing"}

// Names of the file in tracefs that lists the functions that can be traced. The first one
// has their addresses too, and exists from 6.5 on.
const (
	tracingAddresses = "available_filter_functions_addrs"
	tracingFunctions = "available_filter_functions"
)

// order is the order of the views in a module's Views.
var order = []string{
	kmodquery.ViewModules, kmodquery.ViewSysfs, kmodquery.ViewKallsyms, kmodquery.ViewFtrace, kmodquery.ViewBTF,
	kmodquery.ViewVmallocinfo, kmodquery.ViewEvents,
}

// Bytes per read of /proc/modules: a whole page, and a number that divides the list at
// other modules.
const (
	wholePages = 4096
	otherChunk = 1700
)

// Views are the views of one kernel. They may be used concurrently and keep no file open.
type Views struct {
	root string
	page int64

	// window is how long Confirm samples the module list. patience is how long it
	// samples memory. pause separates two samples.
	window, patience time.Duration
	pause            time.Duration

	lines atomic.Pointer[listedLines] // of the last reading of the list
	// multiline are multilineNames of the last reading of sysfs.
	multiline atomic.Pointer[[]string]
	builtins  atomic.Pointer[map[string]fs.FileInfo] // the folders, by name, that Listed last found not to be of modules
	forged    atomic.Pointer[[2]forgery]             // of the last two readings by Modules
}

// New returns the views below root, which is "/" for the running kernel.
func New(root string) *Views {
	return &Views{
		root: root, page: int64(os.Getpagesize()),
		window: 600 * time.Millisecond, patience: 2 * time.Second, pause: 10 * time.Millisecond,
	}
}

// known returns what an earlier reading left, or the zero value.
func known[T any](left *atomic.Pointer[T]) (value T) {
	if p := left.Load(); p != nil {
		value = *p
	}
	return value
}

func (v *Views) path(name string) string { return filepath.Join(v.root, name) }

// folder returns the path of a module's folder in sysfs.
func (v *Views) folder(name string) string {
	return filepath.Join(v.path(sysModule), kmodquery.FolderName(name))
}

// Listed returns the modules that the kernel's own list or sysfs shows. It is cheap enough
// for polling: it reads one file and one folder, and checks for files in the folders of
// modules that are not listed, most of which are built in. A folder without such files is
// checked once while it stays unlisted: the kernel lists a module before it makes the
// folder, and gives each new folder another number. A listed module has the values from the
// list. A module that only sysfs shows has a name only, and is a suspect for [Views.Confirm].
func (v *Views) Listed(ctx context.Context) ([]kmodquery.Module, error) {
	folders, _ := namesIn(v.path(sysModule)) // none if sysfs is not mounted
	v.multiline.Store(new(multilineNames(folders)))
	modules, err := v.listed(ctx, wholePages)
	if err != nil {
		return nil, err
	}
	j := newJoin()
	for _, m := range modules {
		j.list(m)
	}
	before, builtins := known(&v.builtins), map[string]fs.FileInfo{}
	for _, name := range folders {
		folder := v.folder(name)
		if j.modules[name] != nil {
			j.add(kmodquery.ViewSysfs, name)
			continue
		}
		info, _ := os.Lstat(folder)
		if !os.SameFile(info, before[name]) && isLoaded(folder) {
			j.add(kmodquery.ViewSysfs, name)
		} else {
			builtins[name] = info
		}
	}
	v.builtins.Store(&builtins)
	return j.all(), ctx.Err()
}

// Modules returns the modules that any view shows, with all known values, in the order of
// their names. It takes a few tenths of a second, in which the kernel writes its symbols.
// Views that cannot be read are omitted, and [Views.Status] returns the reasons. Memory
// that belongs to no named module is a module without a name, unless a named module is
// hidden, to which the memory may belong.
//
// The State, Refs, Taints, Version and Srcversion of a hidden module are unknown,
// because no file in sysfs is read for it.
//
// A hidden module is omitted if symbols' names can have forged it.
//
// Modules reads each view once, so a module for which [kmodquery.Module.IsHidden] is true
// is only a suspect.
func (v *Views) Modules(ctx context.Context) ([]kmodquery.Module, error) {
	folders, _ := namesIn(v.path(sysModule))
	v.multiline.Store(new(multilineNames(folders)))
	before, regions, isCalm, err := v.memory(ctx)
	if err != nil {
		return nil, err
	}
	j := newJoin()
	owned := newMemory(regions)
	own := func(name string, address uint64) {
		if name == "" { // generated code, such as ftrace's trampolines
			owned.own(address, builtin)
		} else if owned.own(address, kmodquery.FolderName(name)) {
			j.add(kmodquery.ViewVmallocinfo, name)
		}
	}
	wasListed := map[string]bool{}
	for i := range before {
		wasListed[before[i].Name] = true
	}
	// The sections of a listed module say which memory is its own. Its symbols can be
	// anywhere.
	ownSymbol := func(name string, address uint64) {
		if !wasListed[name] {
			own(name, address)
		}
	}
	// A view that cannot be read completely adds the part that was read.
	inSysfs, _ := v.inSysfs()
	j.add(kmodquery.ViewSysfs, inSysfs...)
	symbols, forged, err := v.symbols(ctx, ownSymbol)
	forged.err = err
	j.mention(kmodquery.ViewKallsyms, symbols)
	functions, _ := v.functions(ctx, ownSymbol)
	j.mention(kmodquery.ViewFtrace, functions)
	inBTF, _ := v.inBTF()
	j.add(kmodquery.ViewBTF, inBTF...)
	after, err := v.listed(ctx, otherChunk)
	if err != nil {
		return nil, err
	}
	isListed := map[string]bool{}
	for _, m := range after {
		j.list(m)
		isListed[kmodquery.FolderName(m.Name)] = true
	}
	for _, m := range before {
		// Without a folder, the module was unloaded while the other views were read.
		if isLoaded(v.folder(m.Name)) {
			j.list(m)
		}
	}
	forged.names = j.dropForged(forged.line != "" || forged.err != nil, owned)
	v.forged.Store(&[2]forgery{known(&v.forged)[1], forged})
	isCalm = isCalm && !forged.ofMemory
	isLocated := true
	for key, m := range j.modules {
		if m.UsedBy == nil {
			m.UsedBy = v.holders(m.Name)
		}
		if m.Address != nil {
			own(m.Name, uint64(*m.Address))
		}
		if !isListed[key] {
			isLocated = isLocated && m.IsHidden()
			continue
		}
		v.describe(m)
		// Without addresses of the memory, thousands of sections would match nothing.
		if owned.hasAddresses() {
			hasSections := v.sections(m.Name, func(address uint64) { own(m.Name, address) })
			isLocated = isLocated && hasSections
		}
	}
	if isCalm && owned.hasAddresses() && isLocated {
		j.assign(owned.free(v.page, hasCache(owned, after)), owned)
	} else if bytes := excess(regions, before); isCalm && !owned.hasAddresses() && bytes > 0 {
		j.assign([]kmodquery.Module{{Size: &bytes, Views: []string{kmodquery.ViewVmallocinfo}}}, owned)
	}
	return j.all(), ctx.Err()
}

// hasCache reports whether the text of modules is outside the shared regions. The shared
// regions then hold only data, and only modules have such data.
func hasCache(owned *memory, modules []kmodquery.Module) bool {
	for _, m := range modules {
		if m.Address != nil {
			at, isThere := owned.at(uint64(*m.Address))
			return !isThere || !owned.regions[at].shared
		}
	}
	return false
}

// memory reads the list and the regions of modules' memory. isCalm reports whether the two
// belong together: the list was the same before and after, and no module was being loaded
// or unloaded. A module that is being loaded has memory before it is listed, and may stay
// in that state while it waits for the init of another module.
func (v *Views) memory(ctx context.Context) (modules []kmodquery.Module, regions []region, isCalm bool, err error) {
	before, err := v.listed(ctx, wholePages)
	if err != nil {
		return nil, nil, false, err
	}
	file, err := os.Open(v.path(procVmalloc))
	if err != nil {
		return before, nil, false, nil
	}
	defer file.Close()
	if regions, err = parseVmallocinfo(ctx, file, v.page); err != nil {
		return before, nil, false, ctx.Err()
	}
	after, err := v.listed(ctx, wholePages)
	if err != nil {
		return nil, nil, false, err
	}
	return after, regions, isUnchanged(before, after), nil
}

// isUnchanged reports whether two readings of the list show the same modules and
// all of them are live.
func isUnchanged(before, after []kmodquery.Module) bool {
	return slices.EqualFunc(before, after, func(a, b kmodquery.Module) bool {
		return a.Name == b.Name && a.State == "Live" && b.State == "Live" && *a.Size == *b.Size
	})
}

// symbols reads kallsyms.
func (v *Views) symbols(ctx context.Context, visit visitor) (map[string]*mention, forgery, error) {
	file, err := os.Open(v.path(procKallsyms))
	if err != nil {
		return nil, forgery{}, err
	}
	defer file.Close()
	return parseKallsyms(ctx, file, visit)
}

// functions reads the functions that ftrace can trace, with their addresses if the kernel
// shows them.
func (v *Views) functions(ctx context.Context, visit visitor) (map[string]*mention, error) {
	if err := v.panicsOnWarning(); err != nil {
		return nil, err
	}
	path := v.tracingPath()
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return parseFunctions(ctx, file, filepath.Base(path) == tracingAddresses, visit)
}

// panicsOnWarning returns an error if the kernel panics on warnings: ftrace warns
// (t_show) when it lists the functions of a module whose state is UNFORMED.
func (v *Views) panicsOnWarning() error {
	value, err := os.ReadFile(v.path(procOnWarn))
	if err != nil || strings.TrimSpace(string(value)) == "0" {
		return nil
	}
	return &kmodquery.NotSupportedError{
		Missing: "tracefs on a kernel that panics on warnings, because hidden modules cause a warning in tracefs",
		Need:    "sysctl kernel.panic_on_warn=0",
	}
}

// A join joins the modules that the views show, by their names in sysfs.
type join struct {
	modules  map[string]*kmodquery.Module
	nameless []kmodquery.Module
}

func newJoin() *join { return &join{modules: map[string]*kmodquery.Module{}} }

// list adds a module of the kernel's own list.
func (j *join) list(m kmodquery.Module) {
	key := kmodquery.FolderName(m.Name)
	if known := j.modules[key]; known != nil {
		if !known.IsHidden() {
			return // listed already
		}
		m.Views = known.Views
	}
	m.Views = withView(m.Views, kmodquery.ViewModules)
	j.modules[key] = &m
}

// add adds modules that a view shows by name only.
func (j *join) add(view string, names ...string) {
	for _, name := range names {
		key := kmodquery.FolderName(name)
		m := j.modules[key]
		if m == nil {
			m = &kmodquery.Module{Name: name}
			j.modules[key] = m
		}
		if m.Name == key {
			m.Name = name // the folder's name may lack slashes
		}
		m.Views = withView(m.Views, view)
	}
}

func (j *join) mention(view string, mentions map[string]*mention) {
	for name, found := range mentions {
		j.add(view, name)
		if m := j.modules[kmodquery.FolderName(name)]; m.IsHidden() && m.Address == nil && found.first != 0 {
			m.Address = new(int64(found.first))
		}
	}
}

// dropForged drops the hidden modules that kallsyms names and that sysfs and btf lack, and
// those that only ftrace shows if its lines may be forged. It returns the names of the former.
// The memory of all has no owner then.
func (j *join) dropForged(isForged bool, owned *memory) (names []string) {
	for key, m := range j.modules {
		isNamed := slices.Contains(m.Views, kmodquery.ViewKallsyms)
		if !m.IsHidden() || isProvable(m) || !isForged && !isNamed {
			continue
		}
		if isNamed {
			names = append(names, m.Name)
		}
		owned.disown(key)
		delete(j.modules, key)
	}
	return names
}

// assign assigns memory without a known owner. It becomes modules without a name,
// unless named modules are hidden, to which it may belong. A single hidden module gets
// it if only ftrace or kallsyms shows that module: Confirm reads the views again later
// for such a module, when memory that is being freed is gone.
func (j *join) assign(free []kmodquery.Module, owned *memory) {
	var hidden []*kmodquery.Module
	for _, m := range j.modules {
		if m.IsHidden() {
			hidden = append(hidden, m)
		}
	}
	if len(hidden) == 0 {
		j.nameless = free
	}
	if len(hidden) != 1 || len(free) == 0 || isProvable(hidden[0]) {
		return
	}
	m := hidden[0]
	size := owned.of(kmodquery.FolderName(m.Name))
	for _, found := range free {
		size += *found.Size
		if m.Address == nil {
			m.Address = found.Address
		}
	}
	m.Size = &size
	m.Views = withView(m.Views, kmodquery.ViewVmallocinfo)
}

// isProvable reports whether Confirm can prove at once that a module is hidden.
func isProvable(m *kmodquery.Module) bool {
	return slices.Contains(m.Views, kmodquery.ViewSysfs) || slices.Contains(m.Views, kmodquery.ViewBTF)
}

// all returns the modules by name, those without one last.
func (j *join) all() []kmodquery.Module {
	var all []kmodquery.Module
	for _, m := range j.modules {
		all = append(all, *m)
	}
	slices.SortFunc(all, func(a, b kmodquery.Module) int { return cmp.Compare(a.Name, b.Name) })
	return append(all, j.nameless...)
}

// withView returns views with one more, in order.
func withView(views []string, view string) []string {
	return slices.DeleteFunc(slices.Clone(order), func(other string) bool {
		return other != view && !slices.Contains(views, other)
	})
}
