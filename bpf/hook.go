//go:build linux

package bpf

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A hook is a place in the kernel and the programs that can be attached there, the
// preferred one first.
type hook struct {
	name     string
	optional bool // a kernel that lacks it needs no program there
	programs []candidate
}

// A candidate is a program of the object, how it is attached, and to which function
// or tracepoint.
type candidate struct {
	program string
	as      attachAs
	symbol  string
}

// sendsNothing reports whether the program only maintains the map of threads and
// sends no records. On a kernel that preempts its own threads, such a program may be
// skipped for one thread while it runs for another; no record is lost by that.
func (c candidate) sendsNothing() bool {
	return slices.Contains([]string{"initcall_start", "initcall_finish", "sched_process_exit"}, c.symbol)
}

type attachAs string

const (
	asRawTracepoint   attachAs = "raw_tp"
	asTypedTracepoint attachAs = "tp_btf" // a raw tracepoint with typed arguments
	asFentry          attachAs = "fentry"
	asFexit           attachAs = "fexit"
	asKprobe          attachAs = "kprobe"
	asKretprobe       attachAs = "kretprobe"
)

// isTracing reports whether the program needs a function in the kernel's BTF.
func (as attachAs) isTracing() bool { return as == asFentry || as == asFexit }

func (as attachAs) isKprobe() bool { return as == asKprobe || as == asKretprobe }

// hooks lists every hook in the order of attachment. Entries come before returns, so
// that a call whose return is seen was seen to begin.
//
// Tracing programs and raw tracepoints are preferred: they cost less, and fexit
// misses no return, however many calls are under way. But if the kernel preempts its
// own threads, a thread that is preempted inside such a program keeps the program
// from running for all other threads on that processor (bpf_prog_enter's recursion
// guard). Loads would be missed, by chance or because an attacker causes it. Two
// programs could also write to one processor's draft (module.bpf.c). Kprobes run
// with preemption off and are preferred there.
//
// Some hooks leave no choice. On amd64, kernels before 6.6 attach no tracing program
// to a function with more than six arguments, such as parse_args. Some tracepoints
// have no function that is called at the same place.
func hooks(preemptible bool) []hook {
	var list []hook
	for _, call := range []string{InitModule, FinitModule, DeleteModule} {
		list = append(list, systemCall(systemCallPrefix+call, call, false)...)
		if runtime.GOARCH == "amd64" {
			// Kernels without CONFIG_IA32_EMULATION have no 32-bit callers.
			list = append(list, systemCall("__ia32_sys_"+call, "ia32_"+call, true)...)
		}
	}
	verify := at("mod_verify_sig", asFexit, asKretprobe)
	verify.optional = true // without CONFIG_MODULE_SIG nothing is verified
	list = append(list,
		at("security_kernel_post_read_file", asFentry, asKprobe),
		at("security_kernel_post_load_data", asFentry, asKprobe),
		at("security_kernel_read_file", asFentry, asKprobe),
		at("security_kernel_load_data", asFentry, asKprobe),
		verify,
		tracepoint("module_load", "do_init_module"),
		tracepoint("module_free", "free_module"),
		at("call_usermodehelper_exec_async", asFentry, asKprobe),
		at("call_usermodehelper_exec", asFentry, asKprobe),
		tracepoint("module_request", "security_kernel_module_request"),
	)
	if preemptible {
		for _, h := range list {
			slices.Reverse(h.programs)
		}
	}
	return append(list,
		at("parse_args", asKprobe, asFentry),
		at("initcall_start", asRawTracepoint),
		at("initcall_finish", asRawTracepoint),
		at("sched_process_exit", asRawTracepoint),
	)
}

// upgradeOrder returns the hooks in the order of attachment for a set that replaces
// another one: returns first and entries last. A call of which the new set sees only
// the return belongs to the older set. A call of which it sees only the entry would
// look as if it were still under way.
//
// Kprobes are preferred for functions whose returns are hooked, because tracing
// programs would make the older set miss returns: when the tracing programs of a
// function change, calls that are under way return through none of them, neither old
// nor new (bpf_tramp_image_put, since e21aa341785c of 5.12). On 5.10 kretprobes miss
// returns where an fexit program is attached after them.
func upgradeOrder(list []hook) []hook {
	returns := map[string]bool{}
	for _, h := range list {
		if h.isReturn() {
			returns[h.name] = true
		}
	}
	rank := func(h hook) int {
		switch {
		case h.isReturn():
			return 0
		case returns[h.name]:
			return 2
		}
		return 1
	}
	list = slices.Clone(list)
	for i, h := range list {
		if returns[h.name] && h.programs[0].as.isTracing() {
			list[i].programs = slices.Clone(h.programs)
			slices.Reverse(list[i].programs)
		}
	}
	slices.SortStableFunc(list, func(a, b hook) int { return rank(a) - rank(b) })
	return list
}

func (h hook) isReturn() bool {
	return slices.ContainsFunc(h.programs, func(c candidate) bool { return c.as == asFexit || c.as == asKretprobe })
}

func systemCall(symbol, name string, optional bool) []hook {
	entry := named("sys_"+name, symbol, asFentry, asKprobe)
	exit := named("sys_"+name, symbol, asFexit, asKretprobe)
	entry.optional, exit.optional = optional, optional
	return []hook{entry, exit}
}

func at(symbol string, ways ...attachAs) hook { return named(symbol, symbol, ways...) }

// named returns the hook at a symbol, with a program for each way to attach it, called
// after the way and a name.
func named(name, symbol string, ways ...attachAs) hook {
	h := hook{name: symbol}
	for _, as := range ways {
		h.programs = append(h.programs, candidate{string(as) + "_" + name, as, symbol})
	}
	return h
}

// tracepoint returns the hook of a tracepoint, or of the function around it.
func tracepoint(name, function string) hook {
	return hook{name: name, programs: []candidate{
		{"raw_tp_" + name, asRawTracepoint, name},
		{"kprobe_" + function, asKprobe, function},
	}}
}

// withoutKprobes returns the hooks without the programs that run at kprobes.
func withoutKprobes(list []hook) []hook {
	list = slices.Clone(list)
	for i, h := range list {
		list[i].programs = slices.DeleteFunc(slices.Clone(h.programs), func(c candidate) bool { return c.as.isKprobe() })
	}
	return list
}

// preemptMode shows how a PREEMPT_DYNAMIC kernel preempts, as in
// "none (voluntary) full lazy" (kernel/sched/debug.c).
const preemptMode = "/sys/kernel/debug/sched/preempt"

// isPreemptible reports whether the running kernel preempts its own threads. Its
// version says whether it can (init/Makefile). If that can be switched and the
// current mode is unknown, it returns true.
func isPreemptible() (bool, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return false, fmt.Errorf("read the kernel's version: %w", err)
	}
	mode, _ := os.ReadFile(preemptMode)
	return preempts(unix.ByteSliceToString(name.Version[:]), string(mode)), nil
}

func preempts(version, mode string) bool {
	if !strings.Contains(version, "PREEMPT") {
		return false
	}
	return !strings.Contains(mode, "(none)") && !strings.Contains(mode, "(voluntary)")
}
