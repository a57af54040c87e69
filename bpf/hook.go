//go:build linux

package bpf

import "runtime"

// A hook is one place in the kernel and the programs that can be attached to
// it, the preferred one first.
type hook struct {
	symbol   string
	optional bool // a kernel may lack it without anything being missed
	programs []candidate
}

// A candidate is one program of the object and how it is attached.
type candidate struct {
	program string
	as      attachAs
}

type attachAs string

const (
	asRawTracepoint attachAs = "raw_tp"
	asFentry        attachAs = "fentry"
	asFexit         attachAs = "fexit"
	asKprobe        attachAs = "kprobe"
	asKretprobe     attachAs = "kretprobe"
)

// isTracing reports whether the program needs a function in the kernel's BTF.
func (as attachAs) isTracing() bool { return as == asFentry || as == asFexit }

// hooks lists every hook in the order of attachment. Entries come before
// returns, so that what is seen to return was seen to begin.
func hooks() []hook {
	var list []hook
	for _, call := range []string{InitModule, FinitModule, DeleteModule} {
		list = append(list, systemCall(systemCallPrefix+call, call, false)...)
		if runtime.GOARCH == "amd64" {
			// Without CONFIG_IA32_EMULATION there are no 32-bit callers.
			list = append(list, systemCall("__ia32_sys_"+call, "ia32_"+call, true)...)
		}
	}
	return append(list,
		securityHook("security_kernel_read_file"),
		securityHook("security_kernel_load_data"),
		tracepoint("module_load"),
		tracepoint("module_free"),
		tracepoint("module_request"),
	)
}

func systemCall(symbol, name string, optional bool) []hook {
	return []hook{
		{symbol: symbol, optional: optional, programs: []candidate{
			{"fentry_sys_" + name, asFentry},
			{"kprobe_sys_" + name, asKprobe},
		}},
		{symbol: symbol, optional: optional, programs: []candidate{
			{"fexit_sys_" + name, asFexit},
			{"kretprobe_sys_" + name, asKretprobe},
		}},
	}
}

func securityHook(symbol string) hook {
	return hook{symbol: symbol, programs: []candidate{
		{"fentry_" + symbol, asFentry},
		{"kprobe_" + symbol, asKprobe},
	}}
}

func tracepoint(name string) hook {
	return hook{symbol: name, programs: []candidate{{"raw_tp_" + name, asRawTracepoint}}}
}
