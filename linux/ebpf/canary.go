//go:build linux

package ebpf

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/linux/host"
)

const (
	// canaryTries is the number of canaries of which one must be recorded: the kernel may
	// skip a program for one of them. canaryPause is the pause before the second.
	canaryTries = 3
	canaryPause = time.Second
	// canaryCause is the least time between two series of canaries for filtered records.
	canaryCause = time.Hour
)

// errNoCanary is what is wrong with hooks that recorded none of the canaries.
var errNoCanary = errors.New("the hooks did not record a load that the recorder attempted itself, without the right to load (a canary), so code in the kernel keeps them from running or filters what they record")

// A canary tests the hooks by calls of init_module(2) that the kernel must deny: their entries
// and returns run the hooks, whose record must arrive. The zero value tests nothing.
type canary struct {
	due     time.Time // of the next call; zero if none is
	tries   int       // calls that were made since begin
	isMade  bool      // the record of a call is awaited
	lost    int64     // records that were lost before the first call
	lastFor time.Time // last begin
}

// begin begins a series of calls.
func (c *canary) begin(now time.Time) { *c = canary{due: now, lastFor: now} }

// canaryDue returns when testHooks makes the next canary; zero while it makes none.
func (r *run) canaryDue() time.Time {
	if r.arming.done != nil {
		return time.Time{}
	}
	return r.canary.due
}

// testHooks makes the next canary if it is due, and judges it when all records were read that
// were made before it returned.
func (r *run) testHooks(now time.Time) {
	c := &r.canary
	if due := r.canaryDue(); !due.IsZero() && !now.Before(due) { // while hooks are attached, others would count it as denied
		c.due = time.Time{}
		if c.tries++; c.tries == 1 {
			c.lost = r.source.Sensor().Lost
		}
		err := r.programs.Canary(host.Canary(), func() error { return callCanary(host.Canary()) })
		if c.isMade = err == nil; !c.isMade {
			r.source.health.AddReason("the hooks were not tested: " + err.Error())
		}
	}
	if c.isMade && r.programs.HasReadCanary() {
		c.isMade = false
		r.judge(now)
	}
}

// judge decides what follows from a canary that was not recorded.
func (r *run) judge(now time.Time) {
	switch c := &r.canary; {
	case c.tries < canaryTries:
		c.due = now.Add(canaryPause << (c.tries - 1))
	case r.source.Sensor().Lost > c.lost:
		r.source.health.AddReason("the hooks were not tested: records were lost meanwhile")
	default:
		r.reader.tampered(errNoCanary.Error())
		if !r.isContinued {
			r.source.markUnreliable(errNoCanary) // once: the new hooks are tested too
		}
		r.source.health.Degraded(errNoCanary)
	}
}

// isCanary reports whether a record is that of a canary, also of an earlier process.
func isCanary(record *bpf.Record) bool { return record.Call != nil && record.Call.Canary != 0 }

// callCanary calls init_module(2) without the right to load a module, which the kernel must deny.
// value is its third argument. With the right, the kernel would refuse to load no bytes. It
// returns an error if the kernel was not asked.
func callCanary(value uint64) error {
	outcome := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocks it: the thread ends with the goroutine
		outcome <- callHere(value)
	}()
	return <-outcome
}

func callHere(value uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var rights [2]unix.CapUserData
	if err := unix.Capget(&header, &rights[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	if mayLoad := uint32(1 << unix.CAP_SYS_MODULE); rights[0].Effective&mayLoad != 0 {
		rights[0].Effective &^= mayLoad
		if err := unix.Capset(&header, &rights[0]); err != nil {
			return fmt.Errorf("give up CAP_SYS_MODULE: %w", err)
		}
	}
	_, _, errno := unix.RawSyscall(unix.SYS_INIT_MODULE, 0, 0, uintptr(value))
	if errno != unix.EPERM {
		return fmt.Errorf("the call of init_module gave %w instead of EPERM", errno)
	}
	return checkSeccomp()
}

// checkSeccomp returns an error if a filter, and not the kernel's own check, denies init_module
// to the thread. It may add a filter to the thread, which must make no such call afterwards:
// of several filters, one that returns an error precedes one that asks a tracer, and without a
// tracer the kernel returns ENOSYS for the latter.
func checkSeccomp() error {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err == nil && (strings.Contains(string(status), "\nSeccomp:\t0\n") || !strings.Contains(string(status), "\nSeccomp:")) {
		return nil // there is no filter, or the kernel has none (CONFIG_SECCOMP)
	}
	ask := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_INIT_MODULE},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_TRACE},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(ask)), Filter: &ask[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("test the filter of system calls: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_INIT_MODULE, 0, 0, 0); errno != unix.ENOSYS {
		return errors.New("a filter of system calls (seccomp) refuses init_module; permit it, as the packaged unit does, or set canary off")
	}
	return nil
}
