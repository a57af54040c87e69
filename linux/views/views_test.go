package views

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/leak"
)

// A tree is a copy of /proc and /sys: the content of files by their path. A path that ends
// with a slash is a folder.
type tree map[string]string

func (files tree) write(t testing.TB, root string) {
	t.Helper()
	for path, content := range files {
		path = filepath.Join(root, path) + map[bool]string{true: "/"}[path[len(path)-1] == '/']
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if path[len(path)-1] != '/' {
			require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		}
	}
}

// newViews returns views of a copy, with short times for Confirm.
func newViews(t testing.TB, files ...tree) *Views {
	t.Helper()
	leak.Check(t)
	root := t.TempDir()
	for _, f := range files {
		f.write(t, root)
	}
	v := New(root)
	v.page, v.window, v.patience, v.pause = 4096, 20*time.Millisecond, time.Second, time.Millisecond
	return v
}

const (
	nbdLine   = "nbd 16384 1 dummy, Live 0xffffffffc0010000 (OE)\n"
	dummyLine = "dummy 16384 0 - Live 0xffffffffc0020000\n"

	nbdMemory   = "0x00000000f90acb8c-0x000000009edf68b6   20480 load_module+0xd97/0x2630 pages=4 vmalloc\n"
	dummyMemory = "0x000000009edf68b6-0x00000000f90acb8c   20480 load_module+0xd97/0x2630 pages=4 vmalloc\n"
)

var plain = tree{
	"proc/modules":                nbdLine + dummyLine,
	"proc/vmallocinfo":            nbdMemory + dummyMemory,
	"proc/kallsyms":               "ffffffff81000000 T _text\nffffffffc0010000 t a\t[nbd]\nffffffffc0020000 t b\t[dummy]\n",
	"proc/sys/kernel/tainted":     "12288\n",
	"sys/kernel/btf/vmlinux":      "",
	"sys/kernel/btf/dummy":        "",
	"sys/module/kernel/uevent":    "",
	"sys/module/printk/version":   "1\n",
	"sys/module/nbd/initstate":    "live\n",
	"sys/module/nbd/coresize":     "16384\n",
	"sys/module/dummy/initstate":  "live\n",
	"sys/module/dummy/coresize":   "16384\n",
	"sys/module/dummy/refcnt":     "3\n",
	"sys/module/dummy/taint":      "OE\n",
	"sys/module/dummy/version":    "1.0\n",
	"sys/module/dummy/srcversion": "0123456789ABCDEF\n",
	"sys/module/dummy/holders/x/": "",

	"sys/module/dummy/sections/.text":      "0xffffffffc0020000",
	"sys/module/dummy/sections/.init.text": "0xffffffffc0030000",
	"sys/module/dummy/sections/.symtab":    "0xffffffffc0031000",
	"sys/module/nbd/sections/.text":        "0xffffffffc0010000",
	"sys/module/nbd/sections/.data":        "0xffffffffc0012000",

	"sys/kernel/tracing/available_filter_functions": "schedule\na [nbd]\nb [dummy]\n",
}

// with returns plain with some files replaced.
func with(files tree) tree {
	all := maps.Clone(plain)
	maps.Copy(all, files)
	return all
}

func TestModules(t *testing.T) {
	v := newViews(t, plain)
	modules, err := v.Modules(t.Context())
	require.NoError(t, err)
	want := []kmodquery.Module{
		{Name: "dummy", Size: new(int64(16384)), Refs: new(int64(0)), State: "Live", Address: kernelAddress(0xffffffffc0020000), Taints: new(int64(0)),
			UsedBy: []string{"x"}, Version: "1.0", Srcversion: "0123456789ABCDEF", Views: []string{"modules", "sysfs", "kallsyms", "ftrace", "btf"}},
		{Name: "nbd", Size: new(int64(16384)), Refs: new(int64(1)), State: "Live", UsedBy: []string{"dummy"}, Address: kernelAddress(0xffffffffc0010000),
			Taints: new(int64(1<<12 | 1<<13)), Views: []string{"modules", "sysfs", "kallsyms", "ftrace"}},
	}
	require.Equal(t, want, modules)
	taint, err := v.Taint(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 12288, taint)

	listed, err := v.Listed(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"dummy", "nbd"}, namesOf(listed))
	for _, m := range listed {
		require.Equal(t, []string{"modules", "sysfs"}, m.Views)
	}
}

