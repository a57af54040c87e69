//go:build linux

package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Reasons for which a kernel cannot run these programs at all. Open's error
// matches them with errors.Is.
var (
	ErrNoBTF        = errors.New("the kernel has no BTF")
	ErrNoRingBuffer = errors.New("the kernel has no BPF ring buffer")
)

// ErrFlushed is what a Read that a Flush interrupted returns.
var ErrFlushed = ringbuf.ErrFlushed

// Options say how [Open] attaches the programs.
type Options struct {
	// ImageLimit is the size, in bytes, of the largest module whose image is
	// sent; MaxImage is the most that can be.
	ImageLimit int64
	// PinDir is a folder of a BPF file system in which the programs stay when
	// this process ends, so that what they see waits for the next one. Open makes
	// it. "" pins nothing.
	PinDir string
	// OnlyPinned pins nothing where nothing is pinned.
	OnlyPinned bool
	// Anew attaches new programs though there may be some that are pinned and could
	// be taken over.
	Anew bool
	// Reported are denied calls that are known to be reported, in whatever Period.
	Reported []ReportedCalls
}

// Programs are the programs attached to the running kernel and the ring buffer
// that they fill. One goroutine reads; the other methods may be called beside
// it.
type Programs struct {
	*set
	counting   sync.Mutex // guards what is reported of denied calls, and, after Open, wanted
	wanted     moduleReaderSettings
	unattached []error
	readTypes  map[uint32]string
	loadTypes  map[uint32]string
	// withoutKprobes says that they were switched off at Open.
	withoutKprobes bool

	pins     *pins     // nil where nothing is pinned
	unpinned error     // why not
	adopted  bool      // the set was pinned before
	retired  time.Time // when the older sets were detached
	overlap  uint64    // position in the records up to which they may have seen the same
	turns    []Turn    // without their End

	olderLost map[uint64]uint64 // by the older sets
	inherited inheritance       // guarded by counting

	dropping    sync.Mutex // guards older
	older       []*olderSet
	draining    []*olderSet // of these, those still to be read
	drained     atomic.Bool // there are none of them
	olderImages []*ring     // of these, those still to be read
}

