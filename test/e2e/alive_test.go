//go:build linux

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/bpf"
	"github.com/kmodquery/kmodquery/collectors"
	"github.com/kmodquery/kmodquery/linux/ebpf"
	"github.com/kmodquery/kmodquery/test/kmod"
	"github.com/kmodquery/kmodquery/test/vm/guest"
)

// A watcher is a recorder in this process. It keeps the events and the errors that it
// reported.
type watcher struct {
	*collectors.Recorder
	source *ebpf.Source

	mu     sync.Mutex
	events []kmodquery.Event
	errs   []string
}

func (w *watcher) Append(_ context.Context, deliveries []kmodquery.Delivery) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range deliveries {
		w.events = append(w.events, deliveries[i].Event)
	}
	return nil
}

func (w *watcher) report(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err.Error())
}

// lastReport returns the latest error that it reported.
func (w *watcher) lastReport() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errs) == 0 {
		return ""
	}
	return w.errs[len(w.errs)-1]
}

func (w *watcher) isActive() bool { return w.source.Sensor().State == kmodquery.StateActive }

// observe loads and unloads a module and returns its recorded events, in the order in
// which they happened.
func (w *watcher) observe(t *testing.T, module string) []string {
	t.Helper()
	require.NoError(t, w.Sync(t.Context()))
	w.mu.Lock()
	before := len(w.events)
	w.mu.Unlock()
	require.NoError(t, guest.LoadImage(image(t, module), ""))
	require.NoError(t, guest.Unload(module))
	require.NoError(t, w.Sync(t.Context()))
	w.mu.Lock()
	defer w.mu.Unlock()
	events := slices.Clone(w.events[before:])
	// The events of a load wait for its image.
	slices.SortStableFunc(events, func(a, b kmodquery.Event) int { return cmp.Compare(a.TimeNanos, b.TimeNanos) })
	var seen []string
	for _, e := range events {
		if e.Name == module {
			seen = append(seen, e.EventName)
		}
	}
	return seen
}

// loadAndUnload are the events of a load and an unload.
var loadAndUnload = append(slices.Clone(byMemory), "module_free", "delete_module")

func watch(t *testing.T) *watcher {
	t.Helper()
	return watchWith(t, ebpf.Options{ImageLimit: ebpf.MaxImage, HasCanary: true})
}

func watchWith(t *testing.T, o ebpf.Options) *watcher {
	t.Helper()
	w := &watcher{source: ebpf.New(o)}
	w.Recorder = collectors.NewRecorder(w, w.report, collectors.Options{Sources: []collectors.Source{w.source}, SideBySide: true})
	w.Start(t.Context())
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	require.Eventually(t, w.isActive, time.Minute, 50*time.Millisecond, "the source is not active in time")
	require.Equal(t, loadAndUnload, w.observe(t, "dummy"))
	return w
}

// tampered returns the reasons of the events sensor_tampered.
func (w *watcher) tampered() (reasons []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.EventName == kmodquery.EventSensorTampered && e.Source == kmodquery.SourceEBPF {
			reasons = append(reasons, e.Reason)
		}
	}
	return reasons
}

// recovers requires the source to fail for a reason and then to become active again.
func (w *watcher) recovers(t *testing.T, reason string) {
	t.Helper()
	require.Eventually(t, func() bool {
		// A query makes the source check its hooks at once. By itself it checks them
		// later.
		return w.Sync(t.Context()) == nil && strings.Contains(w.lastReport(), reason)
	}, 2*time.Minute, 50*time.Millisecond, "%s", w.lastReport())
	require.Eventually(t, w.isActive, 2*time.Minute, 50*time.Millisecond, "the source is not active in time")
	require.Equal(t, loadAndUnload, w.observe(t, "dummy"))
}

// TestGuestAttachesAgainWhenLinksAreClosed closes the links of a recorder without its
// knowledge.
func TestGuestAttachesAgainWhenLinksAreClosed(t *testing.T) {
	guest.Only(t)
	w := watch(t)

	// Another file may get the number of a closed link.
	replaced := replaceLinks(t)
	require.NotEmpty(t, replaced)
	require.NoError(t, guest.LoadImage(image(t, "dummy"), ""))
	require.NoError(t, guest.Unload("dummy"))
	w.recovers(t, "ebpf: attached programs are gone: ")
	require.Len(t, w.tampered(), 1)
	require.Contains(t, w.tampered()[0], "attached programs are gone: ")
	for _, file := range replaced {
		_, err := file.Stat()
		require.NoError(t, err, "the recorder closed a file of another owner")
		require.NoError(t, file.Close())
	}

	// The events before the replacement are delivered.
	w.mu.Lock()
	before := len(w.events)
	w.mu.Unlock()
	require.NoError(t, guest.LoadImage(image(t, "dummy"), ""))
	require.NoError(t, guest.Unload("dummy"))
	w.source.MarkUnreliable("the load of module nosuch was not observed")
	w.recovers(t, "ebpf: the load of module nosuch was not observed")
	require.Len(t, w.tampered(), 1, "the event of the module says so")
	w.mu.Lock()
	defer w.mu.Unlock()
	// Events of a load wait for its image, so later ones may come first.
	first := slices.MinFunc(w.events[before:], func(a, b kmodquery.Event) int { return cmp.Compare(a.TimeNanos, b.TimeNanos) })
	require.Equal(t, "security_kernel_load_data", first.EventName)
	require.Equal(t, "dummy", first.Name)
}

