//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
)

// Reasons for which a kernel cannot run these programs at all. Open's error
// matches them with errors.Is.
var (
	ErrNoBTF        = errors.New("the kernel has no BTF")
	ErrNoRingBuffer = errors.New("the kernel has no BPF ring buffer")
)

// ErrFlushed is what a Read that a Flush interrupted returns.
var ErrFlushed = ringbuf.ErrFlushed

// Programs are the programs attached to the running kernel and the ring buffer
// that they fill. One goroutine reads; the other methods may be called beside
// it.
type Programs struct {
	maps       *ebpf.Collection
	counters   *ebpf.Memory
	settings   *ebpf.Memory
	wanted     moduleReaderSettings
	attached   []attached
	unattached []error
	reader     *ringbuf.Reader
	images     *ringbuf.Reader
	readTypes  map[uint32]string
	loadTypes  map[uint32]string
	// withoutKprobes says that they were switched off at Open.
	withoutKprobes bool
}

type attached struct {
	candidate
	loaded *ebpf.Program
	link   link.Link
	id     uint64 // of the link
}

// Open loads the programs and attaches each hook with the first of its programs
// that this kernel takes. A hook that takes none is named by Unattached; only
// when nothing at all can be attached is that an error. The image of a module is
// sent where it has at most imageLimit bytes; MaxImage is the most that can be.
// Where the kernel lets no program read memory, as when it is locked down to
// confidentiality, the records lack what their Unread says, and there are no
// images, parameters or texts.
// Open needs CAP_BPF, CAP_PERFMON and CAP_SYS_RESOURCE, or root.
func Open(imageLimit int64) (_ *Programs, err error) {
	kernel, err := btf.LoadKernelSpec()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, btf.ErrNotSupported) || errors.Is(err, ebpf.ErrNotSupported) {
		return nil, ErrNoBTF
	} else if err != nil {
		return nil, fmt.Errorf("read the kernel's BTF: %w", err)
	}
	// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise RLIMIT_MEMLOCK: %w", err)
	}
	if err := features.HaveMapType(ebpf.RingBuf); errors.Is(err, ebpf.ErrNotSupported) {
		return nil, ErrNoRingBuffer
	} else if err != nil {
		return nil, fmt.Errorf("probe for the BPF ring buffer: %w", err)
	}

	p := &Programs{}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.readTypes, err = enumerators(kernel, "kernel_read_file_id"); err != nil {
		return nil, err
	}
	if p.loadTypes, err = enumerators(kernel, "kernel_load_data_id"); err != nil {
		return nil, err
	}
	if ftrace.isOff() {
		return nil, ftrace.off()
	}
	spec, list, err := choose(kernel)
	if err != nil {
		return nil, err
	}
	if p.withoutKprobes = kprobes.isOff(); p.withoutKprobes {
		list = withoutKprobes(list)
	}
	if err := p.loadMaps(spec); err != nil {
		return nil, err
	}
	if p.counters, err = p.maps.Maps[moduleMapCounters].Memory(); err != nil {
		return nil, fmt.Errorf("map the programs' counters: %w", err)
	}
	if p.settings, err = p.maps.Maps[moduleMapSettings].Memory(); err != nil {
		return nil, fmt.Errorf("map the programs' settings: %w", err)
	}
	p.wanted.ImageLimit = uint64(max(imageLimit, 0))
	if err := p.NextEpoch(); err != nil {
		return nil, err
	}
	if p.reader, err = ringbuf.NewReader(p.maps.Maps[moduleMapRecords]); err != nil {
		return nil, fmt.Errorf("open the ring buffer: %w", err)
	}
	if p.images, err = ringbuf.NewReader(p.maps.Maps[moduleMapImages]); err != nil {
		return nil, fmt.Errorf("open the ring buffer of images: %w", err)
	}
	loaded := p.loadPreferred(spec, kernel, list)
	defer func() {
		for _, program := range loaded {
			program.Close()
		}
	}()
	absent := map[string]bool{}
	for _, h := range list {
		if absent[h.name] {
			continue
		}
		err := p.attach(spec, loaded, h)
		switch {
		case h.optional && errors.Is(err, os.ErrNotExist):
			absent[h.name] = true
		case err != nil:
			p.unattached = append(p.unattached, err)
		}
	}
	if len(p.attached) == 0 {
		return nil, p.unattached[0]
	}
	return p, nil
}

// choose returns the object that the kernel takes, and its hooks.
func choose(kernel *btf.Spec) (*ebpf.CollectionSpec, []hook, error) {
	locked, err := isLocked()
	if err != nil {
		return nil, nil, err
	}
	load, list := loadLocked, lockedHooks(kernel)
	if !locked {
		preemptible, err := isPreemptible()
		if err != nil {
			return nil, nil, err
		}
		load, list = loadModule, hooks(preemptible)
	}
	spec, err := load()
	if err != nil {
		return nil, nil, fmt.Errorf("read the BPF object: %w", err)
	}
	return spec, list, nil
}