func TestHidden(t *testing.T) {
	unlinked := tree{"proc/modules": nbdLine, "proc/kallsyms": "ffffffffc0010000 t a\t[nbd]\n"}
	v := newViews(t, with(unlinked))
	modules, err := v.Modules(t.Context())
	require.NoError(t, err)
	want := kmodquery.Module{Name: "dummy", UsedBy: []string{"x"}, Views: []string{"sysfs", "ftrace", "btf"}}
	require.Equal(t, want, modules[0])
	require.Len(t, modules, 2)
	confirmed, err := v.Confirm(t.Context(), modules)
	require.NoError(t, err)
	require.Equal(t, []kmodquery.Module{want}, confirmed)

	listed, err := v.Listed(t.Context())
	require.NoError(t, err)
	want = kmodquery.Module{Name: "dummy", Views: []string{"sysfs"}}
	require.Equal(t, want, listed[0])
	confirmed, err = v.Confirm(t.Context(), listed)
	require.NoError(t, err)
	require.Equal(t, []kmodquery.Module{want}, confirmed)

	// A module that is listed again was a race.
	tree{"proc/modules": nbdLine + dummyLine}.write(t, v.root)
	confirmed, err = v.Confirm(t.Context(), modules)
	require.NoError(t, err)
	require.Empty(t, confirmed)
}

// A module may remove its attributes.
func TestHiddenWithoutAttributes(t *testing.T) {
	for _, rest := range ofModules {
		v := newViews(t, tree{"proc/modules": nbdLine, "sys/module/evil/" + rest: "", "sys/module/printk/uevent": ""})
		modules, err := v.Listed(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"evil", "nbd"}, namesOf(modules))
		confirmed, err := v.Confirm(t.Context(), modules)
		require.NoError(t, err)
		require.Equal(t, []string{"evil"}, namesOf(confirmed))
	}
}

// A module of the same name that was loaded in between has another folder, which proves
// nothing.
func TestConfirmNeedsTheSameFolder(t *testing.T) {
	v := newViews(t, with(tree{"proc/modules": nbdLine}))
	m := kmodquery.Module{Name: "dummy", Views: []string{"sysfs"}}
	proof, err := v.prove(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, hidden, proof)
	before := v.identities("dummy")
	require.NoError(t, os.Rename(v.folder("dummy"), v.folder("old")))
	tree{"sys/module/dummy/initstate": "live\n"}.write(t, v.root)
	after := v.identities("dummy")
	require.False(t, os.SameFile(before[0], after[0]))
	// Code that is built into the kernel has a folder too.
	require.Nil(t, v.identities("printk")[0])
}

// A symbol has the name of something else in sysfs or btf.
func TestConfirmNeedsAFolderOfAModule(t *testing.T) {
	v := newViews(t, with(tree{"sys/kernel/btf/vmlinux": "", "sys/module/holders/initstate": ""}))
	for _, name := range []string{".", "..", "vmlinux"} {
		confirmed, err := v.Confirm(t.Context(), []kmodquery.Module{{Name: name, Views: []string{"kallsyms"}}})
		require.NoError(t, err)
		require.Empty(t, confirmed, name)
	}
}

// ghostly has a module that only ftrace names and that has memory.
var ghostly = tree{
	"proc/modules":     nbdLine + dummyLine,
	"proc/vmallocinfo": nbdMemory + dummyMemory + "0x0000000000000001-0x0000000000000002 12288 load_module+0xd97/0x2630 pages=2\n",
	"sys/kernel/tracing/available_filter_functions": "schedule\na [nbd]\nb [dummy]\nc [ghost]\n",
}

