//go:build linux

package bpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
)

// Open's error matches one of these if the kernel cannot run the programs at all.
var (
	ErrNoBTF        = errors.New("the kernel has no BTF")
	ErrNoRingBuffer = errors.New("the kernel has no BPF ring buffer")
)

// Options say how [Open] attaches the programs.
type Options struct {
	// ImageLimit is the size, in bytes, of the largest module whose image is
	// sent; MaxImage is the most that can be.
	ImageLimit int64
	// PinDir is the folder of a BPF file system in which the programs and their
	// ring buffers stay when this process ends. Open creates it. Nothing is pinned
	// if it is empty.
	PinDir string
	// OnlyPinned uses programs that are pinned already and does not pin new ones.
	OnlyPinned bool
	// Anew attaches new programs even if usable ones are pinned.
	Anew bool
}

// Programs are the programs attached to the running kernel and their ring
// buffers. One goroutine may call Read and one ReadImage; the other methods may be
// called concurrently.
type Programs struct {
	*set
	wanted     moduleReaderSettings
	cache      *btf.Cache // the kernel's types; of Open
	unattached []error
	leftovers  []error
	readTypes  map[uint32]string
	loadTypes  map[uint32]string
	// withoutKprobes is whether kprobes were switched off at Open.
	withoutKprobes bool

	pins     *pins     // nil if nothing is pinned
	unpinned error     // the reason
	found    bool      // a set was attached before
	adopted  bool      // an earlier process attached these programs
	retired  time.Time // when the older sets were detached

	olderCounts map[moduleCounter]map[uint64]uint64 // by older set
	missed      uint64                              // runs of the programs that Renew has detached that were skipped

	dropping    sync.Mutex // guards older, pins, missed and attached, once Open has returned
	older       []*olderSet
	draining    []*olderSet // those whose records are still to be read
	filtered    []Filtered  // found in those that were read
	drained     atomic.Bool // there are none
	olderImages []*olderSet // those whose images are still to be read
}

// Open opens the pinned programs, or attaches new ones: to each hook the first of
// its programs that the kernel accepts. Unattached returns the hooks that accept
// none; it is an error only if nothing can be attached. Pinned programs of another
// build are replaced without a gap, and their records are read first.
//
// If the kernel lets no program read memory, as when it is locked down to
// confidentiality, records lack the fields that their Unread names, and there are
// no images, parameters or strings.
//
// Open needs CAP_BPF, CAP_PERFMON and CAP_SYS_RESOURCE, or root. It returns early when
// ctx ends; the next Open finishes an upgrade that was begun.
func Open(ctx context.Context, o Options) (_ *Programs, err error) {
	p := &Programs{}
	c, err := p.prepare(o)
	if err != nil {
		return nil, err
	}
	if err := p.openSet(ctx, o, c); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.cache = nil
	p.NextEpoch()
	return p, nil
}

// A choice is what to load into the running kernel.
type choice struct {
	kernel *btf.Spec
	object []byte
	list   []hook
}

// prepare reads the kernel's types and chooses the programs.
func (p *Programs) prepare(o Options) (c choice, err error) {
	p.cache = btf.NewCache()
	kernel, err := p.cache.Kernel()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, btf.ErrNotSupported) || errors.Is(err, ebpf.ErrNotSupported) {
		return c, ErrNoBTF
	} else if err != nil {
		return c, fmt.Errorf("read the kernel's BTF: %w", err)
	}
	// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return c, fmt.Errorf("raise RLIMIT_MEMLOCK: %w", err)
	}
	if err := features.HaveMapType(ebpf.RingBuf); errors.Is(err, ebpf.ErrNotSupported) {
		return c, ErrNoRingBuffer
	} else if err != nil {
		return c, fmt.Errorf("probe for the BPF ring buffer: %w", err)
	}
	if p.readTypes, err = enumerators(kernel, "kernel_read_file_id"); err != nil {
		return c, err
	}
	if p.loadTypes, err = enumerators(kernel, "kernel_load_data_id"); err != nil {
		return c, err
	}
	if ftrace.isOff() {
		return c, ftrace.off()
	}
	object, list, err := choose(kernel)
	if err != nil {
		return c, err
	}
	if p.withoutKprobes = kprobes.isOff(); p.withoutKprobes {
		list = withoutKprobes(list)
	}
	p.wanted.ImageLimit = uint64(max(o.ImageLimit, 0))
	return choice{kernel, object, list}, nil
}

// openSet opens the pinned set that owns the calls, or attaches and pins a new one. It
// detaches the other sets.
func (p *Programs) openSet(ctx context.Context, o Options, c choice) error {
	var sets []setName
	if o.PinDir == "" || o.OnlyPinned && !HasPins(o.PinDir) {
		p.unpinned = errNotAsked
	} else {
		p.pins, sets, p.unpinned = listPins(o.PinDir)
	}
	name := setName{layout: layout, digest: digest(c.object, c.list), id: newSetID(sets)}
	shared, err := p.pins.openShared(sets)
	if err != nil {
		return err
	}
	defer closeMaps(shared)
	owner, err := ownerOf(sets, shared)
	if err != nil {
		return err
	}
	p.found = slices.ContainsFunc(sets, p.pins.hasLinks) && !p.withoutKprobes // most of them do not run then
	if owner >= 0 {
		// An upgrade was broken off.
		if err := p.pins.detach(ctx, slices.Concat(sets[:owner], sets[owner+1:])); err != nil {
			return err
		}
		if !o.Anew && sets[owner].digest == name.digest && sets[owner].layout == name.layout {
			if p.set, err = adopt(p.pins, sets[owner], c.list); err == nil {
				sets = slices.Delete(sets, owner, owner+1)
			}
			p.adopted = err == nil
			p.found = err == nil && p.isSteered(len(sets) == 0)
		}
	}
	if p.set == nil {
		p.set = &set{name: name}
		if len(sets) > 0 {
			c.list = upgradeOrder(c.list)
		}
		if err := p.attachAll(ctx, c, shared, len(sets) == 0); err != nil {
			return err
		}
		if p.pins != nil {
			p.unpinned = p.pin(p.pins)
		}
	}
	p.wanted.Epoch, p.wanted.Set = p.settings.Epoch, p.name.id // it continues with that of an earlier process
	if err := p.own(ctx, sets); err != nil {
		return err
	}
	return p.openOlder(sets)
}

// isSteered reports whether the maps of the adopted set let it send records. Root can change
// them while no process checks them. A broken-off upgrade leaves other sets.
func (p *Programs) isSteered(isAlone bool) bool {
	return p.settings.Set == p.name.id && (!isAlone || p.owners.oldest.Load() == p.name.id)
}

// errNotAsked is the reason if the options asked for no pinning.
var errNotAsked = errors.New("pinning was not asked for")

// Unpinned returns the reason why the programs are not pinned, or nil.
func (p *Programs) Unpinned() error { return p.unpinned }

// Close detaches everything that is not pinned. It interrupts Read and ReadImage.
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

// WereThere reports whether Open found pinned programs that were attached.
func (p *Programs) WereThere() bool { return p.found }

// AreNew reports whether this process attached the programs.
func (p *Programs) AreNew() bool { return !p.adopted }

// IsPinned reports whether the programs stay attached when this process ends.
func (p *Programs) IsPinned() bool {
	_, err := os.Lstat(p.path) // fails if the path is empty
	return err == nil
}
