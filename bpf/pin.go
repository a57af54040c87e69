//go:build linux

package bpf

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// bpffs is the mount point of the BPF file system.
	bpffs = "/sys/fs/bpf"

	// layout is the version of what the records and maps of a set hold. It changes
	// with record.h where an older reader would misread them. Sets from oldestLayout
	// on can be read.
	layout       = 3
	oldestLayout = 1
	// deniedLayout is the first whose denied calls can be counted (denied_calls).
	deniedLayout = 2
	// ownedLayout is the first with the shared maps of upgrade.go.
	ownedLayout = 2
	// numberedLayout is the first whose records are numbered.
	numberedLayout = 3
	// unfinished is the prefix of a set that is being made or removed.
	unfinished = "new_"
	// retiring is the prefix of folders that layout 1 had.
	retiring = "settled_"

	// lockPatience is how long to wait for the kernel to close the files of a
	// process that has ended.
	lockPatience = 5 * time.Second
	lockPoll     = 20 * time.Millisecond

	// The folders of a set.
	pinnedMaps     = "maps"
	pinnedPrograms = "programs"
	pinnedLinks    = "links"
	pinnedProbes   = "probes" // kprobes on kernels that have no kprobe links, before 5.15
	// pinnedPartial is an empty folder, which marks a partial set.
	pinnedPartial = "partial"
)

// build distinguishes builds with the same programs. The linker sets it
// (-X github.com/kmodquery/kmodquery/bpf.build=other).
var build string

// ErrPinsBusy is matched by the errors of Detach and Unpinned while another process
// uses the pinned programs.
var ErrPinsBusy = errors.New("another process uses the pinned programs")

var errNotPinnable = errors.New("this kernel cannot pin all of the programs")

// pins is a folder of a BPF file system. Its sets of programs stay attached, and
// their maps stay filled, while no process has them open. A lock gives it to one
// process at a time.
type pins struct {
	path string
	lock *os.File // of the folder
}

// A setName is the name of a set's folder.
type setName struct {
	layout int
	digest string // of its programs and where they are attached
	id     uint64 // unique on this host
}

func (n setName) String() string { return fmt.Sprintf("v%d_%s_%016x", n.layout, n.digest, n.id) }

func parseSetName(text string) (n setName, ok bool) {
	_, err := fmt.Sscanf(strings.ReplaceAll(text, "_", " "), "v%d %s %x", &n.layout, &n.digest, &n.id)
	return n, err == nil && n.String() == text
}

// digest identifies the programs of an object and the hooks to which they attach.
func digest(object []byte, list []hook) string {
	sum := sha256.New()
	sum.Write(object)
	fmt.Fprint(sum, list, build)
	return hex.EncodeToString(sum.Sum(nil)[:4])
}

// openPins creates the folder, mounts the BPF file system if it is not mounted, and
// takes the folder's lock.
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
		// Detach has removed it meanwhile.
		if err := p.Close(); err != nil {
			return nil, fmt.Errorf("open the folder of pinned programs: %w", err)
		}
	}
}

// lockPins creates the folder and takes its lock.
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

// isThere reports whether the locked folder is still the one at the path.
func (p *pins) isThere() bool {
	own, err := p.lock.Stat()
	now, other := os.Lstat(p.path)
	return err == nil && other == nil && os.SameFile(own, now)
}

// secure takes the folder's lock. It refuses a folder in which another user can
// write.
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

// ensureBPFFS returns nil if the parent of the folder is in a BPF file system, which
// it mounts if necessary.
func ensureBPFFS(path string) error {
	parent := filepath.Dir(path)
	var stat unix.Statfs_t
	if err := unix.Statfs(parent, &stat); err != nil {
		return fmt.Errorf("find a BPF file system at %s: %w; choose a folder in %s", parent, err, bpffs)
	}
	if stat.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if parent != bpffs {
		return fmt.Errorf("%s is no BPF file system; choose a folder in %s, or mount one: mount -t bpf bpf %[1]s", parent, bpffs)
	}
	if err := unix.Mount("bpf", bpffs, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a BPF file system at %s: %w", bpffs, err)
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

// sets returns the complete sets, the oldest first. It removes the others, which a
// process that has ended was making or removing.
func (p *pins) sets() ([]setName, error) {
	entries, err := os.ReadDir(p.path)
	if err != nil {
		return nil, fmt.Errorf("list the pinned programs: %w", err)
	}
	var sets []setName
	for _, entry := range entries {
		if name, ok := parseSetName(entry.Name()); ok {
			sets = append(sets, name)
		} else if strings.HasPrefix(entry.Name(), unfinished) || strings.HasPrefix(entry.Name(), retiring) {
			if err := os.RemoveAll(filepath.Join(p.path, entry.Name())); err != nil {
				return nil, fmt.Errorf("remove unfinished pins: %w", err)
			}
		}
	}
	slices.SortFunc(sets, func(a, b setName) int { return cmp.Compare(a.id, b.id) })
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

// newSetID returns an ID that no set has had, not even before a reboot, because the
// store keeps IDs. It is greater than the IDs of the pinned sets, even if the clock
// was set back.
func newSetID(sets []setName) uint64 {
	id := uint64(time.Now().UnixNano())
	for _, name := range sets {
		id = max(id, name.id+1)
	}
	return id
}

// Detach removes everything that is pinned in a folder, including unread records,
// and returns the number of sets that it removed. Its error matches ErrPinsBusy
// while a process uses the folder.
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

// HasPins reports whether a complete set of programs is pinned in a folder.
func HasPins(path string) bool {
	entries, err := os.ReadDir(path)
	return err == nil && slices.ContainsFunc(entries, func(entry fs.DirEntry) bool {
		_, ok := parseSetName(entry.Name())
		return ok
	})
}