func TestGhost(t *testing.T) {
	v := newViews(t, with(ghostly))
	modules, err := v.Modules(t.Context())
	require.NoError(t, err)
	want := kmodquery.Module{Name: "ghost", Size: new(int64(8192)), Views: []string{"ftrace", "vmallocinfo"}}
	require.Equal(t, want, modules[1])
	confirmed, err := v.Confirm(t.Context(), modules)
	require.NoError(t, err)
	require.Equal(t, []kmodquery.Module{want}, confirmed)

	// Only its memory is left.
	tree{"sys/kernel/tracing/available_filter_functions": "schedule\n"}.write(t, v.root)
	modules, err = v.Modules(t.Context())
	require.NoError(t, err)
	want.Name, want.Views = "", []string{"vmallocinfo"}
	require.Equal(t, want, modules[2])
	confirmed, err = v.Confirm(t.Context(), modules)
	require.NoError(t, err)
	require.Equal(t, []kmodquery.Module{want}, confirmed)

	// The memory may belong to either of two modules that ftrace names, so it is not a
	// third module.
	tree{"sys/kernel/tracing/available_filter_functions": "c [ghost]\nd [other]\n"}.write(t, v.root)
	modules, err = v.Modules(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"dummy", "ghost", "nbd", "other"}, namesOf(modules))
	require.Nil(t, modules[1].Size)
	require.Equal(t, []string{"ftrace"}, modules[1].Views)
	confirmed, err = v.Confirm(t.Context(), []kmodquery.Module{want})
	require.NoError(t, err)
	require.Empty(t, confirmed, "memory without a name")
}

// forgedBy returns files in which a listed module has a symbol of any name.
func forgedBy(symbol string) tree {
	return tree{
		"proc/kallsyms": plain["proc/kallsyms"] + "ffffffffc0020010 t " + symbol + "\t[dummy]\n",
		"sys/kernel/tracing/available_filter_functions": plain["sys/kernel/tracing/available_filter_functions"] + symbol + " [dummy]\n",
	}
}

// The names of a module's symbols can look like lines about a module that never was.
func TestNamesOfSymbolsForgeNoHiddenModule(t *testing.T) {
	for name, symbol := range map[string]string{
		"both views":            "x\t[ghost]\nffffffffc0090000 t y",
		"both views separately": "x\t[ghost]\nffffffffc0090000 t y\nz [ghost]\nffffffffc0090000 t w",
		"ftrace":                "x\ny [ghost]\nz",
		"ftrace, one line":      "x [ghost",
		"ftrace, as kallsyms":   "x\nffffffffc0090000 t y\t[a [ghost]\nffffffffc0090000 t z",
		"of a listed module's":  "x\t[nbd]\nffffffffc0090000 t y [ghost",
		"ftrace, as a symbol":   "x\nffffffffc0090000 t [ghost]\nffffffffc0090000 t z",
		"ftrace, as a type":     "x\nffffffffc0090000 [ ghost]\nffffffffc0090000 t z",
		"ftrace, after code":    "x\nffffffffc0090000 t y\t[__builtin__ftrace [ghost]\nffffffffc0090000 t z",
		"ftrace, after no name": "x\nffffffffc0090000 t y\t[" + strings.Repeat("n", maxName) + " [ghost]\nffffffffc0090000 t z",
		"ftrace, after a name":  "x\nffffffffc0090000 t y\t[nbd [ghost]\nffffffffc0090000 t z",
	} {
		t.Run(name, func(t *testing.T) {
			v := newViews(t, with(forgedBy(symbol)))
			for range 2 {
				modules, err := v.Modules(t.Context())
				require.NoError(t, err)
				require.Equal(t, []string{"dummy", "nbd"}, namesOf(modules))
			}
			suspects := []kmodquery.Module{{Name: "ghost", Views: []string{"kallsyms", "ftrace"}}, {Name: "ghost [dummy", Views: []string{"ftrace"}}}
			confirmed, err := v.Confirm(t.Context(), suspects)
			require.NoError(t, err)
			require.Empty(t, confirmed)
			status := v.Status()[2]
			require.Equal(t, kmodquery.ViewKallsyms, status.View)
			require.ErrorContains(t, status.Err, "/proc/kallsyms")
			require.ErrorContains(t, status.Err, "reported")
			require.NotContains(t, status.Err.Error(), "\n")

			// When the module is gone, nothing is left of it.
			tree{"proc/kallsyms": plain["proc/kallsyms"], "sys/kernel/tracing/available_filter_functions": "schedule\n"}.write(t, v.root)
			_, err = v.Modules(t.Context())
			require.NoError(t, err)
			require.NoError(t, v.Status()[2].Err)
		})
	}
}

