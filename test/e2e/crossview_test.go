//go:build linux

package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// crossViewEnv is set in the VMs that TestCrossView boots.
const crossViewEnv = "KMODQUERY_CROSS_VIEW"

// TestCrossView boots the newest kernel, in make test-all the oldest too, and in make
// test-long every one, for an extension that compares what the kernel shows with what its sources saw.
// What each kernel shows is TestHidden's. Modules that hide stay until it ends.
func TestCrossView(t *testing.T) {
	t.Parallel()
	for _, kernel := range vm.Matrix() {
		if name := kernel.String(); !isAnEnd(name) || isSmall() && name != vm.Newest().String() {
			continue
		}
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			vm.Test(t, kernel, "^TestGuestCrossViewReportsWhatDiffers$", vm.Options{
				Modules: []string{"nbd"},
				Files:   map[string]string{guestExtension: buildExtension(t, kernel.Arch)},
				Env:     []string{crossViewEnv + "=1"},
				Cmdline: []string{"rcupdate.rcu_expedited=1"},
				Timeout: 20 * time.Minute,
			})
		})
	}
}

// pollOf is how often the extension of these tests looks.
const pollOf = 2 * time.Second

// A compared is an osquery whose extension looks often.
type compared struct{ *guestOf }

// startCompared starts one with a store of its own, and with these sources instead
// of the best.
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

// differs waits until the views have told of this, as "event name".
func (c compared) differs(t *testing.T, want string) map[string]string {
	t.Helper()
	event, name, _ := strings.Cut(want, " ")
	var rows []map[string]string
	// The period, and what a second look takes under emulation.
	require.Eventually(t, func() bool {
		rows = c.query(t, "SELECT * FROM kernel_module_events WHERE source = 'procfs' AND event_name = '%s' AND coalesce(name, '') = '%s'", event, name)
		return len(rows) > 0
	}, pollOf+time.Minute, 200*time.Millisecond, want)
	require.Len(t, rows, 1)
	return rows[0]
}

// told returns what the views have told of in all, but what was there at the
// start, as "event name".
func (c compared) told(t *testing.T) []string {
	t.Helper()
	var told []string
	for _, row := range c.query(t, "SELECT event_name, name FROM kernel_module_events WHERE source = 'procfs' AND event_name != 'module_present'") {
		told = append(told, strings.TrimSpace(row["event_name"]+" "+row["name"]))
	}
	slices.Sort(told)
	return told
}

func TestGuestCrossViewReportsWhatDiffers(t *testing.T) {
	guest.Only(t)
	if os.Getenv(crossViewEnv) == "" {
		t.Skip("runs in the VMs that TestCrossView boots: modules that hide stay")
	}
	// One hides before anybody looks.
	require.NoError(t, guest.LoadImage(image(t, "nbd"), ""))
	hide(t, "nbd")
	c := startCompared(t)
	t.Cleanup(func() {
		if t.Failed() {
			for _, row := range c.query(t, "SELECT eid, time_nanos, uptime, event_name, source, name, size, load_id, reason FROM kernel_module_events WHERE event_name IN ('module_hidden', 'module_load', 'module_free') AND name != 'dummy' ORDER BY eid") {
				t.Log(row)
			}
		}
	})
	row := c.differs(t, "module_hidden nbd")
	require.Contains(t, row["reason"], "it is not in modules, and in sysfs")
	require.Equal(t, "kernel-module", row["type"])

	// Whatever comes and goes, and however often, is no difference.
	dummy := image(t, "dummy")
	for range 200 {
		require.NoError(t, guest.LoadImage(dummy, ""))
		require.NoError(t, guest.Unload("dummy"))
	}
	time.Sleep(2 * pollOf)
	require.Equal(t, []string{"module_hidden nbd"}, c.told(t))

	// One hides after it was seen to come.
	before := c.latest(t)
	require.NoError(t, guest.LoadImage(dummy, ""))
	load := c.since(t, before)[0]["load_id"]
	require.NotEmpty(t, load)
	hide(t, "dummy")
	row = c.differs(t, "module_hidden dummy")
	require.Contains(t, row["reason"], "not in modules")
	require.Contains(t, row["reason"], "events")
	require.Equal(t, load, row["load_id"])

	// One hides in its init, and its folder too.
	before = c.latest(t)
	ghost, err := kmod.Build(kmod.Ghost, nil)
	require.NoError(t, err)
	require.NoError(t, guest.LoadImage(ghost, ""))
	load = c.since(t, before)[0]["load_id"]
	row = c.differs(t, "module_hidden kmodquery_ghost")
	require.Contains(t, row["reason"], "events")
	require.Equal(t, load, row["load_id"])

	// A trace is wiped out.
	untaint, err := kmod.Build(kmod.Untaint, map[string]uint64{"tainted_mask": symbol(t, "tainted_mask", ""), "bits": 1 << 12})
	require.NoError(t, err)
	require.ErrorIs(t, guest.LoadImage(untaint, ""), unix.ENODEV)
	row = c.differs(t, "taint_reset")
	require.Equal(t, "4096", row["taints"])

	time.Sleep(2 * pollOf)
	require.ElementsMatch(t, []string{"module_hidden nbd", "module_hidden dummy", "module_hidden kmodquery_ghost", "taint_reset"}, c.told(t))
	hidden := c.query(t, "SELECT name FROM kernel_module_inventory WHERE hidden = 1 ORDER BY name")
	require.Equal(t, []string{"dummy", "kmodquery_ghost", "nbd"}, column(hidden, "name"))
	sensor := c.query(t, "SELECT state, hooks, lost FROM kernel_module_sensors WHERE source = 'procfs'")
	require.Len(t, sensor, 1)
	require.Equal(t, "active", sensor[0]["state"])
	require.Contains(t, sensor[0]["hooks"], `"modules","sysfs","kallsyms"`)

	// The next recorder of this boot does not tell of the same again.
	starts := c.extension.Starts()
	require.NoError(t, c.extension.Signal(unix.SIGKILL))
	require.Eventually(t, func() bool { return c.extension.Starts() > starts }, waitForTables, 50*time.Millisecond)
	require.NoError(t, c.host.WaitForTable(t.Context(), "kernel_module_sensors"))
	time.Sleep(2 * pollOf)
	require.Len(t, c.told(t), 4)
}

// hide takes a module that is loaded off the kernel's list.
func hide(t *testing.T, name string) {
	t.Helper()
	helper, err := kmod.Build(kmod.Hidden, map[string]uint64{"target": symbol(t, "__this_module", name)})
	require.NoError(t, err)
	require.ErrorIs(t, guest.LoadImage(helper, ""), unix.ENODEV)
}
