//go:build linux

package bpf

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSetNames(t *testing.T) {
	name := setName{layout: 1, digest: "00ff00ff", id: 0x18a}
	again, ok := parseSetName(name.String())
	require.True(t, ok)
	require.Equal(t, name, again)
	for _, text := range []string{"", "new_" + name.String(), "v1_00ff00ff", "v1_00ff00ff_18a", "1_00ff00ff_000000000000018a", "v1_a_b_c"} {
		_, ok := parseSetName(text)
		require.False(t, ok, text)
	}
}

// onBPFFS is a new folder of a BPF file system.
func onBPFFS(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount a BPF file system")
	}
	dir := t.TempDir()
	require.NoError(t, unix.Mount("bpf", dir, "bpf", 0, "mode=0700"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	return filepath.Join(dir, "kmodquery")
}

func TestPinsBelongToOneProcess(t *testing.T) {
	path := onBPFFS(t)
	p, err := openPins(path)
	require.NoError(t, err)
	_, err = openPins(path)
	require.ErrorIs(t, err, ErrPinsBusy)
	_, err = Detach(path)
	require.ErrorIs(t, err, ErrPinsBusy)
	require.NoError(t, p.Close())

	require.NoError(t, os.Mkdir(filepath.Join(path, unfinished+"x"), 0o700))
	require.False(t, HasPins(path))
	name := setName{layout: 1, digest: "00ff00ff", id: 1}
	require.NoError(t, os.Mkdir(filepath.Join(path, name.String()), 0o700))
	require.True(t, HasPins(path))
	p, err = openPins(path)
	require.NoError(t, err)
	sets, err := p.sets()
	require.NoError(t, err)
	require.Equal(t, []setName{name}, sets)
	require.NoDirExists(t, filepath.Join(path, unfinished+"x"))
	require.NoError(t, p.Close())

	require.NoError(t, os.Chmod(path, 0o777))
	_, err = openPins(path)
	require.ErrorContains(t, err, "others could change it")
	require.NoError(t, os.Chmod(path, 0o700))
	require.NoError(t, os.Lchown(path, 1000, 0))
	_, err = openPins(path)
	require.ErrorContains(t, err, "belongs to user 1000")
	require.NoError(t, os.Lchown(path, 0, 0))

	removed, err := Detach(path)
	require.NoError(t, err)
	require.Equal(t, 1, removed)
	require.NoDirExists(t, path)
	removed, err = Detach(path)
	require.NoError(t, err)
	require.Zero(t, removed)

	require.NoError(t, os.Symlink("/tmp", path))
	_, err = openPins(path)
	require.Error(t, err, "a link leads elsewhere")
	require.NoError(t, os.Remove(path))
	_, err = openPins(filepath.Join(t.TempDir(), "kmodquery"))
	require.ErrorContains(t, err, "is no BPF file system; choose a folder in /sys/fs/bpf, or mount one: mount -t bpf bpf ")
}

// Sets are read in the order in which they were made, whatever the clock says.
func TestANewSetIsTheYoungest(t *testing.T) {
	first := newSetID(nil)
	require.InDelta(t, time.Now().UnixNano(), first, float64(time.Minute))
	later := uint64(time.Now().Add(time.Hour).UnixNano())
	require.Equal(t, later+1, newSetID([]setName{{id: later}, {id: 5}}))
	require.GreaterOrEqual(t, newSetID([]setName{{id: 5}}), first)
}

// A process that waits for the folder while another one detaches it gets a new
// folder.
func TestPinsThatAreDetachedMeanwhile(t *testing.T) {
	path := onBPFFS(t)
	p, err := openPins(path)
	require.NoError(t, err)
	type result struct {
		*pins
		err error
	}
	opened := make(chan result, 1)
	go func() {
		p, err := openPins(path)
		opened <- result{p, err}
	}()
	require.Eventually(t, func() bool { return opens(t, path) == 2 }, lockPatience, time.Millisecond)
	require.NoError(t, os.RemoveAll(path))
	require.NoError(t, p.Close())
	r := <-opened
	require.NoError(t, r.err)
	_, err = r.sets()
	require.NoError(t, err)
	require.NoError(t, r.Close())
}

// opens is how often this process has a folder open.
func opens(t *testing.T, path string) (n int) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, file := range files {
		if target, err := os.Readlink("/proc/self/fd/" + file.Name()); err == nil && target == path {
			n++
		}
	}
	return n
}

