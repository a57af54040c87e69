//go:build linux

package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// A tally counts events, each as "name event error".
type tally map[string]int

func (t tally) count(name, event string, err error) {
	key := name + " " + event
	var errno unix.Errno
	if errors.As(err, &errno) {
		key += " " + unix.ErrnoName(errno)
	}
	t[key]++
}

func (t tally) add(other tally) {
	for key, n := range other {
		t[key] += n
	}
}

// stormModules are the modules that a storm loads.
var stormModules = []string{"tcp_nv", "tcp_illinois", "dummy", "kmodquery_nested"}

// byEvent returns the tally of any module's events, including events without a known
// name.
func (t tally) byEvent() tally {
	all := tally{}
	for key, n := range t {
		if name, event, _ := strings.Cut(key, " "); slices.Contains(stormModules, name) {
			key = event
		}
		all[key] += n
	}
	return all
}

// named returns the events that have a name even if the module's image is lost.
func (t tally) named() tally {
	named := tally{}
	for key, n := range t {
		for _, event := range []string{" module_load", " module_free", " delete_module"} {
			if strings.HasSuffix(key, event) {
				named[key] = n
			}
		}
	}
	return named
}

// differences returns the keys with different counts in two tallies.
func (t tally) differences(got tally) []string {
	var all []string
	union := tally{}
	union.add(t)
	union.add(got)
	for key := range union {
		if t[key] != got[key] {
			all = append(all, fmt.Sprintf("%s: %d happened, %d are stored", key, t[key], got[key]))
		}
	}
	slices.Sort(all)
	return all
}

// A storm is a process that loads and unloads modules continuously, and counts the
// events.
type storm struct {
	cmd    *exec.Cmd
	stop   io.Closer
	output strings.Builder
}

// startStorm starts one whose two threads pause after each of their cycles, which
// bounds the data in the kernel's rings while no recorder runs.
func startStorm(t *testing.T, pause time.Duration) *storm {
	t.Helper()
	s := &storm{cmd: cast(t, "storm", pause.String(), strconv.FormatUint(kallsym(t, "sys_init_module"), 10))}
	// The signals by which Go's runtime preempts a thread interrupt system calls.
	s.cmd.Env = append(s.cmd.Env, "GODEBUG=asyncpreemptoff=1")
	stdin, err := s.cmd.StdinPipe()
	require.NoError(t, err)
	s.stop, s.cmd.Stdout = stdin, &s.output
	require.NoError(t, s.cmd.Start())
	return s
}

// end ends the storm and returns its tally.
func (s *storm) end(t *testing.T) tally {
	t.Helper()
	require.NoError(t, s.stop.Close())
	require.NoError(t, s.cmd.Wait())
	done := tally{}
	require.NoError(t, json.Unmarshal([]byte(s.output.String()), &done))
	require.NotEmpty(t, done)
	return done
}

// stormRole runs a storm until its input ends, and prints its tally.
func stormRole() error {
	pause, err := time.ParseDuration(os.Args[1])
	if err != nil {
		return err
	}
	initModule, err := strconv.ParseUint(os.Args[2], 10, 64)
	if err != nil {
		return err
	}
	threads, err := stormThreads(initModule)
	if err != nil {
		return err
	}
	var ended atomic.Bool
	var working sync.WaitGroup
	tallies, errs := make([]tally, len(threads)), make([]error, len(threads))
	for i, cycle := range threads {
		tallies[i] = tally{}
		working.Go(func() {
			runtime.LockOSThread()
			for round := 0; !ended.Load() && errs[i] == nil; round++ {
				errs[i] = cycle(round, tallies[i])
				time.Sleep(pause)
			}
		})
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	ended.Store(true)
	working.Wait()
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	sum := tally{}
	for _, one := range tallies {
		sum.add(one)
	}
	return json.NewEncoder(os.Stdout).Encode(sum)
}

// stormThreads returns the function that each thread of a storm repeats.
func stormThreads(initModule uint64) ([]func(round int, done tally) error, error) {
	byFile, err := newFileCycle("tcp_nv")
	if err != nil {
		return nil, err
	}
	fromMemory, err := newMemoryCycle("tcp_illinois", initModule)
	if err != nil {
		return nil, err
	}
	return []func(int, tally) error{byFile.run, fromMemory.run}, nil
}

// A fileCycle loads a module by file, every second time by a file without a name.
type fileCycle struct {
	name  string
	files []*os.File
}

func newFileCycle(name string) (*fileCycle, error) {
	image, err := guest.ModuleImage(name)
	if err != nil {
		return nil, err
	}
	path := "/run/storm-" + name + ".ko"
	if err := os.WriteFile(path, image, 0o600); err != nil {
		return nil, err
	}
	named, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("storm", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	writer := os.NewFile(uintptr(fd), "storm")
	defer writer.Close()
	if _, err := writer.Write(image); err != nil {
		return nil, err
	}
	// finit_module refuses a file that is open for writing.
	nameless, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, err
	}
	return &fileCycle{name: name, files: []*os.File{named, nameless}}, nil
}

func (c *fileCycle) run(round int, done tally) error {
	fd := int(c.files[round%len(c.files)].Fd())
	load := func(want error) error {
		err := unix.FinitModule(fd, "", 0)
		done.count(c.name, "security_kernel_read_file", nil)
		done.count(c.name, "finit_module", err)
		if !errors.Is(err, want) {
			return fmt.Errorf("finit_module %s: %w", c.name, cmp.Or(err, errAllowed))
		}
		return nil
	}
	if err := load(nil); err != nil {
		return err
	}
	done.count(c.name, "module_load", nil)
	if err := load(unix.EEXIST); err != nil {
		return err
	}
	if err := countUnload(c.name, done); err != nil {
		return err
	}
	err := unix.DeleteModule(c.name, unix.O_NONBLOCK)
	done.count(c.name, "delete_module", err)
	if !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete_module %s again: %w", c.name, cmp.Or(err, errAllowed))
	}
	return nil
}

