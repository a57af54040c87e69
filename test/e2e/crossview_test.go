//go:build linux

package e2e

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// crossViewEnv is set in the VMs that TestCrossView boots.
const crossViewEnv = "KMODQUERY_CROSS_VIEW"

// TestCrossView boots the oldest kernel, in make test-all the newest too, and in make
// test-long every one, for an extension that compares the kernel's views with the
// events of its sources. TestHidden tests the views of each kernel. Hidden modules stay
// until the VM ends. make test leaves modules that hide by their state, rename themselves or
// have a namesake to make test-all.
func TestCrossView(t *testing.T) {
	t.Parallel()
	for _, kernel := range vm.Matrix() {
		if name := kernel.String(); !isAnEnd(name) || isSmall() && name != vm.Oldest().String() {
			continue
		}
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			vm.Test(t, kernel, "^TestGuestCrossViewReportsDifferences$", vm.Options{
				Modules: []string{"nbd"},
				Files:   map[string]string{guestExtension: buildExtension(t, kernel.Arch)},
				Env:     []string{crossViewEnv + "=1"},
				Cmdline: []string{"rcupdate.rcu_expedited=1"},
				Timeout: 20 * time.Minute,
			})
		})
	}
}

// pollOf is the interval at which the extension of these tests compares the views.
const pollOf = 2 * time.Second

// A compared is an osquery whose extension compares the views often.
type compared struct{ *instance }

// startCompared starts one with a store of its own, and with these sources if there are
// any.
func startCompared(t *testing.T, sources ...string) compared {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "compared")
	require.NoError(t, err)
	flags := []string{"--poll", pollOf.String()}
	if len(sources) > 0 {
		flags = append(flags, "--sources", strings.Join(sources, ","))
	}
	g, err := startOsquery(dir, flags...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.host.Close()) })
	if len(sources) == 0 || slices.Contains(sources, kmodquery.SourceEBPF) {
		require.NoError(t, g.awaitEBPF())
	}
	return compared{g}
}

// differs waits until the views have reported this, as "event name".
func (c compared) differs(t *testing.T, want string) map[string]string {
	t.Helper()
	event, name, _ := strings.Cut(want, " ")
	var rows []map[string]string
	// The interval, and the duration of a second sample under emulation.
	require.Eventually(t, func() bool {
		rows = c.query(t, "SELECT * FROM kernel_module_events WHERE source = 'procfs' AND event_name = '%s' AND coalesce(name, '') = '%s'", event, name)
		return len(rows) > 0
	}, pollOf+3*time.Minute, pollOf/4, want)
	require.Len(t, rows, 1)
	return rows[0]
}

// awaitRead waits until a check has read the list of modules, which each does once.
func (c compared) awaitRead(t *testing.T) {
	t.Helper()
	received := func() string {
		return c.query(t, "SELECT received FROM kernel_module_sensors WHERE source = 'procfs'")[0]["received"]
	}
	before := received()
	require.Eventually(t, func() bool { return received() != before }, 3*time.Minute, 100*time.Millisecond)
}

// awaitCheck waits until a check that began after the call is complete. The first reading may
// be of an earlier check, and the third follows when the second check is complete.
func (c compared) awaitCheck(t *testing.T) {
	t.Helper()
	for range 3 {
		c.awaitRead(t)
	}
}

// reported returns all differences that the views have reported, without the modules at
// the start, as "event name".
func (c compared) reported(t *testing.T) []string {
	t.Helper()
	var differences []string
	for _, row := range c.query(t, "SELECT event_name, name FROM kernel_module_events WHERE source = 'procfs' AND event_name != 'module_present'") {
		differences = append(differences, strings.TrimSpace(row["event_name"]+" "+row["name"]))
	}
	slices.Sort(differences)
	return differences
}

