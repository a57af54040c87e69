package views

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kmodquery/kmodquery"
)

// Where the views are, below the root.
const (
	procModules  = "proc/modules"
	procKallsyms = "proc/kallsyms"
	procVmalloc  = "proc/vmallocinfo"
	procTainted  = "proc/sys/kernel/tainted"
	sysModule    = "sys/module"
	sysBTF       = "sys/kernel/btf"
)

// tracingFolders are where tracefs may be mounted.
var tracingFolders = []string{"sys/kernel/tracing", "sys/kernel/debug/tracing"}

// Names of the file in tracefs that lists what can be traced. The first has
// addresses too, and exists from 6.5 on.
const (
	tracingAddresses = "available_filter_functions_addrs"
	tracingFunctions = "available_filter_functions"
)

// order is that of the views in a module's Views.
var order = []string{
	kmodquery.ViewModules, kmodquery.ViewSysfs, kmodquery.ViewKallsyms, kmodquery.ViewFtrace, kmodquery.ViewBTF,
	kmodquery.ViewVmallocinfo, kmodquery.ViewEvents,
}

// A page of /proc/modules, and another amount that divides it elsewhere.
const (
	wholePages = 4096
	otherChunk = 1700
)

// Views are those of one kernel. They may be used concurrently and hold nothing
// open.
type Views struct {
	root string
	page int64

	// How long Confirm takes samples of the list, and how long of memory.
	window, patience time.Duration
	pause            time.Duration // between two
}

// New returns the views below root: "/" for those of the running kernel.
func New(root string) *Views {
	return &Views{
		root: root, page: int64(os.Getpagesize()),
		window: 600 * time.Millisecond, patience: 2 * time.Second, pause: 10 * time.Millisecond,
	}
}

func (v *Views) path(name string) string { return filepath.Join(v.root, name) }

// folder is a module's in sysfs.
func (v *Views) folder(name string) string {
	return filepath.Join(v.path(sysModule), sysfsName(name))
}

// Listed returns the modules that the kernel's own list or sysfs shows. It is
// meant for polling: it reads one file and one folder, and looks into those of
// what is not listed, which is mostly built in. No more than the list says is
// known of a module that is listed. What sysfs alone shows is a suspect for
// [Views.Confirm].
func (v *Views) Listed(ctx context.Context) ([]kmodquery.Module, error) {
	folders, _ := v.folders() // none where there is no sysfs
	modules, err := v.listed(ctx, wholePages)
	if err != nil {
		return nil, fmt.Errorf("list the modules: %w", explain(kmodquery.ViewModules, err))
	}
	j := newJoin()
	for _, m := range modules {
		j.list(m)
	}
	for _, name := range folders {
		if j.modules[name] != nil || isLoaded(v.folder(name)) {
			j.add(kmodquery.ViewSysfs, name)
		}
	}
	for _, m := range j.modules {
		if m.IsHidden() {
			v.describe(m)
		}
	}
	return j.all(), ctx.Err()
}

// Modules returns the modules that any view shows, with all that is known of
// them, in the order of their names. It takes as long as the kernel takes to
// write its symbols, some tenths of a second. A view that cannot be read is left
// out; [Views.Status] tells. Memory that belongs to no module of a name is a
// module without one.
//
// It is one look: what [kmodquery.Module.IsHidden] says of it is a suspicion.
func (v *Views) Modules(ctx context.Context) ([]kmodquery.Module, error) {
	before, regions, isCalm, err := v.memory(ctx)
	if err != nil {
		return nil, err
	}
	j := newJoin()
	owned := newMemory(regions)
	own := func(name string, address uint64) {
		if owned.own(address, sysfsName(name)) {
			j.add(kmodquery.ViewVmallocinfo, name)
		}
	}
	// Of each of these as much as could be read.
	inSysfs, _ := v.inSysfs()
	j.addAll(kmodquery.ViewSysfs, inSysfs)
	symbols, _ := v.symbols(ctx, own, func(address uint64) { owned.own(address, builtin) })
	j.mention(kmodquery.ViewKallsyms, symbols)
	functions, _ := v.functions(ctx, own)
	j.mention(kmodquery.ViewFtrace, functions)
	inBTF, _ := v.inBTF()
	j.addAll(kmodquery.ViewBTF, inBTF)
	after, err := v.listed(ctx, otherChunk)
	if err != nil {
		return nil, fmt.Errorf("list the modules: %w", explain(kmodquery.ViewModules, err))
	}
	for _, m := range after {
		j.list(m)
	}
	for _, m := range before {
		// It went while the others were read, unless its folder is there still.
		if isLoaded(v.folder(m.Name)) {
			j.list(m)
		}
	}
	isLocated := true
	for _, m := range j.modules {
		v.describe(m)
		if m.Address != nil {
			own(m.Name, uint64(*m.Address))
		}
		hasSections := v.sections(m.Name, func(address uint64) { own(m.Name, address) })
		isLocated = isLocated && (hasSections || m.IsHidden())
	}
	if isCalm && owned.hasAddresses() && isLocated {
		j.account(owned.free(v.page, hasCache(owned, after)), owned)
	} else if isCalm && !owned.hasAddresses() {
		j.account(excess(regions, append(before, j.hidden()...)), owned)
	}
	return j.all(), ctx.Err()
}