// While modules are loaded and unloaded, kallsyms names some that the list never shows.
func TestLoadsAndUnloadsHideNoModule(t *testing.T) {
	v := newViews(t, with(ghostly))
	for i := range 3 {
		tree{"proc/kallsyms": plain["proc/kallsyms"] + fmt.Sprintf("ffffffffc0090000 t x\t[brief%d]\n", i)}.write(t, v.root)
		modules, err := v.Modules(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"dummy", "ghost", "nbd"}, namesOf(modules))
		confirmed, err := v.Confirm(t.Context(), modules)
		require.NoError(t, err)
		require.Equal(t, []string{"ghost"}, namesOf(confirmed))
	}
}

// A module whose name has a bracket, and the symbols of one, forge no other module.
func TestBracketInTheNameOfAListedModuleForgesNoOther(t *testing.T) {
	const symbol = "x\nffffffffc0020000 t y\t[a [ghost]\nffffffffc0020000 t z"
	v := newViews(t, tree{
		"proc/modules": "a [ghost 4096 0 - Live 0xffffffffc0020000\n", "sys/module/a [ghost/initstate": "live\n",
		"proc/kallsyms": "ffffffffc0020000 t " + symbol + "\t[a [ghost]\n",
		"sys/kernel/tracing/available_filter_functions": symbol + " [a [ghost]\n",
	})
	modules, err := v.Modules(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a [ghost"}, namesOf(modules))
	require.Equal(t, []string{"modules", "sysfs", "kallsyms", "ftrace"}, modules[0].Views)
}

// What symbols' names cannot write proves that a module hides also while names are forged.
func TestForgedNamesHideNoHiddenModule(t *testing.T) {
	// Its folder.
	v := newViews(t, with(forgedBy("x\t[ghost]\nffffffffc0090000 t y")), tree{"proc/modules": nbdLine})
	modules, err := v.Modules(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"dummy", "nbd"}, namesOf(modules))
	confirmed, err := v.Confirm(t.Context(), modules)
	require.NoError(t, err)
	require.Equal(t, []string{"dummy"}, namesOf(confirmed))

	// Its memory, which has no name then, whether the kernel shows addresses or not.
	for address, memory := range map[int64]string{
		0: ghostly["proc/vmallocinfo"],
		-0x3fff0000: "0xffffffffc0010000-0xffffffffc0015000 20480 load_module+0x1/0x2 pages=4\n" +
			"0xffffffffc0020000-0xffffffffc0025000 20480 load_module+0x1/0x2 pages=4\n" +
			"0xffffffffc0090000-0xffffffffc0093000 12288 load_module+0x1/0x2 pages=2\n",
	} {
		v = newViews(t, with(forgedBy("x\t[ghost]\nffffffffc0090000 t y")), tree{"proc/vmallocinfo": memory})
		modules, err = v.Modules(t.Context())
		require.NoError(t, err)
		want := kmodquery.Module{Size: new(int64(8192)), Views: []string{"vmallocinfo"}}
		if address != 0 {
			want.Address = kernelAddress(0xffffffffc0090000)
		}
		require.Equal(t, want, modules[len(modules)-1])
		confirmed, err = v.Confirm(t.Context(), modules)
		require.NoError(t, err)
		require.Equal(t, []kmodquery.Module{want}, confirmed)
	}
}

// vmallocinfo names the function that made a region, with its symbol's name.
func TestNamesOfSymbolsForgeNoMemory(t *testing.T) {
	symbol := "x+0x1/0x2\n0xffffffffc0900000-0xffffffffc0903000 12288 load_module+0x1/0x2 pages=2\n0x1-0x2 4096 y"
	memory := nbdMemory + dummyMemory + "0x3-0x4 20480 " + symbol + "+0x1/0x2 [dummy] pages=4 vmalloc\n"
	v := newViews(t, with(forgedBy(symbol)), tree{"proc/vmallocinfo": memory})
	modules, err := v.Modules(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"dummy", "nbd"}, namesOf(modules))
	require.ErrorContains(t, v.Status()[2].Err, "lines that the kernel does not write")
}

// A module may name its functions like those of the kernel's loader, and allocate memory. No
// line of kallsyms is forged then.
func TestFunctionsNamedAsTheLoadersOwnNoModulesMemory(t *testing.T) {
	for _, symbol := range []string{
		"load_module", "move_module", "execmem_alloc_rw", "load_module+0x1/0x2\n0000000000000000 t gg",
		"load_module+0x1/0x2\vpages=2", "load_module+0x1/0x2\u00a0pages=2",
	} {
		memory := nbdMemory + dummyMemory + "0x3-0x4 12288 " + symbol + "+0x10/0x20 [dummy] pages=2 vmalloc\n"
		v := newViews(t, with(forgedBy(symbol)), tree{"proc/vmallocinfo": memory})
		modules, err := v.Modules(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"dummy", "nbd"}, namesOf(modules), "%q", symbol)
		require.NoError(t, v.Status()[2].Err, "%q", symbol)
	}
}

