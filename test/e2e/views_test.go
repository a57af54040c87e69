//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/views"
	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestViewsShowEveryColumn compares every column of the inventory with values from
// other sources.
func TestGuestViewsShowEveryColumn(t *testing.T) {
	guest.Only(t)
	path, err := guest.ModulePath("dummy")
	require.NoError(t, err)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	before := latest(t)
	require.NoError(t, guest.LoadImage(image(t, "dummy"), ""))
	defer guest.Unload("dummy")
	load := eventsSince(t, before)[0]

	rows := query(t, "SELECT * FROM kernel_module_inventory WHERE name = 'dummy'")
	require.Len(t, rows, 1)
	row := rows[0]
	require.Regexp(t, `^0xffff[0-9a-f]{12}$`, row["address"])
	require.Greater(t, integer(t, row["size"]), int64(4096))
	info := modinfo(t, image(t, "dummy"))
	want := map[string]string{
		"name": "dummy", "refs": "0", "state": "Live", "taints": "0", "hidden": "0",
		"path": path, "sha256": sum(content), "signer": modinfoField(t, image(t, "dummy"), "signer"),
		"views": array(t, append(viewsOf("dummy"), kmodquery.ViewEvents)...), "address": row["address"], "size": row["size"],
		"load_id": load["load_id"], "first_seen": load["first_seen"], "signature_status": "valid",
	}
	for _, column := range []string{"version", "srcversion"} {
		if info[column] != "" {
			want[column] = info[column]
		}
	}
	require.Equal(t, want, row)
	require.Empty(t, query(t, "SELECT * FROM kernel_module_inventory WHERE hidden = 1"))
	require.Empty(t, query(t, "SELECT * FROM kernel_module_inventory WHERE name = 'nosuch'"))

	for _, status := range views.New("/").Status() {
		if status.View == kmodquery.ViewVmallocinfo && !identifiesMemory() {
			require.ErrorIs(t, status.Err, kmodquery.ErrNotSupported)
			require.ErrorContains(t, status.Err, "sysctl kernel.kptr_restrict=1", "it names the remedy")
			continue
		}
		require.NoError(t, status.Err, status.View)
	}
}

// TestGuestViewsShowHostileNames loads modules whose names would mislead a reader of
// the views.
func TestGuestViewsShowHostileNames(t *testing.T) {
	guest.Only(t)
	require.NoError(t, os.MkdirAll("/lib/firmware", 0o755))
	require.NoError(t, os.WriteFile("/lib/firmware/kmodquery-test.bin", []byte("firmware"), 0o644))
	v := views.New("/")
	others := len(confirmed(t, v, v.Listed)) // that other tests left
	hostile := []string{
		"kmodquery_firmware", "a b", "two\nlines", "in/sysfs", "x 1 2 -", "x 1 2 y,", "]\t[dummy", "\xff\x1b[2J", strings.Repeat("n", 55),
	}
	for _, name := range hostile {
		image, err := kmod.BuildAs(kmod.Firmware, name, nil)
		require.NoError(t, err)
		require.NoError(t, guest.LoadImage(image, ""))
	}
	for _, look := range []func(context.Context) ([]kmodquery.Module, error){v.Listed, v.Modules} {
		modules := confirmed(t, v, look)
		require.Len(t, modules, len(hostile)+others, "%q", described(modules))
		for _, name := range hostile {
			m := moduleNamed(modules, name)
			require.NotNil(t, m, "%q is not in %q", name, described(modules))
			require.Subset(t, m.Views, []string{kmodquery.ViewModules, kmodquery.ViewSysfs})
			require.EqualValues(t, 1<<1|1<<12|1<<13, *m.Taints, "forced, out of tree and unsigned")
		}
	}
	for _, name := range hostile {
		require.NoError(t, guest.Unload(name))
	}

	// Lines about modules that never were, in the names of a listed module's symbols.
	require.NoError(t, os.WriteFile("/run/kmodquery-helper", []byte("#!/bin/sh\n"), 0o755))
	image, err := kmod.Build(kmod.Helper, nil)
	require.NoError(t, err)
	for _, symbol := range [][2]string{
		{"init_module", "xy\ny [gh]\nz"}, {"start_the_program_and_wait_for_it", "xyz\t[ghost]\n0000000000000000 t gg"},
	} {
		require.Len(t, symbol[1], len(symbol[0]))
		image = bytes.ReplaceAll(image, []byte(symbol[0]+"\x00"), []byte(symbol[1]+"\x00"))
	}
	require.NoError(t, guest.LoadImage(image, ""))
	for file, line := range map[string]string{
		"/sys/kernel/tracing/available_filter_functions": "y [gh]",
		"/proc/kallsyms": "0000000000000000 t gg\t[kmodquery_helper]",
	} {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, string(content), "\n"+line+"\n")
	}
	require.Empty(t, hiddenOf(confirmed(t, v, v.Modules)))
	require.ErrorContains(t, v.Status()[2].Err, "no module is reported that only kallsyms and ftrace show")
	require.NoError(t, guest.Unload("kmodquery_helper"))
	_, err = v.Modules(t.Context())
	require.NoError(t, err)
	require.NoError(t, v.Status()[2].Err)

	taint, err := v.Taint(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1<<1|1<<12|1<<13, taint&(1<<1|1<<12|1<<13))
}

