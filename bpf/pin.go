//go:build linux

package bpf

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const (
	// BPFFS is where Linux has its BPF file system.
	BPFFS = "/sys/fs/bpf"

	// layout is the version of what the records and maps of a set hold, for the
	// one that reads them. It changes with record.h, and with it Open must say how
	// sets of the former layout are read. It stays where these can be read as they
	// are, and builds from before the change do without what they cannot read: an
	// image in a chunk that takes less than CHUNK_LEN, which is then hashed from its
	// file.
	layout = 1
	// unfinished begins the name of a set that is not complete.
	unfinished = "new_"
	// settled begins that of a settlement.
	settled = "settled_"

	// lockPatience is how long a process that has ended may take to let go of the
	// programs: the kernel closes its files one by one.
	lockPatience = 5 * time.Second
	lockPoll     = 20 * time.Millisecond

	// The folders of a set.
	pinnedMaps     = "maps"
	pinnedPrograms = "programs"
	pinnedLinks    = "links"
	pinnedProbes   = "probes" // kprobes of kernels that have no links of them, before 5.15
	// pinnedPartial says that the set is partial; it is empty.
	pinnedPartial = "partial"
)

// build tells apart two builds with the same programs; the linker sets it
// (-X github.com/kmodquery/kmodquery/bpf.build=other).
var build string

// Reasons for which nothing is pinned though the programs run. What Unpinned
// returns matches them with errors.Is.
var (
	ErrPinsBusy    = errors.New("another process uses the pinned programs")
	ErrNotPinnable = errors.New("this kernel cannot pin all of the programs")
)

// Pins are a folder of a BPF file system with sets of programs that stay
// attached, and maps that stay filled, while no process has them open. One
// process at a time has it.
type pins struct {
	path string
	lock *os.File // of the folder
}

// A setName is the name of a set's folder.
type setName struct {
	layout int
	digest string // of its programs and where they are attached
	id     uint64 // no other set has it, on this host
}

func (n setName) String() string { return fmt.Sprintf("v%d_%s_%016x", n.layout, n.digest, n.id) }

func parseSetName(text string) (n setName, ok bool) {
	parts := strings.Split(text, "_")
	if len(parts) != 3 || !strings.HasPrefix(parts[0], "v") {
		return n, false
	}
	var err, other error
	n.layout, err = strconv.Atoi(parts[0][1:])
	n.digest = parts[1]
	n.id, other = strconv.ParseUint(parts[2], 16, 64)
	return n, err == nil && other == nil && n.String() == text
}

// digest names the programs of an object and the places where they are
// attached.
func digest(object []byte, list []hook) string {
	sum := sha256.New()
	sum.Write(object)
	fmt.Fprint(sum, list, build)
	return hex.EncodeToString(sum.Sum(nil)[:4])
}

// openPins makes the folder, and mounts a BPF file system for it where Linux has
// none yet.
func openPins(path string) (*pins, error) {
	if err := ensureBPFFS(path); err != nil {
		return nil, err
	}
	for {
		p, err := lockPins(path)
		if err != nil {
			return nil, err
		}
		if p.isThere() {
			return p, nil
		}
		// Whoever had it has removed it: Detach.
		if err := p.Close(); err != nil {
			return nil, fmt.Errorf("open the folder of pinned programs: %w", err)
		}
	}
}