// hasCache reports whether the text of modules lies elsewhere than in regions
// whose like other code may have: then these are all data, which is modules'.
func hasCache(owned *memory, modules []kmodquery.Module) bool {
	for _, m := range modules {
		if m.Address != nil {
			at, isThere := owned.at(uint64(*m.Address))
			return !isThere || !owned.regions[at].shared
		}
	}
	return false
}

// memory reads the list and the regions of modules' memory. isCalm says that the
// two belong together: the list was the same before and after, and no module
// came or went. One that comes has memory before it is listed, and may have to
// wait so for another one whose init does not end.
func (v *Views) memory(ctx context.Context) (modules []kmodquery.Module, regions []region, isCalm bool, err error) {
	before, err := v.listed(ctx, wholePages)
	if err != nil {
		return nil, nil, false, fmt.Errorf("list the modules: %w", explain(kmodquery.ViewModules, err))
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
		return nil, nil, false, fmt.Errorf("list the modules: %w", explain(kmodquery.ViewModules, err))
	}
	return after, regions, isSettled(before, after), nil
}

// isSettled reports whether two readings of the list show the same modules and
// all of them are live.
func isSettled(before, after []kmodquery.Module) bool {
	return slices.EqualFunc(before, after, func(a, b kmodquery.Module) bool {
		return a.Name == b.Name && a.State == "Live" && b.State == "Live" && *a.Size == *b.Size
	})
}

// symbols reads kallsyms. Addresses of what is no module, such as a trampoline
// of ftrace, go to builtins.
func (v *Views) symbols(ctx context.Context, visit func(name string, address uint64), builtins func(address uint64)) (map[string]*mention, error) {
	file, err := os.Open(v.path(procKallsyms))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return parseKallsyms(ctx, file, visit, builtins)
}

// functions reads what ftrace can trace, with addresses where the kernel tells
// them.
func (v *Views) functions(ctx context.Context, visit func(name string, address uint64)) (map[string]*mention, error) {
	file, err := v.openTracing(tracingAddresses)
	hasAddress := err == nil
	if err != nil {
		file, err = v.openTracing(tracingFunctions)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return parseFunctions(ctx, file, hasAddress, visit)
}

func (v *Views) openTracing(name string) (*os.File, error) {
	var file *os.File
	var err error
	for _, folder := range tracingFolders {
		if file, err = os.Open(filepath.Join(v.path(folder), name)); err == nil || !os.IsNotExist(err) {
			break
		}
	}
	return file, err
}

// inBTF lists the modules whose types the kernel shows.
func (v *Views) inBTF() ([]string, error) {
	entries, err := os.ReadDir(v.path(sysBTF))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if name := entry.Name(); name != "vmlinux" && len(names) < maxNames {
			names = append(names, name)
		}
	}
	return names, nil
}

// A join brings together what the views show, by the names that sysfs has.
type join struct {
	modules  map[string]*kmodquery.Module
	nameless []kmodquery.Module
}

func newJoin() *join { return &join{modules: map[string]*kmodquery.Module{}} }

// list adds a module of the kernel's own list.
func (j *join) list(m kmodquery.Module) {
	key := sysfsName(m.Name)
	if known := j.modules[key]; known != nil {
		if !known.IsHidden() {
			return // listed already
		}
		m.Views = known.Views
	}
	m.Views = withView(m.Views, kmodquery.ViewModules)
	j.modules[key] = &m
}

func (j *join) add(view, name string) {
	key := sysfsName(name)
	m := j.modules[key]
	if m == nil {
		m = &kmodquery.Module{Name: name}
		j.modules[key] = m
	}
	m.Views = withView(m.Views, view)
}

func (j *join) addAll(view string, names []string) {
	for _, name := range names {
		j.add(view, name)
	}
}

func (j *join) mention(view string, mentions map[string]*mention) {
	for name, found := range mentions {
		j.add(view, name)
		if m := j.modules[sysfsName(name)]; m.IsHidden() && m.Address == nil && found.first != 0 {
			m.Address = new(int64(found.first))
		}
	}
}

// hidden are the modules that the list does not show.
func (j *join) hidden() []kmodquery.Module {
	var hidden []kmodquery.Module
	for _, m := range j.modules {
		if m.IsHidden() {
			hidden = append(hidden, *m)
		}
	}
	return hidden
}

// account gives memory that nobody is known to own to the module of unknown
// size. Where there is not exactly one, it is that of modules without a name.
func (j *join) account(free []kmodquery.Module, owned *memory) {
	var unknown []*kmodquery.Module
	for _, m := range j.modules {
		if m.Size == nil {
			unknown = append(unknown, m)
		}
	}
	if len(unknown) != 1 || len(free) == 0 {
		j.nameless = free
		return
	}
	m := unknown[0]
	size := owned.of(sysfsName(m.Name))
	for _, found := range free {
		size += *found.Size
		if m.Address == nil {
			m.Address = found.Address
		}
	}
	m.Size = &size
	m.Views = withView(m.Views, kmodquery.ViewVmallocinfo)
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

func withView(views []string, view string) []string {
	if slices.Contains(views, view) {
		return views
	}
	views = append(slices.Clone(views), view)
	slices.SortFunc(views, func(a, b string) int { return cmp.Compare(slices.Index(order, a), slices.Index(order, b)) })
	return views
}
