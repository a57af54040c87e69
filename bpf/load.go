//go:build linux

package bpf

import (
	"fmt"
	"maps"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// choose returns the object that the kernel accepts, and its hooks.
func choose(kernel *btf.Spec) (object []byte, list []hook, err error) {
	locked, err := isLocked()
	if err != nil {
		return nil, nil, err
	}
	if locked {
		return _LockedBytes, lockedHooks(kernel), nil
	}
	preemptible, err := isPreemptible()
	if err != nil {
		return nil, nil, err
	}
	return _ModuleBytes, hooks(preemptible), nil
}

// loadMaps creates the maps, except those that the set shares with another one.
func (p *Programs) loadMaps(spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map) error {
	only := spec.Copy()
	only.Programs = nil
	only.Variables = nil
	maps.DeleteFunc(only.Maps, func(name string, _ *ebpf.MapSpec) bool {
		return strings.HasPrefix(name, ".") // a section of variables, which only bpf2go needs
	})
	collection, err := ebpf.NewCollectionWithOptions(only, ebpf.CollectionOptions{MapReplacements: shared, Cache: p.cache})
	if err != nil {
		return fmt.Errorf("create BPF maps: %w", err)
	}
	p.maps = collection.Maps
	return nil
}

// loadPreferred loads, for every hook, the first program that the kernel's BTF does
// not rule out. Loading all at once costs a fraction of loading one by one. The
// result is empty if the kernel refuses one of them; attach then tries each.
func (p *Programs) loadPreferred(spec *ebpf.CollectionSpec, kernel *btf.Spec, list []hook) map[string]*ebpf.Program {
	targets := map[string]string{}
	for _, h := range list {
		for _, c := range h.programs {
			if c.as.isTracing() && !traceable(kernel, c.symbol, c.as) {
				continue
			}
			targets[c.program] = c.symbol
			break
		}
	}
	loaded, err := p.load(spec, kernel, targets)
	if err != nil {
		return map[string]*ebpf.Program{}
	}
	return loaded
}

// traceable probes whether a tracing program can be attached to a function: the
// kernel's BTF must have one of that name (6.1 has two of each system call) and
// must know what a first argument that is read points to (5.10 does not for
// __x64_sys_*).
func traceable(kernel *btf.Spec, symbol string, as attachAs) bool {
	var function *btf.Func
	if err := kernel.TypeByName(symbol, &function); err != nil {
		return false
	}
	proto, ok := function.Type.(*btf.FuncProto)
	if !ok || as == asFexit || len(proto.Params) == 0 {
		return ok
	}
	pointer, ok := btf.UnderlyingType(proto.Params[0].Type).(*btf.Pointer)
	if !ok {
		return true
	}
	_, unknown := btf.UnderlyingType(pointer.Target).(*btf.Fwd)
	return !unknown
}

// load loads programs by name, each for a symbol.
func (p *Programs) load(spec *ebpf.CollectionSpec, kernel *btf.Spec, targets map[string]string) (map[string]*ebpf.Program, error) {
	some := spec.Copy()
	some.Variables = nil
	for name, program := range some.Programs {
		symbol, wanted := targets[name]
		if !wanted {
			delete(some.Programs, name)
		} else if program.Type == ebpf.Tracing {
			program.AttachTo = symbol
		}
	}
	maps.DeleteFunc(some.Maps, func(name string, _ *ebpf.MapSpec) bool { return p.maps[name] == nil })
	collection, err := ebpf.NewCollectionWithOptions(some, ebpf.CollectionOptions{
		// Without the types of modules: those can be unloaded meanwhile, and root chooses them.
		Programs: ebpf.ProgramOptions{KernelTypes: kernel}, MapReplacements: p.maps, Cache: p.cache,
	})
	if err != nil {
		return nil, fmt.Errorf("load program: %w", err)
	}
	defer collection.Close()
	programs := map[string]*ebpf.Program{}
	for name := range targets {
		programs[name] = collection.DetachProgram(name)
	}
	return programs, nil
}
