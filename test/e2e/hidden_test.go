//go:build linux

package e2e

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/views"
	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// hiddenEnv is set in the VMs that TestHidden boots.
const hiddenEnv = "KMODQUERY_HIDDEN"

// TestHidden boots kernels for hidden modules, which stay until the VM ends: the newest and, in
// make test-all, that of arm64. TestCrossView tests the views of the oldest.
func TestHidden(t *testing.T) {
	t.Parallel()
	for _, kernel := range kernelsBut("5.10", "6.1", "6.12") {
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			vm.Test(t, kernel, "^TestGuestViewsFindHiddenModules$", vm.Options{
				Modules: []string{"nbd", "tcp_nv"},
				Files:   map[string]string{guestExtension: buildExtension(t, kernel.Arch)},
				Env:     []string{hiddenEnv + "=1"},
				Cmdline: []string{"rcupdate.rcu_expedited=1"},
				Timeout: 15 * time.Minute,
			})
		})
	}
}

// TestGuestViewsFindHiddenModules first loads and unloads modules, none of which hides,
// and then loads hidden ones: a nameless one, one that only ftrace names, and further
// ones that sysfs shows too.
func TestGuestViewsFindHiddenModules(t *testing.T) {
	guest.Only(t)
	if os.Getenv(hiddenEnv) == "" {
		t.Skip("runs in the VMs that TestHidden boots: modules that hide stay")
	}
	v := views.New("/")
	require.NoError(t, guest.LoadImage(image(t, "nbd"), ""))
	t.Run("none", func(t *testing.T) {
		for _, restrict := range []string{"0", "1", "2"} {
			restrictPointers(t, restrict)
			modules := confirmed(t, v, v.Modules)
			require.Len(t, modules, 1, "%v", described(modules))
			require.Contains(t, modules[0].Views, kmodquery.ViewModules)
			require.Equal(t, restrict == "1", slices.Contains(modules[0].Views, kmodquery.ViewVmallocinfo), restrict)
			require.Equal(t, restrict == "2", modules[0].Address == nil)
		}
	})
	t.Run("cycles", func(t *testing.T) { cycles(t, v) })

	// Only memory shows a nameless module.
	unmountTracing(t)
	ghost, err := kmod.Build(kmod.Ghost, nil)
	require.NoError(t, err)
	require.NoError(t, guest.LoadImage(ghost, ""))
	for _, restrict := range restrictions() {
		restrictPointers(t, restrict)
		var want []string
		if restrict == "1" || identifiesMemory() {
			want = []string{strconv.FormatInt(ghostMemory(), 10) + "[vmallocinfo]"}
		}
		requireHidden(t, v, want...)
	}

	// Only ftrace and its memory show it.
	require.NoError(t, unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, ""))
	for _, restrict := range restrictions() {
		restrictPointers(t, restrict)
		memory := ""
		if restrict == "1" || identifiesMemory() {
			memory = " vmallocinfo"
		}
		requireHidden(t, v, "kmodquery_ghost[ftrace"+memory+"]")
	}

	require.NoError(t, guest.LoadImage(image(t, "dummy"), ""))
	address := symbol(t, "__this_module", "dummy")
	helper, err := kmod.Build(kmod.Hidden, map[string]uint64{"target": address})
	require.NoError(t, err)
	require.ErrorIs(t, guest.LoadImage(helper, ""), unix.ENODEV)
	require.ErrorIs(t, guest.Unload("dummy"), unix.ENOENT)
	own, err := kmod.Build(kmod.Hidden, nil)
	require.NoError(t, err)
	require.NoError(t, guest.LoadImage(own, ""))
	btf := ""
	if _, err := os.Stat("/sys/kernel/btf/dummy"); err == nil {
		btf = " btf"
	}
	for _, restrict := range restrictions() {
		restrictPointers(t, restrict)
		memory := ""
		if restrict == "1" && locatesFunctions() {
			memory = " vmallocinfo"
		}
		requireHidden(t, v, "dummy[sysfs ftrace"+btf+memory+"]", "kmodquery_hidden[sysfs ftrace"+memory+"]", "kmodquery_ghost[ftrace"+memory+"]")
	}
	requireInventory(t)

	// Memory may belong to a hidden module with a name, so it is not reported as nameless.
	unmountTracing(t)
	for _, restrict := range restrictions() {
		restrictPointers(t, restrict)
		requireHidden(t, v, "dummy[sysfs"+btf+"]", "kmodquery_hidden[sysfs]")
	}
}

