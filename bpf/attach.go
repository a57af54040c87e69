//go:build linux

package bpf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

type attached struct {
	candidate
	loaded *ebpf.Program
	link   link.Link // nil for a pinned kprobe on kernels that have no kprobe links
	probe  *ebpf.Map // keeps that kprobe; see keepProbe
	id     uint64    // of the link
}

// attachAll loads the programs and attaches them.
// They own what begins from then on if there is no other set.
func (p *Programs) attachAll(ctx context.Context, c choice, shared map[string]*ebpf.Map, isFirst bool) error {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(c.object))
	if err != nil {
		return fmt.Errorf("read the BPF object: %w", err)
	}
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count the processors: %w", err)
	}
	spec.Maps[moduleMapSent].MaxEntries = uint32(processors)
	if err := p.loadMaps(spec, shared); err != nil {
		return err
	}
	if err := p.open(); err != nil {
		return err
	}
	if isFirst {
		p.owners.current.Store(p.name.id)
	}
	p.wanted.Set, p.wanted.Epoch = p.name.id, 1
	*p.settings = p.wanted // before a program runs
	loaded := p.loadPreferred(spec, c.kernel, c.list)
	defer func() {
		for _, program := range loaded {
			program.Close()
		}
	}()
	for _, h := range c.list {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := p.attach(spec, c.kernel, loaded, h)
		if err == nil || h.optional && errors.Is(err, os.ErrNotExist) {
			continue
		}
		p.unattached = append(p.unattached, err)
		p.partial = p.partial || isShortage(err)
	}
	if len(p.attached) == 0 {
		return p.unattached[0]
	}
	return nil
}

// attach attaches the first of the hook's programs that the kernel takes.
func (p *Programs) attach(spec *ebpf.CollectionSpec, kernel *btf.Spec, loaded map[string]*ebpf.Program, h hook) error {
	if len(h.programs) == 0 {
		return fmt.Errorf("attach to %s: %w", h.name, kprobes.off())
	}
	var failures []error
	for _, c := range h.programs {
		err := p.attachAs(spec, kernel, loaded, c)
		if err == nil {
			return nil
		}
		failures = append(failures, fmt.Errorf("as %s: %w", c.as, err))
	}
	return fmt.Errorf("attach to %s: %w", h.name, errors.Join(failures...))
}

func (p *Programs) attachAs(spec *ebpf.CollectionSpec, kernel *btf.Spec, loaded map[string]*ebpf.Program, c candidate) (err error) {
	program := loaded[c.program]
	if program == nil {
		one, err := p.load(spec, kernel, map[string]string{c.program: c.symbol})
		if err != nil {
			return err
		}
		program = one[c.program]
		loaded[c.program] = program
	}
	a := attached{candidate: c, loaded: program}
	switch c.as {
	case asRawTracepoint:
		a.link, err = link.AttachRawTracepoint(link.RawTracepointOptions{Name: c.symbol, Program: program})
	case asFentry, asFexit, asTypedTracepoint:
		a.link, err = link.AttachTracing(link.TracingOptions{Program: program})
	case asKprobe:
		a.link, err = link.Kprobe(c.symbol, program, nil)
	case asKretprobe:
		// With the kernel's default number of instances: more would need a
		// tracefs event, which a killed process leaves behind. Missed returns
		// are counted.
		a.link, err = link.Kretprobe(c.symbol, program, nil)
	}
	if err == nil {
		if a.id, err = identify(a.link); err != nil {
			err = errors.Join(err, a.link.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("attach program: %w", err)
	}
	delete(loaded, c.program) // p.attached owns it now
	p.attached = append(p.attached, a)
	return nil
}

// isShortage reports whether an error is a lack of memory or of file descriptors,
// which may pass.
func isShortage(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}