// replaceLinks replaces each link of this process by another file.
func replaceLinks(t *testing.T) []*os.File {
	t.Helper()
	var replaced []*os.File
	fds, err := filepath.Glob("/proc/self/fd/*")
	require.NoError(t, err)
	for _, path := range fds {
		target, err := os.Readlink(path)
		if err != nil || !strings.Contains(target, "bpf_link") && !strings.Contains(target, "bpf-link") {
			continue
		}
		fd, err := strconv.Atoi(filepath.Base(path))
		require.NoError(t, err)
		other, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Dup3(other, fd, unix.O_CLOEXEC))
		require.NoError(t, unix.Close(other))
		replaced = append(replaced, os.NewFile(uintptr(fd), os.DevNull))
	}
	return replaced
}

// hookedBy returns the functions and tracepoints of a list of hooks. How they are hooked depends
// on whether these hooks have replaced others.
func hookedBy(t *testing.T, hooks string) []string {
	t.Helper()
	var list []string
	if hooks != "" {
		require.NoError(t, json.Unmarshal([]byte(hooks), &list))
	}
	for i := range list {
		list[i], _, _ = strings.Cut(list[i], " ")
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// TestGuestReportsTracingThatIsSwitchedOff switches off the kernel's tracing without
// the knowledge of a recorder of this process and of the extension.
func TestGuestReportsTracingThatIsSwitchedOff(t *testing.T) {
	guest.Only(t)
	const sensor = "SELECT state, hooks FROM kernel_module_sensors WHERE source = 'ebpf'"
	healthy := query(t, sensor)
	require.Equal(t, "active", healthy[0]["state"])
	w := watch(t)
	for _, test := range []struct{ name, path, reason string }{
		{"ftrace", "/proc/sys/kernel/ftrace_enabled", "ftrace is switched off"},
		{"kprobes", "/sys/kernel/debug/kprobes/enabled", "kprobes are switched off"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := os.WriteFile(test.path, []byte("0"), 0)
			if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EBUSY) {
				t.Skipf("this kernel does not permit switching it off while it is in use: %v", err)
			}
			require.NoError(t, err)
			defer os.WriteFile(test.path, []byte("1"), 0)
			require.Eventually(t, func() bool {
				return w.Sync(t.Context()) == nil && strings.Contains(w.lastReport(), test.reason+"; write 1 to "+test.path)
			}, 2*time.Minute, 50*time.Millisecond)
			if test.name == "kprobes" && guest.Kernel() != "5.10" && guest.Kernel() != "6.1" {
				w.recovers(t, test.reason) // every hook has an alternative
				require.NotContains(t, w.source.Sensor().Hooks, "probe)")
			} else {
				require.Eventually(t, func() bool {
					return w.source.Sensor().State == "failed" && strings.Contains(w.source.Sensor().Reason, test.reason)
				}, 2*time.Minute, 50*time.Millisecond)
			}
			require.NoError(t, os.WriteFile(test.path, []byte("1"), 0))
			require.Eventually(t, func() bool {
				return w.Sync(t.Context()) == nil && w.isActive() && slices.Equal(hookedBy(t, w.source.Sensor().Hooks), hookedBy(t, healthy[0]["hooks"]))
			}, time.Minute, 50*time.Millisecond)
			require.Equal(t, loadAndUnload, w.observe(t, "dummy"))
		})
	}
	require.Eventually(t, func() bool {
		latest(t) // makes the source check
		now := query(t, sensor)
		return now[0]["state"] == "active" && slices.Equal(hookedBy(t, now[0]["hooks"]), hookedBy(t, healthy[0]["hooks"]))
	}, 2*time.Minute, time.Second)
	// The extension's hooks may have missed the last unload. Its views report that only
	// after several looks, and the next test must not get the event.
	require.Eventually(t, func() bool {
		return len(query(t, "SELECT name FROM kernel_module_inventory WHERE name = 'dummy'")) == 0
	}, time.Minute, time.Second)
}

