//go:build linux

package e2e

import (
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery/test/suite"
	"github.com/kmodquery/kmodquery/test/vm"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// realtimeEnv is set in the VMs that TestRealtime boots.
const realtimeEnv = "KMODQUERY_REALTIME"

// TestRealtime boots a kernel with PREEMPT_RT, on which a thread may be preempted in a BPF
// program: once as it is, and once in lockdown, where only tracing programs can run, which
// such a kernel skips for one thread while another is in them.
func TestRealtime(t *testing.T) {
	if !suite.Long() && os.Getenv("GUEST") == "" {
		t.Skip("boots a kernel with PREEMPT_RT, of which make test-all has none; set SUITE=long to run it")
	}
	t.Parallel()
	kernel := vm.Realtime()
	t.Run("as it is", func(t *testing.T) {
		t.Parallel()
		step := vm.Step{Pattern: guestPattern(append(slices.Clone(betweenTests), "SeesEveryLoadOfAStorm", "RecordsLoadsAtTheSameTime")...)}
		if pattern := os.Getenv("GUEST"); pattern != "" {
			step.Pattern = pattern
		}
		vm.TestStep(t, kernel, step, vm.Options{
			Modules: append([]string{"nbd", "tcp_nv", "tcp_illinois", "overlay", "brd", "af_alg", "romfs", "loop", "ext4", large}, unseen...),
			Files: map[string]string{
				guestExtension: buildExtension(t, kernel.Arch), "/root/testdata": abs(t, "testdata"), "/root/packs": abs(t, "../../packs"),
				loader386: build386(t),
			},
			Ext4:    guestDisk,
			Cmdline: []string{"rcupdate.rcu_expedited=1"},
			Env:     []string{realtimeEnv + "=1"},
			Timeout: 30 * time.Minute,
		})
	})
	t.Run("lockdown", func(t *testing.T) {
		t.Parallel()
		vm.Test(t, kernel, guestPattern("ReportsLoadsInLockdown", "RecordsLoadsAtTheSameTime"), vm.Options{
			Files:   map[string]string{guestExtension: buildExtension(t, kernel.Arch)},
			Modules: []string{"nbd", "tcp_nv", "tcp_illinois", "brd"},
			Cmdline: []string{"lockdown=confidentiality", "rcupdate.rcu_expedited=1"},
			Env:     []string{lockdownEnv + "=1", realtimeEnv + "=1"},
		})
	})
}

// TestGuestRecordsLoadsAtTheSameTime makes thirteen loads of each of four modules, by four
// threads at once. Each attempt is stored once, with its result and its hash. In lockdown, where
// the kernel skips programs, what a row lacks is counted as lost, and at least as often.
func TestGuestRecordsLoadsAtTheSameTime(t *testing.T) {
	guest.Only(t)
	if os.Getenv(realtimeEnv) == "" {
		t.Skip("runs in the VMs that TestRealtime boots with PREEMPT_RT")
	}
	const each = 13
	modules := []string{"nbd", "tcp_nv", "tcp_illinois", "brd"}
	lost := func() int64 {
		return integer(t, query(t, "SELECT lost FROM kernel_module_sensors WHERE source = 'ebpf'")[0]["lost"])
	}
	before, lostBefore := latest(t), lost()
	var threads sync.WaitGroup
	for _, name := range modules {
		file, err := guest.ModulePath(name)
		require.NoError(t, err)
		threads.Go(func() {
			for range each {
				if err := guest.LoadFile(file, ""); err != nil {
					t.Errorf("load %s: %v", name, err)
					return
				}
				if err := guest.Unload(name); err != nil {
					t.Errorf("unload %s: %v", name, err)
					return
				}
			}
		})
	}
	threads.Wait()
	// A return that was missed has no row of its own until its thread calls again or ends.
	whole := func() int64 {
		return integer(t, query(t, `SELECT count(*) AS n FROM (SELECT load_id FROM kernel_module_events WHERE eid > %d
			AND event_name IN ('security_kernel_read_file', 'module_load', 'finit_module') GROUP BY load_id
			HAVING count(*) = 3 AND sum(result = 0) = 1 AND sum(sha256 != '') = 3)`, before)[0]["n"])
	}
	attempts := int64(each * len(modules))
	if os.Getenv(lockdownEnv) == "" {
		require.Eventually(t, func() bool { return whole() == attempts }, time.Minute, time.Second, "attempts are not whole")
		require.Equal(t, lostBefore, lost())
		return
	}
	require.Eventually(t, func() bool { return whole()+lost()-lostBefore >= attempts }, time.Minute, time.Second,
		"attempts are missing and not counted as lost")
	t.Logf("of %d attempts %d are whole, and %d records are counted as lost", attempts, whole(), lost()-lostBefore)
	rows := query(t, "SELECT name, count(*) AS n FROM kernel_module_events WHERE eid > %d AND event_name = 'module_load' GROUP BY name", before)
	for _, row := range rows {
		n, err := strconv.Atoi(row["n"])
		require.NoError(t, err)
		require.LessOrEqual(t, n, each, row["name"])
	}
}
