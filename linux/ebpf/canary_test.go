//go:build linux

package ebpf

import (
	"errors"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/host"
)

func canaryRecord(value uint64) bpf.Record {
	return record(bpf.SystemCall, func(r *bpf.Record) {
		r.Call = &bpf.Call{Name: bpf.InitModule, Result: -1, HasArguments: true, Canary: value}
	})
}

func TestCanariesAreNoEvents(t *testing.T) {
	r := newReading(t)
	r.take(canaryRecord(host.Canary()), canaryRecord(7)) // the latter of an earlier process
	require.NoError(t, r.finish(start))
	require.Empty(t, r.events)
	require.Empty(t, r.attempts.byID)
}

func TestACanaryThatIsNotRecordedIsReported(t *testing.T) {
	r, reading := newTampered(t)
	s := r.source
	s.health.Started(nil, "", nil)
	s.programs = nil
	for try, pause := range []time.Duration{canaryPause, 2 * canaryPause} {
		r.canary.tries, r.canary.due = try+1, time.Time{}
		r.judge(start)
		require.Equal(t, start.Add(pause), r.canary.due, "the kernel may have skipped a program")
	}
	require.Empty(t, reading.events)
	r.canary.tries = canaryTries
	s.health.Lost.Add(1)
	r.judge(start)
	require.Empty(t, reading.events, "records were lost")
	require.Contains(t, s.Sensor().Reason, "records were lost")
	r.canary.lost = 1
	r.judge(start)
	require.Equal(t, []string{"sensor_tampered"}, reading.names())
	require.Equal(t, errNoCanary.Error(), reading.events[0].Reason)
	require.Equal(t, kmodquery.StateFailed, s.Sensor().State)
	require.Equal(t, errNoCanary.Error(), s.Sensor().Reason)
}

// Reading must not wake for a canary that waits until the hooks are attached.
func TestNoCanaryIsDueWhileHooksAreAttached(t *testing.T) {
	r, _ := newTampered(t)
	r.arming = &rearming{}
	r.canary.begin(start)
	require.Equal(t, start, r.canaryDue())
	r.arming.done = make(chan rearmed)
	require.Zero(t, r.canaryDue())
}

// Filtered records cause canaries, but not each time.
func TestFilteredRecordsCauseACanary(t *testing.T) {
	r, _ := newTampered(t)
	filtered := []bpf.Filtered{{Kind: bpf.ModuleLoad, First: 7, Last: 7}}
	r.reportFiltered(filtered, start)
	require.Zero(t, r.canary, "they are switched off")
	r.arming = &rearming{}
	r.canary.begin(start)
	r.canary = canary{lastFor: start, tries: 1}
	r.reportFiltered(filtered, start.Add(filterPause))
	require.Zero(t, r.canary.due)
	r.reportFiltered(filtered, start.Add(canaryCause+filterPause))
	require.Equal(t, canary{due: start.Add(canaryCause + filterPause), lastFor: start.Add(canaryCause + filterPause)}, r.canary)
}

// A canary changes nothing in this process, and one that a filter refuses says nothing about
// the hooks.
func TestCanaryKnowsWhoRefusedIt(t *testing.T) {
	var before, after [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	require.NoError(t, unix.Capget(&header, &before[0]))
	err := callCanary(host.Canary())
	require.NoError(t, unix.Capget(&header, &after[0]))
	require.Equal(t, before, after)
	if !errors.Is(err, unix.ENOSYS) && err != nil { // in a container
		require.ErrorContains(t, err, "a filter of system calls (seccomp) refuses init_module")
	}

	outcome := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			outcome <- err
			return
		}
		refuse := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_INIT_MODULE},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		}
		program := unix.SockFprog{Len: uint16(len(refuse)), Filter: &refuse[0]}
		if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
			outcome <- err
			return
		}
		outcome <- callHere(host.Canary())
	}()
	require.ErrorContains(t, <-outcome, "a filter of system calls (seccomp) refuses init_module")
}
