//go:build linux

package bpf

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf/btf"
)

// A HookInspection says how the programs of one hook can be attached to this kernel.
type HookInspection struct {
	Name string
	// Ways are the kinds of program that the kernel has a place for, the preferred one
	// first; none if the hook cannot be attached.
	Ways []string
	// IsOptional is set if a kernel that lacks the hook needs no program there.
	IsOptional bool
}

// An Inspection says what this kernel lets the programs do.
type Inspection struct {
	Hooks []HookInspection
	// IsLocked is set if the kernel lets no program read its memory
	// (lockdown=confidentiality).
	IsLocked bool
	// WithoutKprobes is set if kprobes are switched off.
	WithoutKprobes bool
}

// Inspect returns how the programs can be attached to this kernel. It fails as [Open] does
// before that attaches anything. It attaches and pins nothing.
func Inspect() (Inspection, error) {
	p := &Programs{}
	c, err := p.prepare(Options{})
	if err != nil {
		return Inspection{}, err
	}
	functions, err := kernelFunctions(c.list)
	if err != nil {
		return Inspection{}, err
	}
	i := Inspection{IsLocked: string(c.object) == string(_LockedBytes), WithoutKprobes: p.withoutKprobes}
	for _, h := range c.list {
		found := HookInspection{Name: h.name, IsOptional: h.optional}
		for _, candidate := range h.programs {
			if candidate.hasPlace(c.kernel, functions) {
				found.Ways = append(found.Ways, string(candidate.as))
			}
		}
		i.Hooks = append(i.Hooks, found)
	}
	return i, nil
}

// hasPlace reports whether the kernel has what the program is attached to.
func (c candidate) hasPlace(kernel *btf.Spec, functions map[string]bool) bool {
	switch {
	case c.as.isTracing():
		return traceable(kernel, c.symbol, c.as)
	case c.as.isKprobe():
		return functions[c.symbol]
	}
	var typed *btf.Typedef
	return kernel.TypeByName("btf_trace_"+c.symbol, &typed) == nil
}

// maxSymbols bounds the kernel's list of symbols that is read, in bytes.
const maxSymbols = 64 << 20

// kernelFunctions returns those functions that the hooks name and the kernel has.
func kernelFunctions(list []hook) (map[string]bool, error) {
	wanted := map[string]bool{}
	for _, h := range list {
		for _, c := range h.programs {
			wanted[c.symbol] = true
		}
	}
	file, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, fmt.Errorf("read the kernel's symbols: %w", err)
	}
	defer file.Close()
	found := map[string]bool{}
	lines := bufio.NewScanner(io.LimitReader(file, maxSymbols))
	for lines.Scan() {
		// ADDRESS TYPE NAME; symbols of modules have the module's name in brackets after it.
		// There are hundreds of thousands.
		line := lines.Bytes()
		i := bytes.LastIndexByte(line, ' ')
		if i < 1 || !wanted[string(line[i+1:])] {
			continue
		}
		if kind := line[i-1]; kind == 't' || kind == 'T' {
			found[string(line[i+1:])] = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the kernel's symbols: %w", err)
	}
	return found, nil
}
