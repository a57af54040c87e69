//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// inject makes the main thread of a process execute a system call while it waits in
// another one, as a debugger does. One thread must make all calls.
func inject(pid int, number, argument uint64) error {
	var err error
	for range 100 {
		if err = injectOnce(pid, number, argument); !errors.Is(err, errNotWaiting) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// errNotWaiting means that the thread is not in a system call.
var errNotWaiting = errors.New("the thread is not in a system call")

func injectOnce(pid int, number, argument uint64) (err error) {
	if err := unix.PtraceSeize(pid); err != nil {
		return fmt.Errorf("attach to the process: %w", err)
	}
	defer func() { err = errors.Join(err, unix.PtraceDetach(pid)) }()
	if err := errors.Join(unix.PtraceInterrupt(pid), waitStopped(pid)); err != nil {
		return err
	}
	var saved unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &saved); err != nil {
		return fmt.Errorf("read the registers: %w", err)
	}
	code := make([]byte, 2)
	if _, err := unix.PtracePeekText(pid, uintptr(saved.Rip)-2, code); err != nil {
		return fmt.Errorf("read the code: %w", err)
	}
	if int64(saved.Orig_rax) < 0 || !bytes.Equal(code, []byte{0x0f, 0x05}) {
		return errNotWaiting
	}
	regs := saved
	regs.Rip, regs.Rax, regs.Rdi, regs.Orig_rax = saved.Rip-2, number, argument, ^uint64(0)
	if err := unix.PtraceSetRegs(pid, &regs); err != nil {
		return fmt.Errorf("set the registers: %w", err)
	}
	for begun := regs.Rip; err == nil && regs.Rip == begun; {
		// A signal may stop it first; Go's own are sent again.
		err = errors.Join(unix.PtraceSingleStep(pid), waitStopped(pid), unix.PtraceGetRegs(pid, &regs))
	}
	if err = errors.Join(err, unix.PtraceSetRegs(pid, &saved)); err != nil {
		return err
	}
	if result := int64(regs.Rax); result < 0 {
		return fmt.Errorf("system call %d: %w", number, unix.Errno(-result))
	}
	return nil
}

func waitStopped(pid int) error {
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return fmt.Errorf("wait for the process to stop: %w", err)
	}
	if !status.Stopped() {
		return fmt.Errorf("the process did not stop: status %#x", status)
	}
	return nil
}