// TestGuestReportsFilteredRecords hooks or patches the functions of the BPF ring buffer, so that the
// records about this process vanish. Nothing asks the recorder.
func TestGuestReportsFilteredRecords(t *testing.T) {
	guest.Only(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the module is for amd64")
	}
	w := watch(t)
	before := w.source.Sensor()
	require.Zero(t, before.Filtered)
	hookable, err := os.ReadFile("/sys/kernel/tracing/available_filter_functions")
	require.NoError(t, err)
	name, set := kmod.Filter, map[string]uint64{
		"victim":   uint64(os.Getpid()),
		"pid_tgid": symbol(t, "bpf_get_current_pid_tgid", ""),
		"submit":   symbol(t, "bpf_ringbuf_submit", ""),
		"discard":  symbol(t, "bpf_ringbuf_discard", ""),
	}
	if strings.Contains(string(hookable), "\nbpf_ringbuf_output\n") {
		set["output"] = symbol(t, "bpf_ringbuf_output", "")
	} else { // nor does a kprobe run inside another one
		name, set["poke"], set["work"] = kmod.Patch, symbol(t, "text_poke_kgdb", ""), ringWork(t)
	}
	filter, err := kmod.Build(name, set)
	require.NoError(t, err)
	require.NoError(t, guest.LoadImage(filter, ""))
	// It leaves no module that nobody has seen. The records of the call and of its process vanish.
	require.ErrorIs(t, guest.LoadImage(make([]byte, 4096), ""), unix.ENOEXEC)
	require.Eventually(t, func() bool { return w.source.Sensor().Filtered > 2 && len(w.tampered()) > 0 }, busyLimit, 50*time.Millisecond,
		"the periodic check does not notice it")
	require.True(t, w.isActive())
	// So does the canary of the hooks that are attached then.
	w.source.MarkUnreliable("a test doubts the hooks")
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(w.tampered(), func(reason string) bool { return strings.Contains(reason, "canary") })
	}, busyLimit, 50*time.Millisecond, "the canary is not missed")
	require.Eventually(t, func() bool { return strings.Contains(w.source.Sensor().Reason, "canary") }, busyLimit, 50*time.Millisecond)
	require.Equal(t, kmodquery.StateFailed, w.source.Sensor().State)
	require.NoError(t, guest.Unload("kmodquery_"+name))
	t.Log(w.tampered())
	require.Contains(t, w.tampered()[0], "system_call") // at least the return of the filter's own load
	require.Contains(t, w.tampered()[0], "did not arrive")
	require.Equal(t, before.Lost, w.source.Sensor().Lost)
	require.Equal(t, loadAndUnload, w.observe(t, "dummy"))
}

// ringWork returns an offset in the kernel's struct bpf_ringbuf.
func ringWork(t *testing.T) uint64 {
	t.Helper()
	kernel, err := btf.LoadKernelSpec()
	require.NoError(t, err)
	var ring *btf.Struct
	require.NoError(t, kernel.TypeByName("bpf_ringbuf", &ring))
	for _, member := range ring.Members {
		if member.Name == "work" {
			return uint64(member.Offset.Bytes())
		}
	}
	t.Fatal("struct bpf_ringbuf has no work")
	return 0
}

// TestGuestRecognisesACanary makes the same denied call as a canary and as an ordinary call.
func TestGuestRecognisesACanary(t *testing.T) {
	guest.Only(t)
	p, err := bpf.Open(t.Context(), bpf.Options{})
	require.NoError(t, err)
	defer p.Close()
	require.True(t, p.HasCanary())
	const value = 1<<63 | 77<<40
	made, err := p.Canary(value, denied)
	require.ErrorIs(t, err, unix.EPERM)
	require.False(t, made.IsCrowded)
	require.ErrorIs(t, denied(value), unix.EPERM)
	p.SetDeadline(time.Now().Add(time.Second))
	var canaries []uint64
	ordinary := 0
	for {
		raw, at, err := p.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		require.NoError(t, err)
		r, err := p.Decode(raw, at)
		require.NoError(t, err)
		if r.Call == nil || int(r.Pid) != os.Getpid() {
			continue
		}
		if r.Call.Canary != 0 {
			require.Nil(t, r.Call.Denied)
			require.True(t, made.IsOf(&r, at))
			require.LessOrEqual(t, at.Offset, made.End)
			canaries = append(canaries, r.Call.Canary)
		} else if r.Call.Denied != nil {
			ordinary++
		}
	}
	require.Equal(t, []uint64{value}, canaries)
	require.Equal(t, 1, ordinary)
	require.True(t, p.HasRead(made))
	require.NoError(t, p.Check(), "nothing is left in the settings")
	counts, err := p.DeniedCounts()
	require.NoError(t, err)
	require.Len(t, counts, 1)
	require.EqualValues(t, 1, counts[0].Count)

	// Those of a recorder are no events.
	w := watch(t)
	for _, e := range w.events {
		require.NotEqual(t, kmodquery.EventInitModule+" EPERM", e.EventName+" "+e.Error)
	}
	require.Empty(t, w.source.Sensor().Reason)
	require.Empty(t, w.tampered())
}

// denied calls init_module with a third argument, from a thread without the right to load.
func denied(uargs uint64) error {
	outcome := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			outcome <- err
			return
		}
		_, _, errno := unix.RawSyscall(unix.SYS_INIT_MODULE, 0, 0, uintptr(uargs))
		outcome <- errno
	}()
	return <-outcome
}
