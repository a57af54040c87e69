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
		tracing("fentry_load_module", asFentry, "load_module"),
		tracing("fentry_security_kernel_read_file", asFentry, "security_kernel_read_file"),
		tracing("fentry_security_kernel_load_data", asFentry, "security_kernel_load_data"),
		tracing("tp_btf_module_load", asTypedTracepoint, "module_load"),
		tracing("tp_btf_module_free", asTypedTracepoint, "module_free"),
		tracing("tp_btf_module_request", asTypedTracepoint, "module_request"),
		tracing("tp_btf_sched_process_exit", asTypedTracepoint, "sched_process_exit"),
	}
	if traceable(kernel, "mod_verify_sig", asFexit) {
		list = append(list, tracing("fexit_mod_verify_sig", asFexit, "mod_verify_sig"))
	}
	if !traceable(kernel, systemCallPrefix+FinitModule, asFexit) {
		return append(list,
			tracing("fexit_load_module_result", asFexit, "load_module"),
			tracing("fexit_free_module_result", asFexit, "free_module"),
		)
	}
	list = append(list, tracing("fexit_load_module", asFexit, "load_module"))
	for _, call := range []string{InitModule, FinitModule, DeleteModule} {
		list = append(list, tracing("fexit_sys_"+call, asFexit, systemCallPrefix+call))
		if runtime.GOARCH == "amd64" && traceable(kernel, "__ia32_sys_"+call, asFexit) {
			list = append(list, tracing("fexit_sys_ia32_"+call, asFexit, "__ia32_sys_"+call))
		}
	}
	return list
}

func tracing(program string, as attachAs, symbol string) hook {
	return hook{name: symbol, programs: []candidate{{program, as, symbol}}}
}