// What could not be listed is let go of, for the next one that opens it.
func TestPinsThatCannotBeListed(t *testing.T) {
	path := onBPFFS(t)
	stuck := filepath.Join(path, unfinished+"x")
	require.NoError(t, os.MkdirAll(stuck, 0o700))
	require.NoError(t, unix.Mount("bpf", stuck, "bpf", 0, "mode=0700"))
	p, sets, err := listPins(path)
	require.ErrorContains(t, err, "remove unfinished pins: ")
	require.Nil(t, p)
	require.Nil(t, sets)
	require.NoError(t, unix.Unmount(stuck, 0))

	p, sets, err = listPins(path)
	require.NoError(t, err)
	require.Empty(t, sets)
	require.NoError(t, p.Close())
}

// A Detach that fails halfway leaves no set that looks complete.
func TestSetsThatAreHalfDetached(t *testing.T) {
	path := onBPFFS(t)
	p, _, err := listPins(path)
	require.NoError(t, err)
	name := setName{layout: layout, digest: "00ff00ff", id: 1}
	stuck := p.of(name, pinnedLinks, "stuck")
	require.NoError(t, os.MkdirAll(stuck, 0o700))
	require.NoError(t, unix.Mount("bpf", stuck, "bpf", 0, "mode=0700"))
	require.NoError(t, p.Close())
	_, err = Detach(path)
	require.ErrorContains(t, err, "remove pinned programs: ")
	require.False(t, HasPins(path))
	mounted, err := filepath.Glob(filepath.Join(path, "*", pinnedLinks, "stuck"))
	require.NoError(t, err)
	require.Len(t, mounted, 1)
	require.NoError(t, unix.Unmount(mounted[0], 0))
	removed, err := Detach(path)
	require.NoError(t, err)
	require.Zero(t, removed)
	require.NoDirExists(t, path)
}

// A set that lacks a part is not adopted, and what is left of it is said to be
// none.
func TestSetsThatAreNotWhole(t *testing.T) {
	path := onBPFFS(t)
	p, _, err := listPins(path)
	require.NoError(t, err)
	defer p.Close()
	name := setName{layout: layout, digest: "00ff00ff", id: 1}
	_, err = adopt(p, name, nil)
	require.ErrorContains(t, err, "open pinned maps: ")

	require.NoError(t, os.MkdirAll(p.of(name, pinnedMaps), 0o700))
	require.NoError(t, rlimit.RemoveMemlock())
	records, err := ebpf.NewMap(&ebpf.MapSpec{Name: moduleMapRecords, Type: ebpf.RingBuf, MaxEntries: ringSize})
	require.NoError(t, err)
	defer records.Close()
	require.NoError(t, records.Pin(p.of(name, pinnedMaps, moduleMapRecords)))
	s, err := adopt(p, name, nil)
	require.EqualError(t, err, "open BPF maps: there is none called counters")
	require.Nil(t, s, "Open attaches another one")
	_, err = adopt(p, name, []hook{{name: "module_load"}})
	require.EqualError(t, err, "open pinned programs: there is none for module_load")

	// A hook that a kernel may lack, and which this one has.
	whole, partial := newCounting(t, 2), newCounting(t, 3)
	partial.partial = true
	list := []hook{{name: "mod_verify_sig", optional: true}}
	for _, s := range []*Programs{whole, partial} {
		require.NoError(t, s.pin(p))
		adopted, err := adopt(p, s.name, list)
		if s.partial {
			require.EqualError(t, err, "open pinned programs: not all hooks could be attached then")
			continue
		}
		require.NoError(t, err)
		require.NoError(t, adopted.Close())
	}

	_, err = openOlder(p, name)
	require.EqualError(t, err, "read what waits in "+name.String()+": open BPF maps: there is none called images")
	require.NoError(t, os.Mkdir(p.of(name, pinnedMaps, "x"), 0o700))
	_, err = openOlder(p, name)
	require.ErrorContains(t, err, "open pinned map x: ")
	for _, unknown := range []int{oldestLayout - 1, layout + 1} {
		other := setName{layout: unknown, digest: "00ff00ff", id: 2}
		_, err = openOlder(p, other)
		require.EqualError(t, err, other.String()+" is of a version that this program cannot read: what waits there is lost")
	}
}

// What waits in an older set stays until it can be read.
func TestAnOlderSetStaysWhileNoFileCanBeOpened(t *testing.T) {
	pins, _, err := listPins(onBPFFS(t))
	require.NoError(t, err)
	defer pins.Close()
	name := setName{layout: layout, digest: "00ff00ff", id: 1}
	require.NoError(t, os.MkdirAll(pins.of(name, pinnedMaps), 0o700))
	p := &Programs{set: &set{}, pins: pins}

	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: limit.Max}))
	err = p.openOlder([]setName{name})
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	require.ErrorIs(t, err, unix.EMFILE)
	require.DirExists(t, pins.of(name))

	require.NoError(t, p.openOlder([]setName{name}))
	require.NoDirExists(t, pins.of(name), "nothing can be had of it")
}
