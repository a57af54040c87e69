//go:build linux

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestReportsTheGapOfAKilledRecorder kills a recorder whose hooks end with it, and
// loads modules before the next recorder watches. The next one reports when the gap
// was, and what the kernel's log and the views show of it.
func TestGuestReportsTheGapOfAKilledRecorder(t *testing.T) {
	guest.Only(t)
	failing := corrupted(t, "nbd")
	p := newDeployment(t)
	recorder := p.startRecorder(t, guestExtension, "--pin-dir", "none")
	p.awaitActive(t)
	first := p.gap(t)
	p.awaitLogRead(t) // otherwise the next recorder shows this gap too
	require.InDelta(t, booted(t), first.start, 2, "no recorder has watched in this boot")
	require.GreaterOrEqual(t, first.end, recorder.began.Unix())
	require.LessOrEqual(t, first.end, time.Now().Unix())
	require.Empty(t, pinnedSets(t))
	recorder.kill(t)
	killed := time.Now()

	// The kernel logs an unknown parameter each time, and a successful load not at all.
	require.NoError(t, guest.LoadImage(image(t, "dummy"), "of_the_gap=1"))
	t.Cleanup(func() { require.NoError(t, guest.Unload("dummy")) })
	require.NoError(t, guest.LoadImage(image(t, "tcp_nv"), ""))
	t.Cleanup(func() { require.NoError(t, guest.Unload("tcp_nv")) })
	require.Error(t, insmod(failing))
	loaded := time.Now()

	p.startRecorder(t, guestExtension, "--pin-dir", "none", "--poll", pollOf.String())
	p.awaitActive(t)
	second := p.gap(t)
	require.GreaterOrEqual(t, second.start, first.end, "the first recorder has stored when it began to watch")
	require.LessOrEqual(t, second.start, killed.Unix())
	require.GreaterOrEqual(t, second.end, loaded.Unix())
	require.LessOrEqual(t, second.end, time.Now().Unix())

	within := fmt.Sprintf("time BETWEEN %d AND %d", second.start, second.end)
	var rows []map[string]string
	requireRows := func(sql string, want ...string) {
		t.Helper()
		require.Eventually(t, func() bool {
			var err error
			rows, err = p.host.Query(t.Context(), sql)
			return err == nil && len(rows) >= len(want)
		}, busyLimit, 500*time.Millisecond, "%s: %v", sql, &rows)
		require.Equal(t, want, column(rows, "text"), sql)
	}
	requireRows("SELECT concat_ws(' ', source, event_name, name, nullif(error, ''), nullif(params, '')) AS text FROM kernel_module_events WHERE source = 'kmsg' AND "+within+" ORDER BY time_nanos",
		"kmsg module_load dummy of_the_gap", "kmsg module_load nbd ENOEXEC")
	requireRows("SELECT concat_ws(' ', signature_id, source, name) AS text FROM kernel_module_findings WHERE signature_id = 'TRC-1017' AND name IN ('dummy', 'nbd') AND "+within+" ORDER BY eid",
		"TRC-1017 kmsg dummy", "TRC-1017 kmsg nbd")
	// The views report present modules that no log has reported: dummy only if the
	// views are read first.
	requireRows("SELECT source || ' ' || event_name AS text FROM kernel_module_events WHERE source = 'procfs' AND name = 'tcp_nv'", "procfs module_present")
	inventory, err := p.host.Query(t.Context(), "SELECT name, hidden FROM kernel_module_inventory WHERE name IN ('dummy', 'tcp_nv') ORDER BY name")
	require.NoError(t, err)
	require.Equal(t, []map[string]string{{"name": "dummy", "hidden": "0"}, {"name": "tcp_nv", "hidden": "0"}}, inventory)
	rows, err = p.host.Query(t.Context(), "SELECT * FROM kernel_module_events WHERE source = 'ebpf' AND "+within)
	require.NoError(t, err)
	require.Empty(t, rows, "the hooks were not attached")
}

// A gap is the time in which nothing watched, in Unix time.
type gap struct{ start, end int64 }

// gap returns the gap of the hooks.
func (p *deployment) gap(t *testing.T) gap {
	t.Helper()
	rows, err := p.host.Query(t.Context(), "SELECT gap_start, gap_end FROM kernel_module_sensors WHERE source = 'ebpf'")
	require.NoError(t, err)
	require.Len(t, rows, 1)
	return gap{integer(t, rows[0]["gap_start"]), integer(t, rows[0]["gap_end"])}
}

// booted returns the kernel's boot time, in Unix time.
func booted(t *testing.T) int64 {
	t.Helper()
	stat, err := os.ReadFile("/proc/stat")
	require.NoError(t, err)
	found := regexp.MustCompile(`(?m)^btime ([0-9]+)$`).FindSubmatch(stat)
	require.NotNil(t, found)
	return integer(t, string(found[1]))
}
