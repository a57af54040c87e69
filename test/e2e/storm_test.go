//go:build linux

package e2e

import (
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// TestGuestSeesEveryLoadOfAStorm loads and unloads as fast as the guest can, from two
// threads. All 2,000 cycles must be seen.
func TestGuestSeesEveryLoadOfAStorm(t *testing.T) {
	guest.Only(t)
	before, cycles := latest(t), suite.Repeat(2000)
	const health = "SELECT state, lost, filtered, decode_errors, store_errors FROM kernel_module_sensors WHERE source = 'ebpf'"
	sensor := query(t, health)
	storming := []string{"tcp_nv", "tcp_illinois"}
	interrupted := map[string]int{} // delete_module calls that a signal of Go's runtime ended
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range storming {
		image, err := guest.ModuleImage(name)
		require.NoError(t, err)
		wg.Go(func() {
			for i := range cycles / len(storming) {
				if err := guest.LoadImage(image, ""); err != nil {
					t.Errorf("cycle %d: %v", i, err)
					return
				}
				err := guest.Unload(name)
				for errors.Is(err, unix.EINTR) {
					mu.Lock()
					interrupted[name]++
					mu.Unlock()
					err = guest.Unload(name)
				}
				if err != nil {
					t.Errorf("cycle %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()

	// A query waits only a few seconds for images that are still being read. A guest on
	// a busy host may take longer.
	require.Eventually(t, func() bool {
		loads := query(t, "SELECT count(*) AS n FROM kernel_module_events WHERE eid > %d AND event_name = 'module_load'", before)
		return loads[0]["n"] == strconv.Itoa(cycles)
	}, time.Minute, 100*time.Millisecond, "loads are missing")
	rows := query(t, `SELECT name, event_name, count(*) AS n, count(DISTINCT nullif(load_id, '')) AS attempts, sum(coalesce(result, 0)) AS failures
		FROM kernel_module_events WHERE eid > %d AND event_name != 'sys_exit_init_module' GROUP BY name, event_name ORDER BY name, event_name`, before)
	var want []map[string]string
	for _, name := range []string{"tcp_illinois", "tcp_nv"} {
		for _, event := range []string{"delete_module", "init_module", "module_free", "module_load", "security_kernel_load_data"} {
			calls, failures := cycles/len(storming), 0
			if event == "delete_module" {
				calls += interrupted[name]
				failures = -int(unix.EINTR) * interrupted[name]
			}
			want = append(want, map[string]string{
				"name": name, "event_name": event,
				"n": strconv.Itoa(calls), "attempts": strconv.Itoa(calls), "failures": strconv.Itoa(failures),
			})
		}
	}
	require.Equal(t, want, rows)
	// An emulator on a busy host may take longer than the source waits for a return.
	// The return then has a row of its own.
	late := query(t, `SELECT count(CASE WHEN event_name = 'init_module' AND result IS NULL THEN 1 END) AS open,
		count(CASE WHEN event_name = 'sys_exit_init_module' THEN 1 END) AS late FROM kernel_module_events WHERE eid > %d`, before)
	require.Equal(t, late[0]["open"], late[0]["late"])
	incomplete := query(t, "SELECT name, event_name, missing FROM kernel_module_events WHERE eid > %d AND missing NOT IN ('', 'result') LIMIT 5", before)
	require.Empty(t, incomplete)
	found := query(t, "SELECT count(*) AS n, count(DISTINCT nullif(load_id, '')) AS attempts FROM kernel_module_findings WHERE eid > %d AND signature_id = 'TRC-1017'", before)
	require.Equal(t, []map[string]string{{"n": strconv.Itoa(cycles), "attempts": strconv.Itoa(cycles)}}, found)
	require.Equal(t, "active", sensor[0]["state"])
	require.Equal(t, sensor, query(t, health))
}