// While kallsyms cannot be read completely, it does not show whether names are forged.
func TestFtraceAloneNeedsAllOfKallsyms(t *testing.T) {
	v := newViews(t, with(ghostly))
	var symbols strings.Builder
	for i := range maxNames + 1 {
		fmt.Fprintf(&symbols, "ffffffffc0020000 t x\t[m%d]\n", i)
	}
	tree{"proc/kallsyms": symbols.String()}.write(t, v.root)
	modules, err := v.Modules(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"dummy", "nbd", ""}, namesOf(modules))
	require.ErrorIs(t, v.Status()[2].Err, errTooMany)
}

// The kernel executes BUG() if the initstate of a module is read whose state is
// UNFORMED, and a module can set that at any time.
func TestFilesOfHiddenModulesAreNotRead(t *testing.T) {
	v := newViews(t, with(tree{"proc/modules": nbdLine}))
	unread := []string{v.folder("nbd") + "/initstate"}
	for _, name := range []string{"initstate", "coresize", "refcnt", "taint", "version", "srcversion", "sections/.text"} {
		unread = append(unread, filepath.Join(v.folder("dummy"), name))
	}
	for _, file := range unread { // opening a pipe blocks until there is a writer
		require.NoError(t, os.Remove(file))
		require.NoError(t, syscall.Mkfifo(file, 0o600))
	}
	results := make(chan []kmodquery.Module)
	go func() {
		defer close(results)
		for _, read := range []func(context.Context) ([]kmodquery.Module, error){v.Listed, v.Modules} {
			modules, err := read(t.Context())
			assert.NoError(t, err)
			confirmed, err := v.Confirm(t.Context(), modules)
			assert.NoError(t, err)
			results <- confirmed
		}
	}()
	for range 2 {
		select {
		case confirmed := <-results:
			require.Equal(t, []string{"dummy"}, namesOf(confirmed))
		case <-time.After(10 * time.Second):
			for _, file := range unread {
				if reader, err := os.OpenFile(file, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
					t.Errorf("%s is read", file)
					reader.Close()
				}
			}
			t.FailNow()
		}
	}
	<-results
}

// A module is hidden if its folder stays while it is not listed, even if it was listed
// a moment before.
func TestConfirmModuleThatIsHiddenAndListedInTurn(t *testing.T) {
	v := newViews(t, plain)
	v.pause = 200 * time.Millisecond
	hide := time.AfterFunc(v.pause/4, func() { assert.NoError(t, os.WriteFile(v.path("proc/modules"), []byte(nbdLine), 0o644)) })
	defer hide.Stop()
	suspect := kmodquery.Module{Name: "dummy", Views: []string{"sysfs"}}
	confirmed, err := v.Confirm(t.Context(), []kmodquery.Module{suspect})
	require.NoError(t, err)
	require.Equal(t, []kmodquery.Module{suspect}, confirmed)
}

// Memory proves nothing while a module is loaded or unloaded, or if it is freed meanwhile.
func TestMemoryWithoutAName(t *testing.T) {
	for name, files := range map[string]tree{
		"loading": {"proc/modules": nbdLine + "dummy 16384 0 - Loading 0xffffffffc0020000 (+)\n"},
		"freed":   {"proc/vmallocinfo": nbdMemory + dummyMemory},
		"shared":  {"proc/vmallocinfo": nbdMemory + dummyMemory + "0x1-0x2 8192 execmem_alloc_rw+0x1/0x2 pages=1\n" + dummyMemory},
		"no file": {"proc/vmallocinfo/": ""},
	} {
		t.Run(name, func(t *testing.T) {
			nameless := kmodquery.Module{Size: new(int64(8192)), Views: []string{"vmallocinfo"}}
			all := with(ghostly)
			delete(all, "sys/kernel/tracing/available_filter_functions")
			maps.Copy(all, files)
			if _, ok := files["proc/vmallocinfo/"]; ok {
				delete(all, "proc/vmallocinfo")
			}
			v := newViews(t, all)
			modules, err := v.Modules(t.Context())
			require.NoError(t, err)
			require.Equal(t, []string{"dummy", "nbd"}, namesOf(modules))
			confirmed, err := v.Confirm(t.Context(), []kmodquery.Module{nameless})
			require.NoError(t, err)
			require.Empty(t, confirmed)
		})
	}
}

