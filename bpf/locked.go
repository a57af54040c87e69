//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Unread says which groups of fields a program could not read, with one bit for each
// group.
type Unread uint32

// Fields that a program could not read.
const (
	// UnreadTask is what is reached through struct task_struct: Parent, EUID, EGID,
	// AUID, SessionID, Capabilities, MntNS, UserNS, KernelThread, and the records
	// about the process.
	UnreadTask = Unread(moduleUnreadUNREAD_TASK)
	// UnreadUntyped is what no typed pointer leads to: PidNS and Request, the Args and
	// Cgroup of a process, the Filesystem of a File, the Version and Srcversion of a
	// Module, and the Name of a requested module.
	UnreadUntyped = Unread(moduleUnreadUNREAD_UNTYPED)
)

// Has reports whether u has any field of some.
func (u Unread) Has(some Unread) bool { return u&some != 0 }

// isLocked probes whether the kernel refuses programs that call a helper to read
// memory (security_locked_down, LOCKDOWN_BPF_READ_KERNEL).
func isLocked() (bool, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:    ebpf.RawTracepoint,
		License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.RFP),
			asm.Add.Imm(asm.R1, -8),
			asm.Mov.Imm(asm.R2, 8),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnProbeReadKernel.Call(),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	switch {
	case errors.Is(err, unix.EINVAL):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("probe for helpers that read memory: %w", err)
	}
	return false, program.Close()
}

// lockedHooks lists the hooks of locked.bpf.c in the order of attachment. If the
// kernel's BTF has a system call twice (6.1), only a kprobe could be attached to it.
// Then the functions that it calls are hooked instead, and a call that ends before
// them is missed.
func lockedHooks(kernel *btf.Spec) []hook {
	list := []hook{
		at("load_module", asFentry),
		at("security_kernel_read_file", asFentry),
		at("security_kernel_load_data", asFentry),
		at("module_load", asTypedTracepoint),
		at("module_free", asTypedTracepoint),
		at("module_request", asTypedTracepoint),
		at("sched_process_exit", asTypedTracepoint),
	}
	if traceable(kernel, "mod_verify_sig", asFexit) {
		list = append(list, at("mod_verify_sig", asFexit))
	}
	if !traceable(kernel, systemCallPrefix+FinitModule, asFexit) {
		return append(list,
			named("load_module_result", "load_module", asFexit),
			named("free_module_result", "free_module", asFexit),
		)
	}
	list = append(list, at("load_module", asFexit))
	for _, call := range []string{InitModule, FinitModule, DeleteModule} {
		list = append(list, named("sys_"+call, systemCallPrefix+call, asFexit))
		if runtime.GOARCH == "amd64" && traceable(kernel, "__ia32_sys_"+call, asFexit) {
			list = append(list, named("sys_ia32_"+call, "__ia32_sys_"+call, asFexit))
		}
	}
	return list
}
