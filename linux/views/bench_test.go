package views

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// newHost returns views of a copy of a host with 150 modules.
func newHost(b *testing.B) *Views {
	files := tree{"sys/kernel/btf/vmlinux": "", "proc/sys/kernel/tainted": "0\n"}
	var modules, symbols, functions, memory strings.Builder
	for range 150_000 {
		symbols.WriteString("ffffffff81234560 T some_function_of_the_kernel\n")
		functions.WriteString("some_function_of_the_kernel\n")
	}
	for i := range 150 {
		name := fmt.Sprintf("module_%d", i)
		fmt.Fprintf(&modules, "%s 16384 0 - Live 0xffffffffc%03x0000\n", name, i)
		fmt.Fprintf(&memory, "0x00000000f90acb8c-0x000000009edf68b6 20480 load_module+0xd97/0x2630 pages=4 vmalloc N0=4\n")
		files["sys/module/"+name+"/initstate"] = "live\n"
		for j := range 30 {
			files[fmt.Sprintf("sys/module/%s/sections/.text.%d", name, j)] = fmt.Sprintf("0xffffffffc%03x0%02x0", i, j)
		}
		files["sys/module/builtin_"+name+"/uevent"] = ""
		for j := range 100 {
			fmt.Fprintf(&symbols, "ffffffffc%03x0%03x t function_%d\t[%s]\n", i, j*16, j, name)
			fmt.Fprintf(&functions, "function_%d [%s]\n", j, name)
		}
	}
	files["proc/modules"], files["proc/vmallocinfo"], files["proc/kallsyms"] = modules.String(), memory.String(), symbols.String()
	files["sys/kernel/tracing/available_filter_functions"] = functions.String()
	return newViews(b, files)
}

func BenchmarkListed(b *testing.B) {
	v := newHost(b)
	for b.Loop() {
		modules, err := v.Listed(b.Context())
		if err != nil || len(modules) != 150 {
			b.Fatal(len(modules), err)
		}
	}
}

func BenchmarkModules(b *testing.B) {
	v := newHost(b)
	for b.Loop() {
		modules, err := v.Modules(b.Context())
		if err != nil || len(modules) != 150 {
			b.Fatal(len(modules), err)
		}
	}
}

// BenchmarkThisHost polls the kernel on which the benchmark runs.
func BenchmarkThisHost(b *testing.B) {
	if _, err := os.Stat("/proc/modules"); err != nil {
		b.Skip("this host has no /proc/modules")
	}
	v := New("/")
	for b.Loop() {
		if _, err := v.Listed(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
