//go:build linux

package bpf

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPreempts(t *testing.T) {
	tests := []struct {
		version, mode string
		want          bool
	}{
		{"#1 SMP Debian 5.10.262-1 (2026-07-31)", "", false},
		{"#1 SMP PREEMPT Tue Aug 4 2026", "", true},
		{"#1 SMP PREEMPT_RT Debian 6.12.107-1", "", true},
		{"#1 SMP PREEMPT_DYNAMIC Debian 6.12.107-1", "none (voluntary) full \n", false},
		{"#1 SMP PREEMPT_DYNAMIC Debian 6.12.107-1", "(none) voluntary full \n", false},
		{"#1 SMP PREEMPT_DYNAMIC Debian 7.3.4-1", "full (lazy) \n", true},
		{"#1 SMP PREEMPT_DYNAMIC Debian 7.3.4-1", "", true},
	}
	for _, test := range tests {
		require.Equal(t, test.want, preempts(test.version, test.mode), "%+v", test)
	}
}

// Every program that a hook names is in the object, and the other way round.
func TestHooksAndObjectAgree(t *testing.T) {
	spec, err := loadModule()
	require.NoError(t, err)
	named := map[string]bool{}
	for _, h := range hooks(false) {
		for _, c := range h.programs {
			require.Contains(t, spec.Programs, c.program)
			named[c.program] = true
		}
	}
	for name := range spec.Programs {
		require.True(t, named[name], "no hook attaches %s", name)
	}
}

// The tests of loads during the attachment (linux/ebpf) assume this order.
func TestOrderOfAttachment(t *testing.T) {
	for _, preemptible := range []bool{false, true} {
		for _, call := range []string{InitModule, FinitModule} {
			steps := map[string]string{
				systemCallPrefix + call: "entry", "security_kernel_post_read_file": "image", "security_kernel_read_file": "read",
				"module_load": "live", "parse_args": "params",
			}
			var order []string
			for _, h := range hooks(preemptible) {
				switch step := steps[h.name]; {
				case step == "entry" && h.isReturn():
					order = append(order, "end")
				case step != "":
					order = append(order, step)
				}
			}
			require.Equal(t, []string{"entry", "end", "image", "read", "live", "params"}, order)
		}
	}
}

func TestFewProgramsSendNothing(t *testing.T) {
	var silent []string
	for _, h := range hooks(true) {
		if h.programs[0].sendsNothing() {
			silent = append(silent, h.name)
		}
	}
	require.Equal(t, []string{"initcall_start", "initcall_finish", "sched_process_exit"}, silent)
}

func TestWithoutKprobes(t *testing.T) {
	for _, preemptible := range []bool{false, true} {
		all := hooks(preemptible)
		some := withoutKprobes(all)
		require.Equal(t, hooks(preemptible), all, "it changes a list of its own")
		require.Len(t, some, len(all))
		for _, h := range some {
			require.NotEmpty(t, h.programs, "there is another way to %s", h.name)
			for _, c := range h.programs {
				require.False(t, c.as.isKprobe(), "%+v", c)
			}
		}
	}
	err := (&Programs{}).attach(nil, nil, nil, hook{name: "x"})
	require.EqualError(t, err, "attach to x: kprobes are switched off; write 1 to /sys/kernel/debug/kprobes/enabled")
}

func TestPreemptibleKernelsGetKprobesFirst(t *testing.T) {
	fixed := map[string]attachAs{
		"parse_args": asKprobe, "initcall_start": asRawTracepoint, "initcall_finish": asRawTracepoint, "sched_process_exit": asRawTracepoint,
	}
	for _, h := range hooks(true) {
		if as, ok := fixed[h.name]; ok {
			require.Equal(t, as, h.programs[0].as, h.name)
			continue
		}
		require.Contains(t, []attachAs{asKprobe, asKretprobe}, h.programs[0].as, h.name)
	}
	for _, h := range hooks(false) {
		if as, ok := fixed[h.name]; ok {
			require.Equal(t, as, h.programs[0].as, h.name)
			continue
		}
		require.Contains(t, []attachAs{asRawTracepoint, asFentry, asFexit}, h.programs[0].as, h.name)
	}
}

// A set that relieves another sees no call that does not end.
func TestUpgradeOrder(t *testing.T) {
	list := upgradeOrder(hooks(true))
	require.ElementsMatch(t, hooks(true), list)
	at := map[string]map[bool]int{}
	for i, h := range list {
		if at[h.name] == nil {
			at[h.name] = map[bool]int{}
		}
		at[h.name][h.isReturn()] = i
	}
	for name, places := range at {
		if len(places) == 2 {
			require.Less(t, places[true], at["security_kernel_read_file"][false], name)
			require.Greater(t, places[false], at["sched_process_exit"][false], name)
		}
	}
	for _, h := range upgradeOrder(hooks(false)) {
		switch {
		case h.isReturn():
			require.Equal(t, asKretprobe, h.programs[0].as, h.name)
		case len(at[h.name]) == 2:
			require.Equal(t, asKprobe, h.programs[0].as, h.name)
		}
	}
	for _, h := range hooks(false) {
		if h.isReturn() {
			require.Equal(t, asFexit, h.programs[0].as, "the list itself is as before")
		}
	}
}