// A memoryCycle loads a module from memory, sometimes a damaged one, and every fourth
// time one whose init loads dummy and fails.
type memoryCycle struct {
	name                  string
	image, damaged, outer []byte
	inner, params         []byte // the kernel gets their addresses
}

func newMemoryCycle(name string, initModule uint64) (*memoryCycle, error) {
	image, err := guest.ModuleImage(name)
	if err != nil {
		return nil, err
	}
	unsigned, err := kmod.Strip(image)
	if err != nil {
		return nil, err
	}
	damaged, err := spoil(unsigned)
	if err != nil {
		return nil, err
	}
	inner, err := guest.ModuleImage("dummy")
	if err != nil {
		return nil, err
	}
	c := &memoryCycle{name: name, image: image, damaged: damaged, inner: inner, params: []byte("numdummies=1\x00")}
	c.outer, err = kmod.Build(kmod.Nested, map[string]uint64{
		"sys_init_module": initModule,
		"image":           uint64(uintptr(unsafe.Pointer(&c.inner[0]))),
		"len":             uint64(len(c.inner)),
		"params":          uint64(uintptr(unsafe.Pointer(&c.params[0]))),
	})
	return c, err
}

func (c *memoryCycle) run(round int, done tally) error {
	load := func(name string, image []byte, want error) error {
		err := unix.InitModule(image, "")
		done.count(name, "security_kernel_load_data", nil)
		done.count(name, "init_module", err)
		if !errors.Is(err, want) {
			return fmt.Errorf("init_module %s: %w", name, cmp.Or(err, errAllowed))
		}
		return nil
	}
	if err := load(c.name, c.image, nil); err != nil {
		return err
	}
	done.count(c.name, "module_load", nil)
	if err := load(c.name, c.image, unix.EEXIST); err != nil {
		return err
	}
	if round%16 == 0 { // the kernel logs each
		if err := load(c.name, c.damaged, unix.ENOEXEC); err != nil {
			return err
		}
	}
	if err := countUnload(c.name, done); err != nil {
		return err
	}
	if round%4 != 0 {
		return nil
	}
	const outer, inner = "kmodquery_nested", "dummy"
	if err := load(outer, c.outer, unix.ENODEV); err != nil {
		return err
	}
	done.add(tally{
		outer + " module_load": 1, outer + " module_free": 1,
		inner + " security_kernel_load_data": 1, inner + " init_module": 1, inner + " module_load": 1,
	})
	return countUnload(inner, done)
}

// countUnload unloads a loaded module. It retries if a signal or a reader of the
// kernel's list interfered.
func countUnload(name string, done tally) error {
	for {
		err := unix.DeleteModule(name, unix.O_NONBLOCK)
		done.count(name, "delete_module", err)
		switch {
		case err == nil:
			done.count(name, "module_free", nil)
			return nil
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		default:
			return fmt.Errorf("delete_module %s: %w", name, err)
		}
	}
}
