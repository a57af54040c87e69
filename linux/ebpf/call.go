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
)

// canaryTime is how long a call may take. The kernel denies it in microseconds.
const canaryTime = 5 * time.Second

// errNoReturn is the error of a call that did not return in time.
var errNoReturn = errors.New("init_module did not return in time")

// An answerError is what the kernel answered instead of EPERM.
type answerError unix.Errno

func (e answerError) Error() string {
	return fmt.Sprintf("the kernel answered a load that the recorder attempted itself, without the right to load (a canary), with %q instead of EPERM, so code in the kernel handles init_module", unix.Errno(e).Error())
}

// calling holds a value while a call is under way.
var calling = make(chan struct{}, 1)

// callCanary calls init_module(2) without the right to load a module, which the kernel must deny.
// value is its third argument. With the right, the kernel would refuse to load no bytes. It
// returns an answerError if the kernel does not deny it, errNoReturn, and another error if
// the kernel was not asked.
func callCanary(value uint64) error { return callInTime(value, callHere) }

func callInTime(value uint64, call func(uint64) error) error {
	select {
	case calling <- struct{}{}:
	default:
		return errNoReturn // an earlier one
	}
	outcome := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocks it: the thread ends with the goroutine
		err := call(value)
		<-calling
		outcome <- err
	}()
	timeout := time.NewTimer(canaryTime)
	defer timeout.Stop()
	select {
	case err := <-outcome:
		return err
	case <-timeout.C:
		return errNoReturn
	}
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
	_, _, answer := unix.Syscall(unix.SYS_INIT_MODULE, 0, 0, uintptr(value)) // a filter may ask another process, and take its time
	if err := checkSeccomp(answer); err != nil {
		return err
	}
	if answer != unix.EPERM {
		return answerError(answer)
	}
	return nil
}

// checkSeccomp returns an error if a filter may have answered init_module, and not the kernel itself.
// It may add a filter to the thread, which must make no such call afterwards:
// of several filters, one that returns an error, or asks a process, precedes one that asks a tracer, and without a
// tracer the kernel returns ENOSYS for the latter.
func checkSeccomp(answer unix.Errno) error {
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
	if err := addFilter(ask); err != nil {
		return fmt.Errorf("test the filter of system calls: %w", err)
	}
	// A filter that answers ENOSYS itself looks the same.
	if _, _, errno := unix.Syscall(unix.SYS_INIT_MODULE, 0, 0, 0); errno != unix.ENOSYS || answer == unix.ENOSYS {
		return errors.New("a filter of system calls (seccomp) refuses init_module; permit it, as the packaged unit does, or set canary off")
	}
	return nil
}

// addFilter adds a seccomp filter to the thread.
func addFilter(filter []unix.SockFilter) error {
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall6(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0, 0)
	runtime.KeepAlive(&program)
	runtime.KeepAlive(filter)
	if errno != 0 {
		return errno
	}
	return nil
}