func TestGuestCrossViewReportsDifferences(t *testing.T) {
	guest.Only(t)
	if os.Getenv(crossViewEnv) == "" {
		t.Skip("runs in the VMs that TestCrossView boots: modules that hide stay")
	}
	// This module hides before the extension starts.
	require.NoError(t, guest.LoadImage(image(t, "nbd"), ""))
	hide(t, "nbd")
	c := startCompared(t)
	t.Cleanup(func() {
		if t.Failed() {
			for _, row := range c.query(t, "SELECT eid, time_nanos, uptime, event_name, source, name, size, load_id, reason FROM kernel_module_events WHERE event_name IN ('module_hidden', 'module_load', 'module_free') AND name NOT IN ('', 'dummy') ORDER BY eid") {
				t.Log(row)
			}
		}
	})
	row := c.differs(t, "module_hidden nbd")
	require.Contains(t, row["reason"], "it is not in modules, but in sysfs")
	require.Equal(t, "kernel-module", row["type"])

	// Loads and unloads are not differences, however frequent.
	dummy := image(t, "dummy")
	for range suite.Trials(60) {
		require.NoError(t, guest.LoadImage(dummy, ""))
		require.NoError(t, guest.Unload("dummy"))
	}
	c.awaitCheck(t)
	require.Equal(t, []string{"module_hidden nbd"}, c.reported(t))

	// This one hides after its load was observed.
	before := c.latest(t)
	require.NoError(t, guest.LoadImage(dummy, ""))
	load := c.since(t, before)[0]["load_id"]
	require.NotEmpty(t, load)
	hide(t, "dummy")

	// This one clears a bit of the kernel's taint.
	untaint, err := kmod.Build(kmod.Untaint, map[string]uint64{"tainted_mask": symbol(t, "tainted_mask", ""), "bits": 1 << 12})
	require.NoError(t, err)
	require.ErrorIs(t, guest.LoadImage(untaint, ""), unix.ENODEV)

	row = c.differs(t, "module_hidden dummy")
	require.Contains(t, row["reason"], "not in modules")
	require.Contains(t, row["reason"], "events")
	require.Equal(t, load, row["load_id"])
	row = c.differs(t, "taint_reset")
	require.Equal(t, "4096", row["taints"])

	// This one hides in its init, and removes its folder from sysfs.
	before = c.latest(t)
	ghost, err := kmod.Build(kmod.Ghost, nil)
	require.NoError(t, err)
	require.NoError(t, guest.LoadImage(ghost, ""))
	load = c.since(t, before)[0]["load_id"]
	row = c.differs(t, "module_hidden kmodquery_ghost")
	require.Contains(t, row["reason"], "events")
	require.Equal(t, load, row["load_id"])

	all := []string{"module_hidden nbd", "module_hidden dummy", "module_hidden kmodquery_ghost", "taint_reset"}
	hiding := []string{"nbd", "dummy", "kmodquery_ghost"}
	if suite.All() {
		requireHiddenByState(t, c)
		requireRenamed(t, c)
		requireNamesake(t, c)
		all = append(all, "module_hidden "+unformedModule, "module_hidden "+togglingModule, "module_hidden "+turningModule,
			"module_unwitnessed "+newName, "module_hidden "+twinModule)
		hiding = append(hiding, unformedModule, twinModule)
	}
	c.awaitCheck(t)
	require.ElementsMatch(t, all, c.reported(t))
	hidden := c.query(t, "SELECT name FROM kernel_module_inventory WHERE hidden = 1")
	require.ElementsMatch(t, hiding, column(hidden, "name"))
	sensor := c.query(t, "SELECT state, hooks, lost FROM kernel_module_sensors WHERE source = 'procfs'")
	require.Len(t, sensor, 1)
	require.Equal(t, "active", sensor[0]["state"])
	require.Contains(t, sensor[0]["hooks"], `"modules","sysfs","kallsyms"`)

	// The next recorder of this boot does not report the same differences again.
	starts := c.extension.Starts()
	require.NoError(t, c.extension.Signal(unix.SIGKILL))
	require.Eventually(t, func() bool { return c.extension.Starts() > starts }, waitForTables, 50*time.Millisecond)
	require.NoError(t, awaitStart(t.Context(), c.host))
	c.awaitCheck(t)
	require.ElementsMatch(t, all, c.reported(t))

	exited := c.extension.Exited()
	require.NoError(t, c.extension.Signal(unix.SIGTERM))
	select {
	case <-exited:
	case <-time.After(waitForTables):
		t.Fatal("the recorder ignores SIGTERM")
	}
}

// twinModule is the name of a module that hides and of one that does not.
const twinModule = "kmodquery_twin"

// requireNamesake loads an honest module with the name of one that hides from its init on, and
// requires that each is reported with its own load.
func requireNamesake(t *testing.T, c compared) {
	t.Helper()
	images, loads := map[string][]byte{}, map[string]string{} // and load_id, by hidden
	for hidden, name := range map[string]string{"1": kmod.Ghost, "0": kmod.Unformed} {
		image, err := kmod.BuildAs(name, twinModule, nil)
		require.NoError(t, err)
		images[hidden] = image
	}
	before := c.latest(t)
	for _, hidden := range []string{"1", "0"} {
		require.NoError(t, guest.LoadImage(images[hidden], ""))
	}
	for _, row := range c.query(t, "SELECT load_id, sha256 FROM kernel_module_events WHERE eid > %d AND event_name = 'module_load' AND source = 'ebpf'", before) {
		for hidden, image := range images {
			if row["sha256"] == sum(image) {
				loads[hidden] = row["load_id"]
			}
		}
	}
	require.Len(t, loads, 2)
	row := c.differs(t, "module_hidden "+twinModule)
	require.Equal(t, loads["1"], row["load_id"])
	require.Contains(t, row["reason"], "it is not in modules, but in ")
	reported := map[string]string{}
	for _, row := range c.query(t, "SELECT hidden, load_id FROM kernel_module_inventory WHERE name = '%s'", twinModule) {
		reported[row["hidden"]] = row["load_id"]
	}
	require.Equal(t, loads, reported)
	require.NoError(t, guest.Unload(twinModule))
	hidden := c.query(t, "SELECT load_id, hidden FROM kernel_module_inventory WHERE name = '%s'", twinModule)
	require.Equal(t, []map[string]string{{"load_id": loads["1"], "hidden": "1"}}, hidden)
}