// lockPins makes the folder and takes its lock.
func lockPins(path string) (*pins, error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the folder of pinned programs: %w", err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the folder of pinned programs %s: %w", path, err)
	}
	p := &pins{path: path, lock: os.NewFile(uintptr(fd), path)}
	if err := p.secure(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// isThere reports whether the folder that is locked is the one at the path.
func (p *pins) isThere() bool {
	own, err := p.lock.Stat()
	now, other := os.Lstat(p.path)
	return err == nil && other == nil && os.SameFile(own, now)
}

// secure takes the folder's lock, and refuses one in which somebody else could
// put what this process would trust.
func (p *pins) secure() error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(p.lock.Fd()), &stat); err != nil {
		return fmt.Errorf("look at %s: %w", p.path, err)
	}
	if int(stat.Uid) != os.Geteuid() || stat.Mode&0o022 != 0 {
		return fmt.Errorf("%s belongs to user %d and has mode %04o, so others could change it; remove it", p.path, stat.Uid, stat.Mode&0o7777)
	}
	err := unix.Flock(int(p.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for deadline := time.Now().Add(lockPatience); errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(deadline); {
		time.Sleep(lockPoll)
		err = unix.Flock(int(p.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w in %s", ErrPinsBusy, p.path)
	} else if err != nil {
		return fmt.Errorf("lock %s: %w", p.path, err)
	}
	return nil
}

// ensureBPFFS sees to it that the folder lies, or can be made, in a BPF file
// system.
func ensureBPFFS(path string) error {
	parent := filepath.Dir(path)
	var stat unix.Statfs_t
	if err := unix.Statfs(parent, &stat); err != nil {
		return fmt.Errorf("find a BPF file system at %s: %w", parent, err)
	}
	if stat.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if parent != BPFFS {
		return fmt.Errorf("%s is no BPF file system; choose a folder in %s", parent, BPFFS)
	}
	if err := unix.Mount("bpf", BPFFS, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a BPF file system at %s: %w", BPFFS, err)
	}
	return nil
}

// listPins opens the folder and lists the sets in it.
func listPins(path string) (*pins, []setName, error) {
	p, err := openPins(path)
	if err != nil {
		return nil, nil, err
	}
	sets, err := p.sets()
	if err != nil {
		return nil, nil, errors.Join(err, p.Close())
	}
	return p, sets, nil
}

// sets are those that are complete, the oldest first. The others are removed:
// whoever was making them is gone. What a settlement says is done.
func (p *pins) sets() ([]setName, error) {
	entries, err := os.ReadDir(p.path)
	if err != nil {
		return nil, fmt.Errorf("list the pinned programs: %w", err)
	}
	var sets []setName
	for _, entry := range entries {
		if s, ok := parseSettlement(entry.Name()); ok {
			if err := p.finish(s); err != nil {
				return nil, err
			}
			return p.sets()
		}
		if name, ok := parseSetName(entry.Name()); ok {
			sets = append(sets, name)
		} else if strings.HasPrefix(entry.Name(), unfinished) {
			if err := os.RemoveAll(filepath.Join(p.path, entry.Name())); err != nil {
				return nil, fmt.Errorf("remove unfinished pins: %w", err)
			}
		}
	}
	slices.SortFunc(sets, func(a, b setName) int { return strings.Compare(fmt.Sprintf("%016x", a.id), fmt.Sprintf("%016x", b.id)) })
	return sets, nil
}

func (p *pins) of(name setName, parts ...string) string {
	return filepath.Join(append([]string{p.path, name.String()}, parts...)...)
}

func (p *pins) Close() error {
	if p == nil {
		return nil
	}
	return p.lock.Close()
}

// newSetID is one that no other set has, also after a reboot, for what a store
// knows of a set outlives it; and greater than those of the sets that are there,
// whatever the clock says.
func newSetID(sets []setName) uint64 {
	id := uint64(time.Now().UnixNano())
	for _, name := range sets {
		id = max(id, name.id+1)
	}
	return id
}

// pin keeps the set when this process has ended. It is complete or not there.
func (s *set) pin(p *pins) (err error) {
	final := p.of(s.name)
	folder := filepath.Join(p.path, unfinished+s.name.String())
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(folder))
		}
	}()
	parts := []string{"", pinnedMaps, pinnedPrograms, pinnedLinks, pinnedProbes}
	if s.partial {
		parts = append(parts, pinnedPartial)
	}
	for _, part := range parts {
		if err := os.Mkdir(filepath.Join(folder, part), 0o700); err != nil {
			return fmt.Errorf("pin programs: %w", err)
		}
	}
	for name, m := range s.maps {
		if err := m.Pin(filepath.Join(folder, pinnedMaps, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	for _, a := range s.attached {
		if err := a.loaded.Pin(filepath.Join(folder, pinnedPrograms, a.program)); err != nil {
			return fmt.Errorf("pin program %s: %w", a.program, err)
		}
		err := a.link.Pin(filepath.Join(folder, pinnedLinks, a.program))
		if errors.Is(err, link.ErrNotSupported) {
			err = a.keepProbe(filepath.Join(folder, pinnedProbes, a.program))
		}
		if err != nil {
			return fmt.Errorf("pin link of %s: %w", a.program, err)
		}
	}
	if err := os.Rename(folder, final); err != nil {
		return fmt.Errorf("pin programs: %w", err)
	}
	s.path = final
	return nil
}

// keepProbe keeps a kprobe that has no link, on kernels before 5.15: it is a perf
// event, and an array of perf events holds on to its elements if it is asked to
// (5.10, BPF_F_PRESERVE_ELEMS).
func (a *attached) keepProbe(path string) error {
	perf, ok := a.link.(link.PerfEvent)
	if !ok {
		return ErrNotPinnable
	}
	event, err := perf.PerfEvent()
	if err != nil {
		return fmt.Errorf("open a perf event: %w", err)
	}
	defer event.Close()
	probe, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "probe", Type: ebpf.PerfEventArray, KeySize: 4, ValueSize: 4, MaxEntries: 1, Flags: unix.BPF_F_PRESERVE_ELEMS,
	})
	if err != nil {
		return fmt.Errorf("%w: keep kprobe: %w", ErrNotPinnable, err)
	}
	defer probe.Close()
	if err := probe.Put(uint32(0), uint32(event.Fd())); err != nil {
		return fmt.Errorf("%w: keep kprobe: %w", ErrNotPinnable, err)
	}
	return probe.Pin(path)
}

// adopt opens a pinned set that has a program at each of the hooks, as far as the
// kernel has them. An error says what it lacks.
func adopt(p *pins, name setName, list []hook) (_ *set, err error) {
	s := &set{name: name, path: p.of(name)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if _, err := os.Lstat(p.of(name, pinnedPartial)); err == nil {
		return nil, errors.New("open pinned programs: not all hooks could be attached then")
	}
	if err := s.loadPinnedMaps(); err != nil {
		return nil, err
	}
	for _, h := range list {
		found := false
		for _, c := range h.programs {
			a, err := s.loadPinned(c)
			if errors.Is(err, os.ErrNotExist) {
				continue
			} else if err != nil {
				return nil, err
			}
			s.attached = append(s.attached, a)
			found = true
			break
		}
		if !found && !h.optional {
			return nil, fmt.Errorf("open pinned programs: there is none for %s", h.name)
		}
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *set) loadPinnedMaps() error {
	entries, err := os.ReadDir(filepath.Join(s.path, pinnedMaps))
	if err != nil {
		return fmt.Errorf("open pinned maps: %w", err)
	}
	s.maps = map[string]*ebpf.Map{}
	for _, entry := range entries {
		m, err := ebpf.LoadPinnedMap(filepath.Join(s.path, pinnedMaps, entry.Name()), nil)
		if err != nil {
			return fmt.Errorf("open pinned map %s: %w", entry.Name(), err)
		}
		s.maps[entry.Name()] = m
	}
	return nil
}

func (s *set) loadPinned(c candidate) (a attached, err error) {
	a.candidate = c
	if a.loaded, err = ebpf.LoadPinnedProgram(filepath.Join(s.path, pinnedPrograms, c.program), nil); err != nil {
		return a, fmt.Errorf("open pinned program %s: %w", c.program, err)
	}
	a.link, err = link.LoadPinnedLink(filepath.Join(s.path, pinnedLinks, c.program), nil)
	switch {
	case errors.Is(err, os.ErrNotExist) && s.hasProbe(c.program):
		return a, nil
	case err != nil:
		return a, errors.Join(fmt.Errorf("open pinned link of %s: %w", c.program, err), a.loaded.Close())
	}
	if a.id, err = identify(a.link); err != nil {
		return a, errors.Join(err, a.link.Close(), a.loaded.Close())
	}
	return a, nil
}

func (s *set) hasProbe(program string) bool {
	_, err := os.Lstat(filepath.Join(s.path, pinnedProbes, program))
	return err == nil
}

// An olderSet is one that another build, or an earlier attachment, has left
// behind: nothing fills it any more, and what waits in it is still to be read.
type olderSet struct {
	name    setName
	path    string
	maps    map[string]*ebpf.Map
	records *ring
	images  *ring
}

// retire detaches a pinned set and opens what is left of it.
func retire(p *pins, name setName) (_ *olderSet, err error) {
	o := &olderSet{name: name, path: p.of(name)}
	s := set{path: o.path}
	for _, part := range []string{pinnedLinks, pinnedProbes, pinnedPrograms} {
		if err := os.RemoveAll(filepath.Join(o.path, part)); err != nil {
			return nil, fmt.Errorf("detach pinned programs: %w", err)
		}
	}
	if name.layout != layout {
		return nil, fmt.Errorf("%s is of a version that this program cannot read: what waits there is lost", name)
	}
	err = s.loadPinnedMaps()
	if o.maps = s.maps; err != nil {
		return nil, errors.Join(err, o.Close())
	}
	for _, r := range []struct {
		name string
		ring **ring
	}{{moduleMapRecords, &o.records}, {moduleMapImages, &o.images}} {
		if o.maps[r.name] == nil {
			return nil, errors.Join(fmt.Errorf("read what waits in %s: it has no map called %s", name, r.name), o.Close())
		}
		if *r.ring, err = openRing(o.maps[r.name]); err != nil {
			return nil, errors.Join(err, o.Close())
		}
	}
	return o, nil
}

func (o *olderSet) Close() error {
	var errs []error
	for _, ring := range []*ring{o.records, o.images} {
		if ring != nil {
			errs = append(errs, ring.Close())
		}
	}
	for _, m := range o.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Detach removes all that is pinned in a folder, and with it what no process
// has read yet. It returns how many sets there were. While a process records, it
// fails with an error that matches ErrPinsBusy.
func Detach(path string) (removed int, err error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	p, sets, err := listPins(path)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	for _, name := range sets {
		// First, so that none that is half removed is taken for a whole one.
		if err := os.Rename(p.of(name), filepath.Join(path, unfinished+name.String())); err != nil {
			return 0, fmt.Errorf("detach pinned programs: %w", err)
		}
	}
	if err := os.RemoveAll(path); err != nil {
		return 0, fmt.Errorf("detach pinned programs: %w", err)
	}
	return len(sets), nil
}

// HasPins reports whether a whole set of programs is pinned in a folder.
func HasPins(path string) bool {
	entries, err := os.ReadDir(path)
	return err == nil && slices.ContainsFunc(entries, func(entry fs.DirEntry) bool {
		_, ok := parseSetName(entry.Name())
		return ok
	})
}