// If the kernel shows addresses, memory is assigned to modules by them.
func TestAddresses(t *testing.T) {
	const rw = "execmem_alloc_rw+0x13/0x60 pages=1\n"
	files := with(tree{
		// The text of both modules is in a cache that modules share.
		"proc/vmallocinfo": "0xffffffffc0012000-0xffffffffc0014000    8192 " + rw +
			"0xffffffffc0040000-0xffffffffc0042000    8192 " + rw +
			"0xffffffffc0050000-0xffffffffc0052000    8192 " + rw,
		"proc/kallsyms": "ffffffffc0050000 t ftrace_trampoline\t[__builtin__ftrace]\n",
	})
	v := newViews(t, files)
	modules, err := v.Modules(t.Context())
	require.NoError(t, err)
	want := kmodquery.Module{Address: kernelAddress(0xffffffffc0040000), Size: new(int64(4096)), Views: []string{"vmallocinfo"}}
	require.Equal(t, []string{"dummy", "nbd", ""}, namesOf(modules))
	require.Equal(t, want, modules[2])
	require.Contains(t, modules[1].Views, "vmallocinfo")
	confirmed, err := v.Confirm(t.Context(), modules)
	require.NoError(t, err)
	require.Equal(t, []kmodquery.Module{want}, confirmed)

	// The text of a module is in a region of the same name, so there is no cache.
	tree{"proc/modules": "nbd 16384 1 dummy, Live 0xffffffffc0012000\n"}.write(t, v.root)
	require.NoError(t, os.RemoveAll(v.folder("dummy")))
	require.NoError(t, os.Remove(v.path("sys/kernel/btf/dummy")))
	tree{"sys/kernel/tracing/available_filter_functions": ""}.write(t, v.root)
	modules, err = v.Modules(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"nbd"}, namesOf(modules))

	// A module without sections may own any region.
	v = newViews(t, files)
	require.NoError(t, os.RemoveAll(filepath.Join(v.folder("nbd"), "sections")))
	modules, err = v.Modules(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"dummy", "nbd"}, namesOf(modules))
}