// unmountTracing unmounts tracefs, lazily because the extension may be reading it.
func unmountTracing(t *testing.T) {
	t.Helper()
	require.NoError(t, unix.Unmount("/sys/kernel/tracing", unix.MNT_DETACH))
	if err := unix.Unmount("/sys/kernel/debug", unix.MNT_DETACH); err != nil {
		require.ErrorIs(t, err, unix.EINVAL, "it is not mounted")
	}
}

// locatesFunctions reports whether ftrace shows the addresses of functions (since 6.5)
// and these are in memory that only modules use (up to 6.12).
func locatesFunctions() bool { return strings.HasPrefix(guest.Kernel(), "6.12") }

// identifiesMemory reports whether the memory of modules can be distinguished from
// other code's without its addresses.
func identifiesMemory() bool { return guest.Kernel() != "7.x" }

// ghostMemory returns the memory that the hand-made ghost takes, in bytes.
func ghostMemory() int64 {
	switch guest.Kernel() {
	case "5.10", "6.1":
		return 16384
	case "6.12":
		return 12288
	}
	return 8192 // in 7.x without its text; the arm64 one has no constants
}

// cycles loads and unloads a module repeatedly while it reads the views.
func cycles(t *testing.T, v *views.Views) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	loaded := make(chan error, 1)
	dummy := image(t, "dummy")
	go func() {
		defer stop()
		for range suite.Trials(suite.Repeat(300)) {
			if err := guest.LoadImage(dummy, ""); err != nil {
				loaded <- err
				return
			}
			if err := guest.Unload("dummy"); err != nil {
				loaded <- err
				return
			}
		}
		loaded <- nil
	}()
	looks, suspects := 0, 0
	for ctx.Err() == nil {
		restrictPointers(t, strconv.Itoa(looks/2%2))
		look := v.Listed
		if looks%2 == 1 {
			look = v.Modules
		}
		modules, err := look(t.Context())
		require.NoError(t, err)
		require.NotNil(t, moduleNamed(modules, "nbd"), "%v", described(modules))
		if m := moduleNamed(modules, "nbd"); m != nil {
			require.False(t, m.IsHidden())
		}
		for i := range modules {
			if modules[i].IsHidden() {
				suspects++
			}
		}
		hidden, err := v.Confirm(t.Context(), modules)
		require.NoError(t, err)
		require.Empty(t, hidden, "%v", described(hidden))
		looks++
	}
	require.NoError(t, <-loaded)
	t.Logf("%d samples, %d suspects", looks, suspects)
}

// requireHidden requires exactly these modules to be hidden after confirmation.
func requireHidden(t *testing.T, v *views.Views, want ...string) {
	t.Helper()
	require.ElementsMatch(t, want, described(hiddenOf(confirmed(t, v, v.Modules))))
	var inSysfs []string
	for _, text := range want {
		if name, _, found := strings.Cut(text, "[sysfs"); found {
			inSysfs = append(inSysfs, name)
		}
	}
	require.ElementsMatch(t, inSysfs, names(hiddenOf(confirmed(t, v, v.Listed))))
}

func hiddenOf(modules []kmodquery.Module) []kmodquery.Module {
	return slices.DeleteFunc(modules, func(m kmodquery.Module) bool { return !m.IsHidden() })
}

// requireInventory requires the table to show which modules hide.
func requireInventory(t *testing.T) {
	t.Helper()
	hidden := map[string]string{}
	c := startCompared(t, kmodquery.SourceAudit) // which starts at once
	for _, row := range c.query(t, "SELECT name, hidden FROM kernel_module_inventory") {
		hidden[row["name"]] = row["hidden"]
	}
	require.Equal(t, map[string]string{"nbd": "0", "dummy": "1", "kmodquery_hidden": "1", "kmodquery_ghost": "1"}, hidden)
}

func names(modules []kmodquery.Module) []string {
	var all []string
	for _, m := range modules {
		all = append(all, m.Name)
	}
	return all
}

func moduleNamed(modules []kmodquery.Module, name string) *kmodquery.Module {
	for i := range modules {
		if modules[i].Name == name {
			return &modules[i]
		}
	}
	return nil
}

// restrictions are the values of kernel.kptr_restrict under which hidden modules are looked
// for. In make test only that under which the kernel shows most.
func restrictions() []string {
	if isSmall() {
		return []string{"1"}
	}
	return []string{"0", "1"}
}

func restrictPointers(t *testing.T, value string) {
	t.Helper()
	require.NoError(t, os.WriteFile("/proc/sys/kernel/kptr_restrict", []byte(value), 0o644))
}