// confirmed returns the modules that look returns, and of the apparently hidden ones
// only those that Confirm confirms: the memory of a module's init is freed some time
// after it.
func confirmed(t *testing.T, v *views.Views, look func(context.Context) ([]kmodquery.Module, error)) []kmodquery.Module {
	t.Helper()
	modules, err := look(t.Context())
	require.NoError(t, err)
	hidden, err := v.Confirm(t.Context(), modules)
	require.NoError(t, err)
	listed := slices.DeleteFunc(modules, func(m kmodquery.Module) bool { return m.IsHidden() })
	return append(listed, hidden...)
}

// inventoryLocked checks the views of a module where BPF must not read memory and
// tracefs cannot be read.
func inventoryLocked(t *testing.T) {
	require.NoError(t, guest.LoadImage(image(t, "dummy"), ""))
	defer guest.Unload("dummy")
	rows := query(t, "SELECT name, state, views, hidden, missing FROM kernel_module_inventory")
	want := append(slices.DeleteFunc(viewsOf("dummy"), func(view string) bool { return view == kmodquery.ViewFtrace }), kmodquery.ViewEvents)
	require.Equal(t, []map[string]string{{
		"name": "dummy", "state": "Live", "views": array(t, want...), "hidden": "0",
		"missing": "path,sha256,signer,package", // it has no image to compare a file with
	}}, rows)
	for _, status := range views.New("/").Status() {
		if status.View == kmodquery.ViewFtrace {
			require.ErrorIs(t, status.Err, kmodquery.ErrNotSupported)
			require.ErrorContains(t, status.Err, "a kernel with CONFIG_DYNAMIC_FTRACE that is not locked down to confidentiality")
		}
	}
}

// viewsOf returns the views that show a module of Debian's that does not hide.
func viewsOf(name string) []string {
	all := []string{kmodquery.ViewModules, kmodquery.ViewSysfs, kmodquery.ViewKallsyms, kmodquery.ViewFtrace}
	if _, err := os.Stat("/sys/kernel/btf/" + name); err == nil {
		all = append(all, kmodquery.ViewBTF)
	}
	return all
}

func array(t *testing.T, names ...string) string {
	t.Helper()
	text, err := json.Marshal(names)
	require.NoError(t, err)
	return string(text)
}

// described returns modules as name and views, nameless ones with their memory.
func described(modules []kmodquery.Module) []string {
	var texts []string
	for _, m := range modules {
		text := fmt.Sprint(m.Name, m.Views)
		if m.Name == "" {
			text = fmt.Sprintf("%d%v", *m.Size, m.Views)
		}
		texts = append(texts, text)
	}
	slices.Sort(texts)
	return texts
}