// A name in sysfs cannot have a slash.
func TestNamesInSysfs(t *testing.T) {
	v := newViews(t, tree{"proc/modules": "a/b 4096 0 - Live 0x0\n", "sys/module/a!b/initstate": "live\n"})
	modules, err := v.Listed(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a/b"}, namesOf(modules))
	require.Equal(t, []string{"modules", "sysfs"}, modules[0].Views)

	v = newViews(t, tree{"proc/modules": "", "sys/module/a!b/initstate": "live\n", "proc/kallsyms": "ffffffffc0000000 t f\t[a/b]\n"})
	modules, err = v.Modules(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a/b"}, namesOf(modules))
	require.Equal(t, []string{"sysfs", "kallsyms"}, modules[0].Views)
}

// No name makes a module look like another one, or creates another one.
func TestBracketsInNames(t *testing.T) {
	v := newViews(t, tree{
		"proc/modules":                   "]\t[dummy 4096 0 - Live 0x0\nevil 4096 0 - Live 0x0\na [b 4096 0 - Live 0x0\n",
		"sys/module/]\t[dummy/initstate": "live\n", "sys/module/evil/initstate": "live\n", "sys/module/a [b/initstate": "live\n",
		"proc/kallsyms": "ffffffffc0020000 t init_module\t[]\t[dummy]\nffffffffc0020000 t y\t[evil]\nffffffffc0020000 t x\t[a [b]\nffffffffc0020000 t z [ghost\t[evil]\n",
		"sys/kernel/tracing/available_filter_functions": "init_module []\t[dummy]\ny [evil]\nx [a [b]\nz [ghost [evil]\n",
	})
	modules, err := v.Modules(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"]\t[dummy", "a [b", "evil"}, namesOf(modules))
	for _, m := range modules {
		require.Equal(t, []string{"modules", "sysfs", "kallsyms", "ftrace"}, m.Views)
	}
}

// A folder in sysfs that is remembered as built in does not stand for a later one.
func TestEveryNewFolderInSysfsIsChecked(t *testing.T) {
	v := newViews(t, tree{"proc/modules": "", "sys/module/builtin/uevent": "", "new/initstate": "live\n"})
	hidden := func() []string {
		modules, err := v.Listed(t.Context())
		require.NoError(t, err)
		return namesOf(slices.DeleteFunc(modules, func(m kmodquery.Module) bool { return !m.IsHidden() }))
	}
	folder := v.folder("builtin")
	require.Empty(t, hidden())
	require.Empty(t, hidden())
	require.NoError(t, os.Rename(folder, v.path("old")))
	require.NoError(t, os.Rename(v.path("new"), folder))
	require.Equal(t, []string{"builtin"}, hidden(), "another folder of the same name")
	require.NoError(t, os.Rename(folder, v.path("new")))
	require.NoError(t, os.Rename(v.path("old"), folder))
	require.Empty(t, hidden())

	// The same folder belongs to a module, which then hides.
	tree{"proc/modules": "builtin 4096 0 - Live 0x0\n", "sys/module/builtin/initstate": "live\n"}.write(t, v.root)
	require.Empty(t, hidden())
	tree{"proc/modules": ""}.write(t, v.root)
	require.Equal(t, []string{"builtin"}, hidden())
	require.Equal(t, []string{"builtin"}, hidden())
}

func TestStatus(t *testing.T) {
	v := newViews(t, plain)
	for _, status := range v.Status() {
		require.NoError(t, status.Err, status.View)
	}
	for memory, missing := range map[string]string{
		"0x1-0x2 8192 execmem_alloc_rw+0x1/0x2 pages=1\n":                       "addresses in /proc/vmallocinfo",
		"0x1-0x2 8192 execmem_alloc+0x1/0x2 pages=1\n":                          "the memory of modules in /proc/vmallocinfo",
		"0xffffffffc0000000-0xffffffffc0002000 8192 execmem_alloc_rw pages=1\n": "",
	} {
		v = newViews(t, with(tree{"proc/vmallocinfo": memory}))
		err := v.Status()[5].Err
		if missing == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, kmodquery.ErrNotSupported)
		require.ErrorContains(t, err, missing)
	}
	v = newViews(t, tree{"sys/kernel/tracing/": ""})
	var views []string
	for _, status := range v.Status() {
		views = append(views, status.View)
		require.ErrorIs(t, status.Err, kmodquery.ErrNotSupported)
		require.NotContains(t, status.Err.Error(), "\n")
	}
	require.Equal(t, order[:len(order)-1], views)
	require.ErrorContains(t, v.Status()[3].Err, "mount -t tracefs")
	_, err := v.Modules(t.Context())
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	_, err = v.Listed(t.Context())
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	_, err = v.Taint(t.Context())
	require.Error(t, err)
}

// Hidden modules make the kernel warn while it lists the functions for ftrace.
func TestFtraceIsNotReadIfTheKernelPanicsOnWarnings(t *testing.T) {
	for value, isRead := range map[string]bool{"0\n": true, "1\n": false} {
		v := newViews(t, with(tree{"proc/sys/kernel/panic_on_warn": value}))
		modules, err := v.Modules(t.Context())
		require.NoError(t, err)
		require.Equal(t, isRead, slices.Contains(modules[0].Views, kmodquery.ViewFtrace))
		status := v.Status()[3]
		require.Equal(t, kmodquery.ViewFtrace, status.View)
		if isRead {
			require.NoError(t, status.Err)
		} else {
			require.ErrorIs(t, status.Err, kmodquery.ErrNotSupported)
			require.ErrorContains(t, status.Err, "kernel.panic_on_warn=0")
		}
	}
}

func TestContextEnds(t *testing.T) {
	v := newViews(t, with(ghostly))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := v.Modules(ctx)
	require.ErrorIs(t, err, context.Canceled)
	_, err = v.Listed(ctx)
	require.ErrorIs(t, err, context.Canceled)
	_, err = v.Confirm(ctx, []kmodquery.Module{{Name: "ghost", Views: []string{"ftrace"}}})
	require.ErrorIs(t, err, context.Canceled)
}
