//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/osqueryhost"
)

// TestGuestReaderTakesOverInAStorm runs two osquerys with an extension each on one
// event store, and kills the one that records during a storm. The other takes over.
func TestGuestReaderTakesOverInAStorm(t *testing.T) {
	needPinned(t)
	p := newDeployment(t)
	var instances [2]*instance
	for i, name := range []string{"one", "two"} {
		dir := filepath.Join(p.dir, name)
		require.NoError(t, os.Mkdir(dir, 0o700))
		host, err := osqueryhost.Start(t.Context(), osqueryhost.Options{
			Dir: dir, Interval: time.Second, Timeout: 30 * time.Second, Output: p.log,
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, host.Close()) })
		extension, err := host.StartExtension(guestExtension, "--state-dir", p.state, "--query-timeout", "5m")
		require.NoError(t, err)
		require.NoError(t, awaitStart(t.Context(), host))
		instances[i] = &instance{host, extension}
	}
	role := func(of *instance) string {
		rows, err := of.host.Query(t.Context(), "SELECT role FROM kernel_module_sensors WHERE source = 'ebpf' AND state = 'active'")
		if err != nil || len(rows) != 1 {
			return "" // between two registrations, or two recorders
		}
		return rows[0]["role"]
	}
	require.Equal(t, "recorder", role(instances[0]))
	require.Equal(t, "reader", role(instances[1]))
	storm := startStorm(t, stormPause)
	recorder, reader := instances[0], instances[1]
	var slowest time.Duration
	for round := range rounds(t, 1, 2, 20) {
		starts := recorder.extension.Starts()
		require.NoError(t, recorder.extension.Signal(syscall.SIGKILL))
		killed := time.Now()
		var roles []string
		require.Eventually(t, func() bool {
			roles = []string{role(recorder), role(reader)}
			return slices.Contains(roles, "recorder")
		}, busyLimit, 50*time.Millisecond, "round %d: no process takes over", round)
		// Either of them may be the new recorder.
		require.NotEqual(t, []string{"recorder", "recorder"}, roles, "round %d: two record", round)
		slowest = max(slowest, time.Since(killed))
		require.Eventually(t, func() bool {
			return recorder.extension.Starts() > starts && role(recorder) != "" && role(reader) != ""
		}, busyLimit, 50*time.Millisecond, "round %d", round)
		if role(reader) == "recorder" {
			recorder, reader = reader, recorder
		}
		require.Equal(t, []string{"recorder", "reader"}, []string{role(recorder), role(reader)}, "round %d", round)
	}
	t.Logf("one recorded and answered %v after the other was killed, at most", slowest.Round(time.Millisecond))
	p.requireExactly(t, storm.end(t))
}