// Open loads the programs and attaches each hook with the first of its programs
// that this kernel takes, or takes over those that are pinned. A hook that takes
// none is named by Unattached; only when nothing at all can be attached is that
// an error. Programs of another build that are pinned are detached once these
// see everything, and what they saw is read first.
// Where the kernel lets no program read memory, as when it is locked down to
// confidentiality, the records lack what their Unread says, and there are no
// images, parameters or texts.
// Open needs CAP_BPF, CAP_PERFMON and CAP_SYS_RESOURCE, or root.
func Open(o Options) (_ *Programs, err error) {
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
	object, list, err := choose(kernel)
	if err != nil {
		return nil, err
	}
	if p.withoutKprobes = kprobes.isOff(); p.withoutKprobes {
		list = withoutKprobes(list)
	}
	p.wanted.ImageLimit = uint64(max(o.ImageLimit, 0))
	if err := p.openSet(o, kernel, object, list); err != nil {
		return nil, err
	}
	if err := p.NextEpoch(); err != nil {
		return nil, err
	}
	if err := p.forgetUncounted(); err != nil {
		return nil, err
	}
	for _, r := range o.Reported {
		if err := p.SetReported(r); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// openSet finds the programs that are pinned, or attaches new ones, pins them and
// retires those of other builds.
func (p *Programs) openSet(o Options, kernel *btf.Spec, object []byte, list []hook) error {
	var sets []setName
	if o.PinDir == "" || o.OnlyPinned && !HasPins(o.PinDir) {
		p.unpinned = errNotAsked
	} else {
		p.pins, sets, p.unpinned = listPins(o.PinDir)
	}
	name := setName{layout: layout, digest: digest(object, list), id: newSetID(sets)}
	// Only the youngest: sets must always be compared in the order in which they
	// were made, or what one has told already would be told again of another.
	if n := len(sets); n > 0 && !o.Anew && sets[n-1].digest == name.digest && sets[n-1].layout == name.layout {
		var err error
		if p.set, err = adopt(p.pins, sets[n-1], list); err == nil {
			sets, p.adopted = sets[:n-1], true
		}
	}
	if p.set == nil {
		p.set = &set{name: name}
		if len(sets) > 0 {
			list = takingOver(list, slices.ContainsFunc(sets, p.pins.hasFexit))
		}
		if err := p.attachAll(kernel, object, list); err != nil {
			return err
		}
		if p.pins != nil {
			p.unpinned = p.pin(p.pins)
		}
	}
	if err := p.readSettings(); err != nil {
		return err
	}
	if err := p.takeTurn(sets, o.Reported); err != nil {
		return err
	}
	return p.retire(sets)
}

// isShortage reports whether an error says no more than that this process, or the
// host, has too little of something for now.
func isShortage(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// errNotAsked says that nobody wanted the programs to be pinned.
var errNotAsked = errors.New("pinning was not asked for")

// attachAll loads the programs and attaches them.
func (p *Programs) attachAll(kernel *btf.Spec, object []byte, list []hook) error {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return fmt.Errorf("read the BPF object: %w", err)
	}
	if err := p.loadMaps(spec); err != nil {
		return err
	}
	if err := p.open(); err != nil {
		return err
	}
	if err := p.writeSettings(); err != nil { // a program heeds them from its first run on
		return err
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
			p.partial = p.partial || isShortage(err)
		}
	}
	if len(p.attached) == 0 {
		return p.unattached[0]
	}
	return nil
}

// retire detaches other sets, now that this one sees everything, and opens what
// is left in them.
func (p *Programs) retire(sets []setName) error {
	p.olderLost = map[uint64]uint64{}
	for _, name := range sets {
		older, err := retire(p.pins, name)
		var turn Turn
		if err == nil {
			if turn, err = older.turn(); err != nil {
				err = errors.Join(err, older.Close())
			}
		}
		if isShortage(err) {
			return fmt.Errorf("read what waits in pinned programs: %w", err) // the next Open may
		}
		if err != nil {
			// Nothing more can be had of it.
			p.unattached = append(p.unattached, errors.Join(err, os.RemoveAll(p.pins.of(name))))
			continue
		}
		p.older = append(p.older, older)
		p.olderLost[name.id] = older.lost()
		p.turns = append(p.turns, turn)
		older.images.SetDeadline(time.Unix(1, 0)) // it gives what it has
		p.olderImages = append(p.olderImages, older.images)
	}
	p.turns = append(p.turns, Turn{Set: p.name.id, Begin: time.Duration(p.wanted.BeginNs)})
	if len(p.older) > 0 {
		p.draining, p.retired, p.overlap = slices.Clone(p.older), time.Now(), p.records.end()
	}
	return nil
}

// choose returns the object that the kernel takes, and its hooks.
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

func (p *Programs) loadMaps(spec *ebpf.CollectionSpec) error {
	only := spec.Copy()
	only.Programs = nil
	only.Variables = nil
	for name := range only.Maps {
		if strings.HasPrefix(name, ".") {
			delete(only.Maps, name) // sections of variables, which are there for bpf2go only
		}
	}
	collection, err := ebpf.NewCollection(only)
	if err != nil {
		return fmt.Errorf("create BPF maps: %w", err)
	}
	p.maps = collection.Maps
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
		if p.maps[name] == nil {
			delete(some.Maps, name)
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(some, ebpf.CollectionOptions{MapReplacements: p.maps})
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

// A Mark is a place behind a record in the ring buffer of a set of programs. It
// can be compared and be a map's key. No two records on a host have the same.
type Mark struct {
	Set      uint64 // of programs
	Position uint64 // in bytes since the set was made
}

// Read waits for the next record. It returns ErrFlushed after a Flush,
// os.ErrDeadlineExceeded once the deadline has passed and the ring is empty,
// and os.ErrClosed after Close. The returned bytes are the caller's. What older
// sets of programs saw comes first.
// What was read and not released before the process ends is read again by the
// next one, if the programs are pinned.
func (p *Programs) Read() ([]byte, Mark, error) {
	for len(p.draining) > 0 {
		older := p.draining[0]
		// A program may still be writing there that was running as it was
		// detached.
		older.records.SetDeadline(p.retired.Add(afterRetirement))
		raw, position, err := older.records.Read(nil)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return raw, Mark{older.name.id, position}, err
		}
		p.draining = p.draining[1:]
	}
	p.drained.Store(true)
	raw, position, err := p.records.Read(nil)
	return raw, Mark{p.name.id, position}, err
}

// afterRetirement is how long a program may go on that was running as it was
// detached.
const afterRetirement = 100 * time.Millisecond

// IsOlder reports whether a mark is of an older set.
func (p *Programs) IsOlder(m Mark) bool { return m.Set != p.name.id }

// Release says that nobody needs the records before a mark, nor the chunks before
// another, any more: the zero mark where it is none of them. The first record
// that is still needed, which was read, is that before a third mark; zero where
// all are not. It reports whether they could be given back to the kernel: while
// what older sets saw is needed, all stays, so that a process that comes after a
// crash can compare what they and this one saw. Older sets that are needed no
// more are removed.
func (p *Programs) Release(records, images, first Mark) bool {
	p.dropping.Lock()
	defer p.dropping.Unlock()
	s := settlement{set: p.name.id, records: p.own(records), images: p.own(images)}
	if len(p.older) == 0 {
		p.give(s)
		return true
	}
	if p.needsOlder(first) || p.pins.begin(s) != nil {
		// But rather than to lose what is still to come, the same is told twice.
		isCrowded := p.records.isCrowded()
		if isCrowded {
			p.give(s)
		}
		return isCrowded
	}
	p.give(s)
	for _, older := range p.older {
		older.Close()
	}
	p.older = nil
	_ = p.pins.finish(s) // what is left of them is removed with the next Open
	return true
}

// needsOlder reports whether what older sets saw is still needed.
func (p *Programs) needsOlder(first Mark) bool {
	position := p.records.read.Load()
	if first != (Mark{}) {
		position = first.Position - 1
	}
	return !p.drained.Load() || first != (Mark{}) && p.IsOlder(first) || position < p.overlap
}

func (p *Programs) give(s settlement) {
	p.records.Release(s.records)
	p.images.Release(s.images)
}

// own is the mark's position if it is of this set, and 0 otherwise: those of
// older sets stay as long as one of them is needed.
func (p *Programs) own(m Mark) uint64 {
	if m.Set != p.name.id {
		return 0
	}
	return m.Position
}

// Unpinned says why the programs are not pinned; nil where they are.
func (p *Programs) Unpinned() error { return p.unpinned }

// SetDeadline bounds the following Reads; the zero time lets them wait for
// ever. Only the reading goroutine may call it.
func (p *Programs) SetDeadline(t time.Time) { p.records.SetDeadline(t) }

// Flush interrupts a Read that waits: it returns ErrFlushed when the ring is
// empty. Several calls may be answered by one ErrFlushed.
func (p *Programs) Flush() error { return p.records.Flush() }

// Pending is how many bytes of the ring buffers wait to be read, each record
// with its RingSize. Only the reading goroutine may call it.
func (p *Programs) Pending() int {
	pending := p.records.unread()
	for _, older := range p.draining {
		pending += older.records.unread()
	}
	return pending
}

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

// Counters say what became of the records since the programs were attached.
type Counters struct {
	// Lost is what each set of programs lost: the ring had no room, a system call's
	// return went unseen, or the kernel did not run a program that sends records,
	// because it already ran on that processor. Of older sets, which Open has
	// relieved, the last is not known.
	Lost map[uint64]uint64
}

// Counters reads the counters of the programs.
func (p *Programs) Counters() (Counters, error) {
	var c Counters
	var raw [moduleCounterCOUNTERS]uint64
	if err := binary.Read(io.NewSectionReader(p.counters, 0, int64(binary.Size(raw))), binary.NativeEndian, &raw); err != nil {
		return Counters{}, fmt.Errorf("read the programs' counters: %w", err)
	}
	c.Lost = maps.Clone(p.olderLost)
	c.Lost[p.name.id] = raw[moduleCounterCOUNTER_LOST]
	for _, a := range p.attached {
		if a.sendsNothing() {
			continue
		}
		stats, err := a.loaded.Stats()
		if err != nil {
			return Counters{}, fmt.Errorf("read statistics of %s: %w", a.symbol, err)
		}
		c.Lost[p.name.id] += stats.RecursionMisses
	}
	return c, nil
}

// Close detaches everything that is not pinned. A Read under way returns.
func (p *Programs) Close() error {
	var errs []error
	if p.set != nil {
		errs = append(errs, p.set.Close())
	}
	p.dropping.Lock()
	defer p.dropping.Unlock()
	for _, older := range p.older {
		errs = append(errs, older.Close())
	}
	p.older = nil
	return errors.Join(append(errs, p.pins.Close())...)
}

// WereThere reports whether Open found these programs, or older ones, attached.
func (p *Programs) WereThere() bool { return p.adopted || len(p.turns) > 1 }

// IsPinned reports whether the programs stay when this process ends.
func (p *Programs) IsPinned() bool {
	if p.path == "" {
		return false
	}
	_, err := os.Lstat(p.path)
	return err == nil
}