func (p *Programs) loadMaps(spec *ebpf.CollectionSpec) error {
	maps := spec.Copy()
	maps.Programs = nil
	maps.Variables = nil
	for name := range maps.Maps {
		if strings.HasPrefix(name, ".") {
			delete(maps.Maps, name) // sections of variables, which are there for bpf2go only
		}
	}
	var err error
	if p.maps, err = ebpf.NewCollection(maps); err != nil {
		return fmt.Errorf("create BPF maps: %w", err)
	}
	return nil
}

// loadPreferred loads, for every hook, the first program that the kernel's
// BTF does not rule out. All at once costs a fraction of one by one. The result
// is empty where the kernel refuses one of them: then attach goes through them
// singly.
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
	loaded, err := p.load(spec, targets)
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

// load loads the named programs, each for the symbol that stands with it.
func (p *Programs) load(spec *ebpf.CollectionSpec, targets map[string]string) (map[string]*ebpf.Program, error) {
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
	for name := range some.Maps {
		if p.maps.Maps[name] == nil {
			delete(some.Maps, name)
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(some, ebpf.CollectionOptions{MapReplacements: p.maps.Maps})
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

// attach attaches the first of the hook's programs that the kernel takes.
func (p *Programs) attach(spec *ebpf.CollectionSpec, loaded map[string]*ebpf.Program, h hook) error {
	if len(h.programs) == 0 {
		return fmt.Errorf("attach to %s: %w", h.name, kprobes.off())
	}
	var failures []error
	for _, c := range h.programs {
		err := p.attachAs(spec, loaded, c)
		if err == nil {
			return nil
		}
		failures = append(failures, fmt.Errorf("as %s: %w", c.as, err))
	}
	return fmt.Errorf("attach to %s: %w", h.name, errors.Join(failures...))
}

func (p *Programs) attachAs(spec *ebpf.CollectionSpec, loaded map[string]*ebpf.Program, c candidate) (err error) {
	program := loaded[c.program]
	if program == nil {
		one, err := p.load(spec, map[string]string{c.program: c.symbol})
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
		// Not with more instances than the kernel's default: that takes a
		// tracefs event, which a killed process leaves behind. A return that
		// goes unseen is counted.
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
	delete(loaded, c.program) // it is kept with its link now
	p.attached = append(p.attached, a)
	return nil
}

// Read waits for the next record. It returns ErrFlushed after a Flush,
// os.ErrDeadlineExceeded once the deadline has passed and the ring is empty,
// and ringbuf.ErrClosed (os.ErrClosed) after Close. The returned bytes are the
// caller's.
func (p *Programs) Read() ([]byte, error) {
	record, err := p.reader.Read()
	return record.RawSample, err
}

// SetDeadline bounds the following Reads; the zero time lets them wait for
// ever. Only the reading goroutine may call it.
func (p *Programs) SetDeadline(t time.Time) { p.reader.SetDeadline(t) }

// Flush interrupts a Read that waits: it returns ErrFlushed when the ring is
// empty. Several calls may be answered by one ErrFlushed.
func (p *Programs) Flush() error { return p.reader.Flush() }

// Pending is how many bytes of the ring buffer wait to be read, each record
// with its RingSize.
func (p *Programs) Pending() int { return p.reader.AvailableBytes() }

// Hooks names what is attached, each as "symbol (how)".
func (p *Programs) Hooks() []string {
	names := make([]string, len(p.attached))
	for i, a := range p.attached {
		names[i] = a.String()
	}
	return names
}

// Unattached says which hooks are missing and why.
func (p *Programs) Unattached() []error { return p.unattached }

// Counters say what became of the records since Open.
type Counters struct {
	Lost   uint64 // the ring had no room, or a system call's return went unseen
	Missed uint64 // the kernel did not run a program that sends records, because it already ran on that processor
	// Denied are the denied calls, by the system call's name, that found no
	// place among those that Programs.Denied counts.
	Denied map[string]uint64
}

// Counters reads the counters of the programs.
func (p *Programs) Counters() (Counters, error) {
	var c Counters
	var raw [moduleCounterCOUNTERS]uint64
	if err := binary.Read(io.NewSectionReader(p.counters, 0, int64(binary.Size(raw))), binary.NativeEndian, &raw); err != nil {
		return Counters{}, fmt.Errorf("read the programs' counters: %w", err)
	}
	c.Lost = raw[moduleCounterCOUNTER_LOST]
	c.Denied = map[string]uint64{}
	for call, name := range callNames {
		c.Denied[name] = raw[moduleCounter(call)+moduleCounterCOUNTER_DENIED]
	}
	for _, a := range p.attached {
		if a.sendsNothing() {
			continue
		}
		stats, err := a.loaded.Stats()
		if err != nil {
			return Counters{}, fmt.Errorf("read statistics of %s: %w", a.symbol, err)
		}
		c.Missed += stats.RecursionMisses
	}
	return c, nil
}

// Close detaches everything. A Read under way returns.
func (p *Programs) Close() error {
	var errs []error
	for _, a := range p.attached {
		errs = append(errs, a.detach(), a.loaded.Close())
	}
	for _, reader := range []*ringbuf.Reader{p.reader, p.images} {
		if reader != nil {
			errs = append(errs, reader.Close())
		}
	}
	if p.maps != nil {
		p.maps.Close()
	}
	return errors.Join(errs...)
}