// newName is the name that a module gives itself.
const newName = "kmodquery_usbcore"

// requireRenamed has a module change its name, and requires that this is reported once, and
// that it is not held against the source that did not see a load of that name.
func requireRenamed(t *testing.T, c compared) {
	t.Helper()
	const sensor = "SELECT state, reason, since, hooks FROM kernel_module_sensors WHERE source = 'ebpf'"
	armed := c.query(t, sensor)
	before := c.latest(t)
	image, err := kmod.BuildAs(kmod.Unformed, "kmodquery_renamed", map[string]uint64{"module_mutex": symbol(t, "module_mutex", "")})
	require.NoError(t, err)
	require.NoError(t, guest.LoadImage(image, ""))
	load := c.since(t, before)[0]["load_id"]
	require.NotEmpty(t, load)
	c.awaitCheck(t) // it has seen the module's address
	require.NoError(t, os.WriteFile("/sys/module/kmodquery_renamed/parameters/name", []byte(newName), 0))
	row := c.differs(t, "module_unwitnessed "+newName)
	require.Equal(t, `module "kmodquery_renamed" was renamed: this one has its address and size`, row["reason"])
	require.Equal(t, load, row["parent_load_id"])
	c.awaitCheck(t)
	require.Equal(t, armed, c.query(t, sensor))
	require.NoError(t, guest.Unload(newName))
}

// Modules that hide by their state.
const (
	unformedModule = "kmodquery_unformed"
	turningModule  = "kmodquery_turning"
	togglingModule = "kmodquery_toggling"
)

// requireHiddenByState has modules set their own state to UNFORMED, one permanently, one
// so often that it is rarely listed, and one in turn for some seconds, and requires that
// all are reported and that the recorder continues to check. The kernel executes BUG() if the initstate of such a
// module is read, and the guest then panics (oops=panic).
func requireHiddenByState(t *testing.T, c compared) {
	t.Helper()
	loads := map[string]string{}
	for _, name := range []string{unformedModule, togglingModule, turningModule} {
		before := c.latest(t)
		image, err := kmod.BuildAs(kmod.Unformed, name, map[string]uint64{"module_mutex": symbol(t, "module_mutex", "")})
		require.NoError(t, err)
		require.NoError(t, guest.LoadImage(image, ""))
		loads[name] = c.since(t, before)[0]["load_id"]
		require.NotEmpty(t, loads[name])
	}
	require.NoError(t, setState(unformedModule, kmod.StateUnformed))
	stop := make(chan struct{})
	toggled := make(chan error, 2)
	go func() { toggled <- toggle(togglingModule, 20*time.Millisecond, 2*time.Millisecond, stop) }()
	go func() { toggled <- toggle(turningModule, 3*time.Second, 3*time.Second, stop) }()
	stopOnce := sync.OnceFunc(func() { close(stop) })
	defer stopOnce()

	for name, load := range loads {
		row := c.differs(t, "module_hidden "+name)
		require.Regexp(t, "^it is not in modules, but in (sysfs, .*)?events$", row["reason"])
		require.Equal(t, load, row["load_id"])
		require.Equal(t, "size,taints,version,srcversion", row["missing"])
	}
	inventory := c.query(t, "SELECT hidden, missing FROM kernel_module_inventory WHERE name = '%s'", unformedModule)
	require.Len(t, inventory, 1)
	require.Equal(t, "1", inventory[0]["hidden"])
	require.Subset(t, strings.Split(inventory[0]["missing"], ","), []string{"size", "refs", "state", "taints", "version", "srcversion"})
	require.Eventually(t, func() bool {
		return len(c.query(t, "SELECT name FROM kernel_module_inventory WHERE name = '%s'", togglingModule)) == 1
	}, 3*time.Minute, 100*time.Millisecond)
	c.awaitRead(t)

	stopOnce()
	for _, name := range []string{togglingModule, turningModule} {
		require.NoError(t, <-toggled)
		defer func() { require.NoError(t, guest.Unload(name)) }()
	}
}

// toggle makes a module set its state to UNFORMED and back to LIVE, each for a time,
// until stop is closed. It leaves the module LIVE.
func toggle(name string, hidden, listed time.Duration, stop <-chan struct{}) error {
	for {
		if err := setState(name, kmod.StateUnformed); err != nil {
			return err
		}
		time.Sleep(hidden)
		if err := setState(name, kmod.StateLive); err != nil {
			return err
		}
		select {
		case <-stop:
			return nil
		case <-time.After(listed):
		}
	}
}

// setState makes a module that was built from kmod.Unformed set its own state.
func setState(name string, state int) error {
	return os.WriteFile("/sys/module/"+name+"/parameters/state", []byte(strconv.Itoa(state)), 0)
}

// hide removes a loaded module from the kernel's list.
func hide(t *testing.T, name string) {
	t.Helper()
	helper, err := kmod.Build(kmod.Hidden, map[string]uint64{"target": symbol(t, "__this_module", name)})
	require.NoError(t, err)
	require.ErrorIs(t, guest.LoadImage(helper, ""), unix.ENODEV)
}
