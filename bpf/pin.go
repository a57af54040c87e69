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

	"golang.org/x/sys/unix"
)

const (
	// BPFFS is where Linux has its BPF file system.
	BPFFS = "/sys/fs/bpf"

	// layout is the version of what the records and maps of a set hold. It changes
	// with record.h where an older reader would misread them. Sets from oldestLayout
	// on can be read.
	layout       = 2
	oldestLayout = 1
	// deniedLayout is the first whose denied calls can be counted (denied_calls).
	deniedLayout = 2
	// unfinished begins the name of a set that is not complete.
	unfinished = "new_"
	// settled begins that of a folder that layout 1 had; it is of no use now.
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

// sets are those that are complete, the oldest first. It removes the others, which
// a process that has ended was making or removing.
func (p *pins) sets() ([]setName, error) {
	entries, err := os.ReadDir(p.path)
	if err != nil {
		return nil, fmt.Errorf("list the pinned programs: %w", err)
	}
	var sets []setName
	for _, entry := range entries {
		if name, ok := parseSetName(entry.Name()); ok {
			sets = append(sets, name)
		} else if strings.HasPrefix(entry.Name(), unfinished) || strings.HasPrefix(entry.Name(), settled) {
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
		if err := p.remove(name); err != nil {
			return 0, err
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
