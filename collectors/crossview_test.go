package collectors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// A kernel is fake views of one.
type kernel struct {
	mu      sync.Mutex
	modules map[string]kmodquery.Module
	memory  []kmodquery.Module // without a name
	taint   int64
	flicker func(read int) // changes it before each read
	looks   int

	confirmed int                   // calls of Confirm
	glances   int                   // calls of Absent
	omits     func(glance int) bool // whether one of them omits ext4
}

// firstRecheck is how long after the start of a period a difference is checked
// again for the first time.
const firstRecheck = DefaultPoll/3 + time.Second

func newKernel(names ...string) *kernel {
	k := &kernel{modules: map[string]kmodquery.Module{}}
	for _, name := range names {
		k.load(name)
	}
	return k
}

func (k *kernel) load(name string) {
	k.show(name, kmodquery.ViewModules, kmodquery.ViewSysfs, kmodquery.ViewVmallocinfo)
}

func (k *kernel) show(name string, views ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.modules[name] = kmodquery.Module{Name: name, State: "Live", Size: new(int64(4096)), Taints: new(int64(0)), Views: views}
}

func (k *kernel) unload(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.modules, name)
}

func (k *kernel) set(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
}

func (k *kernel) Listed(ctx context.Context) ([]kmodquery.Module, error) {
	all, err := k.Modules(ctx)
	return slices.DeleteFunc(all, func(m kmodquery.Module) bool { return m.Name == "" }), err
}

func (k *kernel) Modules(context.Context) ([]kmodquery.Module, error) {
	k.mu.Lock()
	flicker := k.flicker
	if flicker != nil {
		k.looks++
	}
	look := k.looks
	k.mu.Unlock()
	if flicker != nil {
		flicker(look)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []kmodquery.Module
	for _, m := range k.modules {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b kmodquery.Module) int { return compareNames(a, b) })
	return append(all, k.memory...), nil
}

func (k *kernel) Absent(_ context.Context, names []string) ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.glances++
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		if name == "ext4" && k.omits != nil && k.omits(k.glances) {
			return false
		}
		return slices.Contains(k.modules[name].Views, kmodquery.ViewModules)
	}), nil
}

func (k *kernel) Confirm(ctx context.Context, suspects []kmodquery.Module) ([]kmodquery.Module, error) {
	all, err := k.Modules(ctx)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.confirmed++
	return slices.DeleteFunc(slices.Clone(suspects), func(suspect kmodquery.Module) bool {
		return !slices.ContainsFunc(all, func(m kmodquery.Module) bool {
			return m.IsHidden() && m.Name == suspect.Name && equal(m.Address, suspect.Address) && equal(m.Size, suspect.Size)
		})
	}), nil
}

func equal(a, b *int64) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

func compareNames(a, b kmodquery.Module) int {
	switch {
	case a.Name < b.Name:
		return -1
	case a.Name > b.Name:
		return 1
	}
	return 0
}

func (k *kernel) Taint(context.Context) (int64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.taint, nil
}

func (k *kernel) Shown() ([]string, string) { return []string{"modules", "sysfs"}, "" }

// A watch is a recorder in a test, with a source that sees every load.
type watch struct {
	*Recorder
	kernel *kernel
	source *trusting
	sink   *memory
	said   *reports
}

// startWatch starts a recorder whose source watches before the first check.
func startWatch(t *testing.T, k *kernel, past ...kmodquery.Event) *watch {
	t.Helper()
	w := newWatch(t, k, past...)
	w.source.begin <- struct{}{}
	w.advance()
	return w
}

// newWatch starts a recorder that waits for its source to watch.
func newWatch(t *testing.T, k *kernel, past ...kmodquery.Event) *watch {
	t.Helper()
	w := &watch{kernel: k, source: &trusting{staged: newStaged(kmodquery.SourceEBPF)}}
	w.Recorder, w.sink, w.said = startStaged(t, Options{
		Sources: []Source{w.source},
		Views:   k,
		Stamp:   stampNow,
		Past: func(_ context.Context, visit func(*kmodquery.Event)) error {
			for i := range past {
				visit(&past[i])
			}
			return nil
		},
	})
	return w
}

func stampNow() kmodquery.Event {
	now := time.Now()
	return kmodquery.Event{Time: now.Unix(), TimeNanos: now.UnixNano(), BootID: "boot"}
}

// settle lets as much time pass as a look and everything after it may take.
func (w *watch) advance() {
	time.Sleep(2*DefaultPoll + 5*time.Second)
	synctest.Wait()
}

func (w *watch) sees(eventName, name, id string) {
	w.source.emitting <- kmodquery.Event{EventName: eventName, Name: name, LoadID: id, TimeNanos: time.Now().UnixNano()}
	synctest.Wait()
}

// found returns the events of the views, as "event name", since the last call.
func (w *watch) found(t *testing.T) []string {
	t.Helper()
	require.NoError(t, w.Sync(t.Context()))
	w.sink.mu.Lock()
	defer w.sink.mu.Unlock()
	var rows []string
	for _, e := range w.sink.events {
		if e.Source == kmodquery.SourceProcfs {
			rows = append(rows, e.EventName+" "+e.Name)
		}
	}
	w.sink.events = nil
	return rows
}

func TestModulesAtTheStartArePresent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, newKernel("ext4", "loop"))
		require.Equal(t, []string{"module_present ext4", "module_present loop"}, w.found(t))
		w.advance()
		require.Empty(t, w.found(t))
		sensors := w.Sensors(t.Context())
		require.Equal(t, kmodquery.SourceProcfs, sensors[1].Source)
		require.Equal(t, kmodquery.StateActive, sensors[1].State)
		require.Equal(t, `["modules","sysfs"]`, sensors[1].Hooks)
		require.NotZero(t, sensors[1].LastEventTime)
		require.NoError(t, w.Close())
	})
}

func TestAModuleThatIsLoadedDuringTheStartIsALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel("ext4")
		w := newWatch(t, k)
		k.load("rootkit")
		k.load("dummy")
		w.sees(kmodquery.EventModuleLoad, "dummy", "1")
		w.source.begin <- struct{}{}
		w.advance()
		require.Equal(t, []string{"module_present ext4", "module_load rootkit"}, w.found(t))
		require.NoError(t, w.Close())
	})
}

// An earlier recorder of this boot stored events, which are replayed in any order.
func TestChangesWithoutARecorderAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ago := func(d time.Duration) int64 { return time.Now().Add(-d).UnixNano() }
		w := startWatch(t, newKernel("ext4", "new"),
			kmodquery.Event{Source: "ebpf", EventName: kmodquery.EventModuleLoad, Name: "gone", LoadID: "2", TimeNanos: ago(time.Minute)},
			kmodquery.Event{Source: "ebpf", EventName: kmodquery.EventModuleFree, Name: "unloaded", LoadID: "4", TimeNanos: ago(time.Minute)},
			kmodquery.Event{Source: "ebpf", EventName: kmodquery.EventModuleLoad, Name: "unloaded", LoadID: "3", TimeNanos: ago(time.Hour)},
			kmodquery.Event{Source: "procfs", EventName: kmodquery.EventModuleHidden, Name: "hidden", LoadID: "5", TimeNanos: ago(time.Minute)},
			kmodquery.Event{Source: "ebpf", EventName: kmodquery.EventModuleLoad, Name: "hidden", LoadID: "5", TimeNanos: ago(time.Hour)},
			kmodquery.Event{Source: "procfs", EventName: kmodquery.EventModulePresent, Name: "ext4", LoadID: "1", TimeNanos: ago(time.Hour)})
		require.ElementsMatch(t, []string{"module_present new", "module_free gone"}, w.found(t))
		require.NoError(t, w.Close())
	})
}

func TestReportedLoadsAreNoDifference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, newKernel())
		w.sees(kmodquery.EventModuleLoad, "dummy", "1")
		w.kernel.load("dummy")
		w.advance()
		loaded := w.loaded()
		require.Len(t, loaded, 1)
		require.Equal(t, "1", loaded[0].LoadID)
		w.sees(kmodquery.EventModuleFree, "dummy", "2")
		w.kernel.unload("dummy")
		w.advance()
		require.Empty(t, w.loaded())
		require.Empty(t, w.found(t))
		require.NoError(t, w.Close())
	})
}

// Events that wait in memory count, whether or not the module was there at the start.
func TestLoadsThatWaitForTheStoreAreNoDifference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatch(t, newKernel("ext4"))
		w.sink.refuse(errors.New("disk full"))
		w.sees(kmodquery.EventModuleLoad, "early", "1") // from the kernel's ring
		w.kernel.load("early")
		w.source.begin <- struct{}{}
		w.advance()
		w.sees(kmodquery.EventModuleLoad, "late", "2")
		w.kernel.load("late")
		w.advance()
		w.kernel.load("rootkit")
		w.advance()
		require.Equal(t, kmodquery.StateActive, w.Sensors(t.Context())[1].State, "it looks on while nothing can be stored")
		loaded := w.loaded()
		require.Equal(t, []string{"early", "ext4", "late", "rootkit"}, namesOfModules(loaded))
		require.Nil(t, loaded[0].FirstSeen)

		w.sink.mu.Lock()
		w.sink.first = new(int64(1))
		w.sink.mu.Unlock()
		w.sink.refuse(nil)
		w.advance()
		require.Equal(t, []string{"module_present ext4", "module_unwitnessed rootkit"}, w.found(t))
		require.EqualValues(t, 1, *w.loaded()[0].FirstSeen, "only the store knows it")
		w.advance()
		require.Empty(t, w.found(t))
		require.NoError(t, w.Close())
	})
}

func namesOfModules(modules []kmodquery.Module) []string {
	var names []string
	for _, m := range modules {
		names = append(names, m.Name)
	}
	return names
}

func TestLoadThatNoSourceReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, newKernel())
		w.advance()
		w.kernel.load("rootkit")
		w.advance()
		w.sink.mu.Lock()
		events := slices.Clone(w.sink.events)
		w.sink.mu.Unlock()
		require.Equal(t, []string{"module_unwitnessed rootkit"}, w.found(t))
		require.Equal(t, "it is in modules, but ebpf did not report its load", events[0].Reason)
		require.Equal(t, "path,origin,sha256,signature_status,pid,process_path,uid,signer,cmdline,requested_by,container_id", events[0].Missing.String())
		require.Equal(t, []string{`module "rootkit" was loaded and the source did not report it`}, w.source.reasons)
		require.Equal(t, []string{`ebpf: module "rootkit" was loaded and the source did not report it`}, w.said.errs)
		w.advance()
		require.Empty(t, w.found(t), "it is reported once")
		require.NoError(t, w.Close())
	})
}

// Code in the kernel can add an entry to either of these views.
func TestReasonSaysThatOneViewAloneShowsAHiddenModule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.show("folder", kmodquery.ViewSysfs)
		k.show("both", kmodquery.ViewSysfs, kmodquery.ViewBTF)
		w := startWatch(t, k)
		w.advance()
		w.sink.mu.Lock()
		events := slices.Clone(w.sink.events)
		w.sink.mu.Unlock()
		require.ElementsMatch(t, []string{"module_hidden folder", "module_hidden both"}, w.found(t))
		for _, e := range events {
			if e.Name == "folder" {
				require.Equal(t, "it is not in modules, but in sysfs only, where code in the kernel can add an entry", e.Reason)
			} else {
				require.Equal(t, "it is not in modules, but in sysfs, btf", e.Reason)
			}
		}
		require.NoError(t, w.Close())
	})
}

// call emits an event of a call of eBPF's.
func (w *watch) call(eventName, name, id string, result *int64) {
	w.source.emitting <- kmodquery.Event{
		Source: kmodquery.SourceEBPF, EventName: eventName, Type: kmodquery.TypeKernelModule, Name: name, LoadID: id,
		Result: result, TimeNanos: time.Now().UnixNano(),
	}
	synctest.Wait()
}

// The record of its module_load was lost.
func TestLoadOfWhichASourceReportedAPartIsWitnessed(t *testing.T) {
	for _, event := range []string{kmodquery.EventFinitModule, kmodquery.EventInitModule, kmodquery.EventSecurityKernelReadFile} {
		synctest.Test(t, func(t *testing.T) {
			w := startWatch(t, newKernel())
			w.advance()
			result := new(int64(0))
			if event == kmodquery.EventSecurityKernelReadFile {
				result = nil
			}
			w.call(event, "dummy", "1", result)
			w.kernel.load("dummy")
			w.advance()
			require.Empty(t, w.found(t))
			require.Empty(t, w.source.reasons)
			require.Equal(t, "1", w.loaded()[0].LoadID)
			w.sees(kmodquery.EventModuleFree, "dummy", "2")
			w.kernel.unload("dummy")
			w.advance()
			w.kernel.load("dummy")
			w.advance()
			require.Equal(t, []string{"module_unwitnessed dummy"}, w.found(t), "another load")
			require.NoError(t, w.Close())
		})
	}
}

// A call has its time when it returns, which can be after the module was unloaded.
func TestReturnAfterTheUnloadIsNoOtherLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, newKernel())
		w.advance()
		w.call(kmodquery.EventSecurityKernelReadFile, "dummy", "1", nil)
		w.call(kmodquery.EventModuleLoad, "dummy", "1", nil)
		time.Sleep(time.Millisecond)
		w.sees(kmodquery.EventModuleFree, "dummy", "2")
		time.Sleep(time.Millisecond)
		w.call(kmodquery.EventFinitModule, "dummy", "1", new(int64(0)))
		require.Empty(t, w.loaded())
		w.kernel.load("dummy")
		w.advance()
		require.Equal(t, []string{"module_unwitnessed dummy"}, w.found(t))
		require.NoError(t, w.Close())
	})
}

// The kernel refused the module, and another one of its name was loaded unseen.
func TestRefusedLoadIsNotWitnessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, newKernel())
		w.advance()
		w.call(kmodquery.EventSecurityKernelReadFile, "dummy", "1", nil)
		w.call(kmodquery.EventFinitModule, "dummy", "1", new(int64(-8)))
		w.kernel.load("dummy")
		w.advance()
		require.Equal(t, []string{"module_unwitnessed dummy"}, w.found(t))
		require.NoError(t, w.Close())
	})
}

// The source fails before the next check.
func TestLoadDuringAFailureOfTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, newKernel())
		w.advance()
		w.kernel.load("rootkit")
		w.source.end <- errors.New("detached")
		time.Sleep(firstDelay)
		w.source.begin <- struct{}{}
		w.advance()
		require.Equal(t, []string{"module_unwitnessed rootkit"}, w.found(t))
		require.Empty(t, w.source.reasons, "it has started again")
		require.NoError(t, w.Close())
	})
}

// A source that lost records is overloaded.
func TestLoadAmongLostRecordsDoesNotMakeASourceUnreliable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, newKernel())
		w.advance()
		w.source.mu.Lock()
		w.source.lost = 3
		w.source.mu.Unlock()
		w.kernel.load("dummy")
		w.advance()
		w.sink.mu.Lock()
		reason := w.sink.events[0].Reason
		w.sink.mu.Unlock()
		require.Equal(t, []string{"module_unwitnessed dummy"}, w.found(t))
		require.Equal(t, "it is in modules, but ebpf did not report its load; 3 records were lost meanwhile", reason)
		require.Empty(t, w.source.reasons)
		require.NoError(t, w.Close())
	})
}

func TestHiddenModulesAreReportedOnce(t *testing.T) {
	for _, test := range []struct {
		name   string
		before bool // loaded before the recorder began
		hide   func(*kernel)
		want   []string
		reason string
	}{
		{"off the list", false, func(k *kernel) { k.show("rootkit", kmodquery.ViewSysfs, kmodquery.ViewKallsyms) },
			[]string{"module_hidden rootkit"}, "it is not in modules, but in sysfs, kallsyms, events"},
		{"off the list, loaded before", true, func(k *kernel) { k.show("rootkit", kmodquery.ViewSysfs) },
			[]string{"module_hidden rootkit"}, "it is not in modules, but in sysfs, events"},
		{"in no view", false, func(k *kernel) { k.unload("rootkit") },
			[]string{"module_hidden rootkit"}, "it is not in modules, but in events"},
		{"in memory only", false, func(k *kernel) {
			k.unload("rootkit")
			k.set(func() {
				k.memory = []kmodquery.Module{{Address: new(int64(-4096)), Size: new(int64(8192)), Views: []string{kmodquery.ViewVmallocinfo}}}
			})
		}, []string{"module_hidden rootkit"}, "it is not in modules, but in vmallocinfo, events"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKernel()
				if test.before {
					k.load("rootkit")
				}
				w := startWatch(t, k)
				w.found(t)
				if !test.before {
					w.sees(kmodquery.EventModuleLoad, "rootkit", "1")
					k.load("rootkit")
					w.found(t)
				}
				test.hide(k)
				w.advance()
				w.sink.mu.Lock()
				events := slices.Clone(w.sink.events)
				w.sink.mu.Unlock()
				require.Equal(t, test.want, w.found(t))
				require.Equal(t, test.reason, events[0].Reason)
				require.NotEmpty(t, events[0].LoadID)
				require.Contains(t, events[0].Missing, "version,srcversion")
				for range 10 {
					w.advance()
				}
				require.Empty(t, w.found(t), "it is reported once")
				require.Empty(t, w.source.reasons)
				require.NoError(t, w.Close())
			})
		})
	}
}

func TestNamelessMemoryIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.set(func() {
			k.memory = []kmodquery.Module{{Address: new(int64(-4096)), Size: new(int64(8192)), Views: []string{kmodquery.ViewVmallocinfo}}}
		})
		w := startWatch(t, k)
		require.Equal(t, []string{"module_hidden "}, w.found(t))
		require.Equal(t, 2, k.confirmations(), "memory is freed late")
		for range 10 {
			w.advance()
		}
		require.Empty(t, w.found(t))
		require.NoError(t, w.Close())
	})
}

func TestMemoryThatIsFreedLateIsNotHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		w := startWatch(t, k)
		w.sees(kmodquery.EventModuleLoad, "dummy", "1")
		k.load("dummy")
		w.advance()
		k.unload("dummy")
		w.sees(kmodquery.EventModuleFree, "dummy", "2")
		k.set(func() {
			k.memory = []kmodquery.Module{{Size: new(int64(8192)), Views: []string{kmodquery.ViewVmallocinfo}}}
		})
		time.Sleep(firstRecheck + 5*time.Second)
		k.set(func() { k.memory = nil })
		w.advance()
		require.Equal(t, 2, k.confirmations())
		require.Empty(t, w.found(t))
		require.NoError(t, w.Close())
	})
}

// A module that is loaded and unloaded all the time is sometimes shown half loaded.
func TestModulesThatComeAndGoAreNoDifference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		w := startWatch(t, k)
		w.found(t)
		flicker := func(look int) {
			switch look % 4 {
			case 0:
				k.show("dummy", kmodquery.ViewSysfs)
			case 1, 2:
				k.load("dummy")
			case 3:
				k.unload("dummy")
			}
		}
		k.set(func() { k.flicker = flicker })
		for range 100 {
			w.advance()
		}
		require.Empty(t, w.found(t))
		require.NoError(t, w.Close())
	})
}

func TestViewsNoticeLoadsWithoutACompleteSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel("ext4")
		logs := newStaged(kmodquery.SourceKmsg)
		r, sink, said := startStaged(t, Options{Sources: []Source{logs}, Views: k, Stamp: stampNow})
		w := &watch{Recorder: r, kernel: k, sink: sink, said: said}
		logs.begin <- struct{}{}
		w.advance()
		require.Equal(t, []string{"module_present ext4"}, w.found(t))
		k.load("dummy")
		logs.emitting <- kmodquery.Event{EventName: kmodquery.EventModuleLoad, Name: "noisy", LoadID: "k", TimeNanos: time.Now().UnixNano()}
		k.load("noisy")
		w.advance()
		require.Equal(t, []string{"module_load dummy"}, w.found(t), "the kernel's log spoke of the other one")
		k.unload("dummy")
		k.unload("noisy")
		w.advance()
		require.ElementsMatch(t, []string{"module_free dummy", "module_free noisy"}, w.found(t))
		require.NoError(t, w.Close())
	})
}

func TestTaintResetIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel("dummy")
		k.set(func() { k.taint = 1<<12 | 1<<13 })
		w := startWatch(t, k)
		w.found(t)
		k.set(func() { k.taint = 1 << 12 })
		w.advance()
		w.sink.mu.Lock()
		event := w.sink.events[0]
		w.sink.mu.Unlock()
		require.Equal(t, []string{"taint_reset "}, w.found(t))
		require.EqualValues(t, 1<<13, *event.Taints)
		w.advance()
		require.Empty(t, w.found(t))

		// A bit of the module that the kernel's taint lacks.
		k.set(func() {
			m := k.modules["dummy"]
			m.Taints = new(int64(1<<12 | 1))
			k.modules["dummy"] = m
		})
		w.advance()
		require.Equal(t, []string{"taint_reset "}, w.found(t))
		require.NoError(t, w.Close())
	})
}

// No event is emitted before the sources have reported what they saw.
func TestDifferencesWaitForTheSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, newKernel())
		w.advance()
		w.kernel.load("slow")
		time.Sleep(firstRecheck - 500*time.Millisecond)
		w.sees(kmodquery.EventModuleLoad, "slow", "1")
		w.advance()
		require.Empty(t, w.found(t))
		require.Empty(t, w.source.reasons)
		require.NoError(t, w.Close())
	})
}

// A behind source emits what it saw with a Sync.
type behind struct {
	*staged
	saw []kmodquery.Event
}

func (b *behind) Sync(context.Context) error {
	for _, e := range b.saw {
		b.emitting <- e
	}
	b.saw = nil
	return nil
}

// A module was loaded while no recorder ran, and the source has yet to read that.
func TestUnreadLoadIsNotReportedAsPresent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &behind{staged: newStaged(kmodquery.SourceEBPF)}
		source.saw = []kmodquery.Event{
			{EventName: kmodquery.EventModuleLoad, Name: "fresh", LoadID: "1", TimeNanos: time.Now().UnixNano()},
			{EventName: kmodquery.EventInitModule, Name: "fresh", LoadID: "1", TimeNanos: time.Now().UnixNano()},
		}
		r, sink, said := startStaged(t, Options{Sources: []Source{source}, Views: newKernel("fresh", "old"), Stamp: stampNow})
		w := &watch{Recorder: r, sink: sink, said: said}
		source.begin <- struct{}{}
		w.advance()
		require.Equal(t, []string{"module_present old"}, w.found(t))
		_ = w.Close()
	})
}

// Records that wait in the kernel are read when their source has started.
func TestModulesOfASourceThatStartsSlowlyAreNotReportedTwice(t *testing.T) {
	for name, test := range map[string]struct {
		starts time.Duration
		want   []string
	}{
		"a slow source":                        {30 * time.Second, nil},
		"a source that does not start in time": {2 * startTime, []string{"module_present ext4"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, slow, other := newKernel("ext4"), &trusting{staged: newStaged("ebpf")}, newStaged("other")
				r, sink, _ := startStaged(t, Options{Sources: []Source{slow, other}, Views: k, Stamp: stampNow})
				time.Sleep(slowStart)
				synctest.Wait()
				require.True(t, other.isRunning())
				other.begin <- struct{}{}
				time.Sleep(test.starts - slowStart)
				slow.begin <- struct{}{}
				slow.emitting <- kmodquery.Event{TimeNanos: time.Now().UnixNano(), EventName: "module_load", Name: "ext4", LoadID: "1"}
				time.Sleep(2 * DefaultPoll)
				require.NoError(t, r.Close())
				var found []string
				for _, e := range sink.events {
					if e.Source == kmodquery.SourceProcfs {
						found = append(found, e.EventName+" "+e.Name)
					}
				}
				require.Equal(t, test.want, found)
			})
		})
	}
}

// A difference may be over when its event is emitted.
func TestEventHasTheTimeAtWhichTheViewsWereRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel("dummy")
		k.set(func() {
			k.memory = []kmodquery.Module{{Size: new(int64(8192)), Views: []string{kmodquery.ViewVmallocinfo}}}
		})
		w := &watch{kernel: k, source: &trusting{staged: newStaged(kmodquery.SourceEBPF)}}
		w.Recorder, w.sink, w.said = startStaged(t, Options{Sources: []Source{w.source}, Views: k, Stamp: stampNow})
		w.source.begin <- struct{}{}
		time.Sleep(5 * time.Second)
		k.unload("dummy") // rmmod, seen by the source
		w.sees(kmodquery.EventModuleFree, "dummy", "9")
		k.set(func() { k.memory = nil })
		w.advance()
		w.advance()
		w.advance()
		require.NotContains(t, w.found(t), "module_hidden dummy")
		_ = w.Close()
	})
}

func TestLossesDuringACheckCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		w := startWatch(t, k)
		w.sees(kmodquery.EventModuleLoad, "dummy", "1")
		k.load("dummy")
		w.advance()
		// Another difference makes the check wait.
		k.set(func() {
			k.memory = []kmodquery.Module{{Size: new(int64(8192)), Views: []string{kmodquery.ViewVmallocinfo}}}
		})
		for k.confirmations() == 0 {
			time.Sleep(time.Second)
		}
		w.unloadUnseen("dummy")
		k.set(func() { k.memory = nil })
		for range 5 {
			w.advance()
		}
		require.Equal(t, []string{"module_free dummy"}, w.found(t))
		_ = w.Close()
	})
}

func TestSourceThatBeganDuringACheckProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		w := startWatch(t, k)
		w.advance()
		w.source.end <- errors.New("broke")
		synctest.Wait()
		time.Sleep(2 * time.Second)
		w.advance() // a check without a complete source
		w.found(t)
		k.load("first") // gives the next check something to recheck
		k.set(func() { k.flicker = func(int) {} })
		before := k.lookCount()
		for k.lookCount() == before {
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(300 * time.Millisecond) // the check pauses before it rechecks
		k.load("second")                   // no source watches
		time.Sleep(100 * time.Millisecond)
		w.source.begin <- struct{}{} // now the source does
		w.advance()
		w.advance()
		require.ElementsMatch(t, []string{"module_load first", "module_load second"}, w.found(t))
		require.Empty(t, w.source.reasons)
		_ = w.Close()
	})
}

func (k *kernel) confirmations() int { k.mu.Lock(); defer k.mu.Unlock(); return k.confirmed }

func (k *kernel) lookCount() int { k.mu.Lock(); defer k.mu.Unlock(); return k.looks }

// A module is loaded and hidden between the time of a check and the read of the views.
func TestModuleHiddenDuringACheckIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		w := startWatch(t, k)
		w.found(t)
		k.set(func() {
			k.flicker = func(look int) {
				if look > 1 {
					return
				}
				time.Sleep(time.Millisecond)
				w.source.emitting <- kmodquery.Event{EventName: kmodquery.EventModuleLoad, Name: "rootkit", LoadID: "1", TimeNanos: time.Now().UnixNano()}
				k.show("rootkit", kmodquery.ViewSysfs)
			}
		})
		w.advance()
		require.Equal(t, []string{"module_hidden rootkit"}, w.found(t))
		for range 3 {
			w.advance()
		}
		require.Empty(t, w.found(t), "it is reported once")
		_ = w.Close()
	})
}

func TestClockStepHidesNoUnload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		w := startWatch(t, k)
		w.source.emitting <- kmodquery.Event{EventName: kmodquery.EventModuleLoad, Name: "dummy", LoadID: "1", TimeNanos: time.Now().UnixNano(), Uptime: new(int64(100))}
		k.load("dummy")
		w.advance()
		k.unload("dummy")
		w.source.emitting <- kmodquery.Event{EventName: kmodquery.EventModuleFree, Name: "dummy", LoadID: "2", TimeNanos: time.Now().Add(-time.Hour).UnixNano(), Uptime: new(int64(200))}
		w.advance()
		require.Empty(t, w.found(t))
		_ = w.Close()
	})
}

func TestPendingHiddenModuleIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		logs := newStaged(kmodquery.SourceKmsg)
		r, sink, said := startStaged(t, Options{Sources: []Source{logs}, Views: k, Stamp: stampNow})
		w := &watch{Recorder: r, kernel: k, sink: sink, said: said}
		logs.begin <- struct{}{}
		w.advance()
		w.found(t)
		k.load("dummy")
		k.show("rootkit", kmodquery.ViewSysfs)
		time.Sleep(2 * time.Minute)
		require.ElementsMatch(t, []string{"module_load dummy", "module_hidden rootkit"}, w.found(t))
		_ = w.Close()
	})
}

// A log reported a load and not its failure.
func TestLoadAfterAFailedOneIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		logs := newStaged(kmodquery.SourceKmsg)
		r, sink, said := startStaged(t, Options{Sources: []Source{logs}, Views: k, Stamp: stampNow})
		w := &watch{Recorder: r, kernel: k, sink: sink, said: said}
		logs.begin <- struct{}{}
		w.advance()
		w.found(t)
		logs.emitting <- kmodquery.Event{EventName: kmodquery.EventModuleLoad, Name: "dummy", LoadID: "k", TimeNanos: time.Now().UnixNano(), Missing: "result,error"}
		w.advance()
		w.found(t)
		w.advance()
		k.load("dummy") // the kernel logs nothing
		w.advance()
		require.Equal(t, []string{"module_load dummy"}, w.found(t))
		_ = w.Close()
	})
}

func TestUnwatchedModuleIsNotHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel("dummy")
		logs := newStaged(kmodquery.SourceKmsg)
		r, sink, said := startStaged(t, Options{Sources: []Source{logs}, Views: k, Stamp: stampNow})
		w := &watch{Recorder: r, kernel: k, sink: sink, said: said}
		logs.begin <- struct{}{}
		w.advance()
		w.found(t)
		k.unload("dummy") // rmmod, before the next check
		shown, _ := k.Modules(t.Context())
		for _, m := range kmodquery.JoinModules(shown, r.loaded()) {
			require.False(t, m.IsHidden(), "%s hides in %v", m.Name, m.Views)
		}
		_ = w.Close()
	})
}

func TestLoadBeforeDeleteModuleReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		w := startWatch(t, k)
		w.sees(kmodquery.EventModuleLoad, "dummy", "1")
		k.load("dummy")
		w.advance()
		w.sees(kmodquery.EventModuleFree, "dummy", "2")
		time.Sleep(time.Millisecond)
		w.sees(kmodquery.EventModuleLoad, "dummy", "3") // on another CPU
		time.Sleep(time.Millisecond)
		w.source.emitting <- kmodquery.Event{EventName: kmodquery.EventDeleteModule, Name: "dummy", LoadID: "2", Result: new(int64(0)), TimeNanos: time.Now().UnixNano()}
		w.advance()
		require.Empty(t, w.found(t))
		require.Empty(t, w.source.reasons)
		_ = w.Close()
	})
}

func TestTaintResetIsReportedOnceInABoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel("dummy")
		m := k.modules["dummy"]
		m.Taints = new(int64(1 << 12))
		k.modules["dummy"] = m
		w := startWatch(t, k, kmodquery.Event{Source: "procfs", EventName: kmodquery.EventTaintReset, Taints: new(int64(1 << 12)), TimeNanos: time.Now().UnixNano()})
		require.NotContains(t, w.found(t), "taint_reset ")
		_ = w.Close()
	})
}

func TestEventsOfAnotherBootDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel("dummy")
		logs := newStaged(kmodquery.SourceJournal)
		r, sink, said := startStaged(t, Options{Sources: []Source{logs}, Views: k, Stamp: stampNow})
		w := &watch{Recorder: r, kernel: k, sink: sink, said: said}
		logs.emitting <- kmodquery.Event{EventName: kmodquery.EventModuleLoad, Name: "dummy", LoadID: "former", BootID: "former", TimeNanos: time.Now().Add(-time.Hour).UnixNano()}
		synctest.Wait()
		logs.begin <- struct{}{}
		w.advance()
		require.Equal(t, []string{"module_present dummy"}, w.found(t))
		_ = w.Close()
	})
}

type listOnlyViews struct{ *kernel }

func (c listOnlyViews) Listed(ctx context.Context) ([]kmodquery.Module, error) {
	all, err := c.Modules(ctx)
	var listed []kmodquery.Module
	for _, m := range all {
		for _, v := range m.Views {
			if v == kmodquery.ViewModules || v == kmodquery.ViewSysfs {
				listed = append(listed, m)
				break
			}
		}
	}
	return listed, err
}

func TestHiddenModuleIsFoundInOnePeriodWithoutACompleteSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		logs := newStaged(kmodquery.SourceKmsg)
		r, sink, said := startStaged(t, Options{Sources: []Source{logs}, Views: listOnlyViews{k}, Stamp: stampNow})
		w := &watch{Recorder: r, kernel: k, sink: sink, said: said}
		logs.begin <- struct{}{}
		w.advance()
		w.found(t)
		logs.emitting <- kmodquery.Event{EventName: kmodquery.EventModuleLoad, Name: "rootkit", LoadID: "k", TimeNanos: time.Now().UnixNano()}
		k.show("rootkit", kmodquery.ViewKallsyms)
		w.advance()
		require.Equal(t, []string{"module_hidden rootkit"}, w.found(t))
		_ = w.Close()
	})
}

// A module hides and is listed in turn, for times of any ratio.
func TestModulesThatHideInTurnAreReported(t *testing.T) {
	for _, test := range []struct {
		hidden, listed time.Duration
		others         time.Duration // between loads and unloads of another module; 0 for none
	}{
		{3 * time.Second, 3 * time.Second, 0},
		{1500 * time.Millisecond, 1500 * time.Millisecond, 0},
		{2 * time.Second, 8 * time.Second, 0},
		{2700 * time.Millisecond, 7100 * time.Millisecond, 0},
		{3 * time.Second, 3 * time.Second, 400 * time.Millisecond},
		{2500 * time.Millisecond, 4 * time.Second, 90 * time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%v hidden, %v listed, others after %v", test.hidden, test.listed, test.others), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKernel("ext4")
				w := startWatch(t, k)
				w.sees(kmodquery.EventModuleLoad, "rootkit", "1")
				k.load("rootkit")
				w.advance()
				w.found(t)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var running sync.WaitGroup
				running.Go(func() {
					for ctx.Err() == nil {
						k.show("rootkit", kmodquery.ViewSysfs)
						time.Sleep(test.hidden)
						k.load("rootkit")
						time.Sleep(test.listed)
					}
				})
				if test.others > 0 {
					running.Go(func() { w.churn(ctx, test.others) })
				}
				running.Wait()
				require.Equal(t, []string{"module_hidden rootkit"}, w.found(t))
				require.Empty(t, w.source.reasons)
				require.NoError(t, w.Close())
			})
		})
	}
}

// churn loads and unloads dummy until ctx ends.
func (w *watch) churn(ctx context.Context, pause time.Duration) {
	for i := 0; ctx.Err() == nil; i++ {
		w.source.emitting <- kmodquery.Event{EventName: kmodquery.EventModuleLoad, Name: "dummy", LoadID: fmt.Sprint("load", i), TimeNanos: time.Now().UnixNano()}
		w.kernel.load("dummy")
		time.Sleep(pause)
		w.source.emitting <- kmodquery.Event{EventName: kmodquery.EventModuleFree, Name: "dummy", LoadID: fmt.Sprint("unload", i), TimeNanos: time.Now().UnixNano()}
		w.kernel.unload("dummy")
		time.Sleep(pause)
	}
}

// A reading of the list may omit an honest module, because another one is unloaded
// meanwhile. The event of an unload may come after it.
func TestLoadsAndUnloadsAreNoHiding(t *testing.T) {
	for name, omits := range map[string]func(int) bool{
		"every third reading":     func(glance int) bool { return glance%3 == 0 },
		"three readings in a row": func(glance int) bool { return glance >= 50 && glance < 53 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKernel("ext4")
				w := startWatch(t, k)
				require.Equal(t, []string{"module_present ext4"}, w.found(t))
				k.set(func() { k.omits, k.glances = omits, 0 })
				for i := range 300 {
					w.sees(kmodquery.EventModuleLoad, "dummy", fmt.Sprint("load", i))
					k.load("dummy")
					time.Sleep(time.Duration(i%7)*300*time.Millisecond + time.Millisecond)
					k.unload("dummy")
					time.Sleep(time.Duration(i%5)*40*time.Millisecond + time.Millisecond)
					w.sees(kmodquery.EventModuleFree, "dummy", fmt.Sprint("unload", i))
					time.Sleep(time.Millisecond)
				}
				require.Greater(t, k.glances, 200)
				require.Empty(t, w.found(t))
				require.NoError(t, w.Close())
			})
		})
	}
}

// A recorder that starts finds a module loaded that an earlier one stored. It has not
// watched since that load, but it has since it saw the module listed.
func TestAModuleFromBeforeTheStartThatHidesIsNoUnload(t *testing.T) {
	for _, inTurn := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			k := newKernel("rootkit")
			w := startWatch(t, k, kmodquery.Event{
				Source: "ebpf", EventName: kmodquery.EventModuleLoad, Name: "rootkit", LoadID: "1", TimeNanos: time.Now().Add(-time.Hour).UnixNano(),
			})
			w.advance()
			require.Empty(t, w.found(t))
			k.unload("rootkit") // from every view
			if inTurn {
				time.Sleep(2 * time.Second)
				k.load("rootkit")
			}
			w.advance()
			require.Equal(t, []string{"module_hidden rootkit"}, w.found(t))
			require.NoError(t, w.Close())
		})
	}
}

// A module gives itself other names, and its folder in sysfs keeps the first one.
func TestRenamedModulesAreReportedAsSuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel("ext4")
		w := startWatch(t, k)
		w.found(t)
		called := func(name string) {
			k.set(func() {
				clear(k.modules)
				k.modules["ext4"] = kmodquery.Module{Name: "ext4", State: "Live", Size: new(int64(4096)), Views: []string{kmodquery.ViewModules}}
				k.modules["rootkit"] = kmodquery.Module{Name: "rootkit", Views: []string{kmodquery.ViewSysfs}}
				k.modules[name] = kmodquery.Module{
					Name: name, State: "Live", Size: new(int64(8192)), Address: new(int64(-65536)),
					Views: []string{kmodquery.ViewModules},
				}
			})
		}
		w.sees(kmodquery.EventModuleLoad, "rootkit", "1")
		called("rootkit")
		w.advance()
		require.Empty(t, w.found(t))
		parent := "1"
		for _, name := range []string{"usbcore", "nvme", "usbcore"} {
			called(name)
			w.advance()
			w.sink.mu.Lock()
			events := slices.Clone(w.sink.events)
			w.sink.mu.Unlock()
			require.Equal(t, []string{"module_unwitnessed " + name}, w.found(t))
			require.Contains(t, events[0].Reason, "was renamed")
			require.Equal(t, parent, events[0].ParentLoadID)
			parent = events[0].LoadID
		}
		for range 10 {
			w.advance()
		}
		require.Empty(t, w.found(t))
		require.Empty(t, w.source.reasons, "the source is not at fault")
		require.NoError(t, w.Close())
	})
}

// unloadUnseen unloads a module, and the records of that are lost.
func (w *watch) unloadUnseen(name string) {
	w.lose()
	w.kernel.unload(name)
}

// lose makes the source lose a record.
func (w *watch) lose() {
	w.source.mu.Lock()
	defer w.source.mu.Unlock()
	w.source.lost++
}

// reasonOf returns the reason of the only event of the views with a name.
func (w *watch) reasonOf(t *testing.T, eventName string) (reason string) {
	t.Helper()
	require.NoError(t, w.Sync(t.Context()))
	w.sink.mu.Lock()
	defer w.sink.mu.Unlock()
	for _, e := range w.sink.events {
		if e.EventName == eventName {
			require.Empty(t, reason)
			reason = e.Reason
		}
	}
	return reason
}

// An unload may be among lost records: no module is hidden then, nor certainly unloaded.
func TestAbsenceAfterALossIsDoubtful(t *testing.T) {
	for _, test := range []struct {
		name   string
		listed time.Duration // for how long the kernel lists it after the record is lost
	}{{"at once", 0}, {"while it is being unloaded", glanceTime}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startWatch(t, newKernel())
				w.sees(kmodquery.EventModuleLoad, "dummy", "1")
				w.kernel.load("dummy")
				w.advance()
				w.lose()
				time.Sleep(test.listed)
				w.kernel.unload("dummy")
				for range 2 {
					for _, m := range w.loaded() {
						require.Empty(t, m.Views, "the inventory must not show it as hidden")
					}
					require.Empty(t, w.found(t))
					w.advance()
				}
				w.advance()
				w.advance()
				require.Equal(t, "it is no longer in modules, and no view has shown it for 1m0s; records were lost, or no source watched, when it disappeared: "+
					"it was unloaded, or hides from every view", w.reasonOf(t, kmodquery.EventModuleFree))
				require.Equal(t, []string{"module_free dummy"}, w.found(t))
				require.NoError(t, w.Close())
			})
		})
	}
}

// However many records are lost, an unload is none of them if anything shows the module.
func TestLossesMakeNoHidingAnUnload(t *testing.T) {
	memory := func(address *int64) func(*kernel) {
		return func(k *kernel) {
			k.set(func() {
				k.memory = []kmodquery.Module{{Address: address, Size: new(int64(4096)), Views: []string{kmodquery.ViewVmallocinfo}}}
			})
		}
	}
	for _, test := range []struct {
		name   string
		hide   func(w *watch)
		reason string
	}{
		{
			"memory of its size stays", func(w *watch) { w.unloadUnseen("rootkit"); memory(nil)(w.kernel) },
			"it is not in modules, but memory of its size is in vmallocinfo, and its unload was not reported. The memory may be another module's",
		},
		{"its memory stays, at the same address", func(w *watch) { w.unloadUnseen("rootkit"); memory(new(int64(-65536)))(w.kernel) }, "it is not in modules, but in vmallocinfo, events"},
		{"kallsyms shows it", func(w *watch) { w.lose(); w.kernel.show("rootkit", kmodquery.ViewKallsyms) }, "it is not in modules, but in kallsyms, events"},
		{"records are lost later", func(w *watch) {
			w.sees(kmodquery.EventModuleFree, "other", "9") // so that one glance is not enough
			w.kernel.unload("rootkit")
			time.Sleep(glanceTime)
			for range 20 {
				w.lose()
				time.Sleep(time.Second)
			}
		}, "it is not in modules, but in events"},
		{"it is listed again without a load", func(w *watch) {
			w.unloadUnseen("rootkit")
			time.Sleep(10 * time.Second)
			w.kernel.load("rootkit")
		}, "it is not in modules, but in events"},
		{"sysfs shows it while records are lost all the time", func(w *watch) {
			for range 6 {
				w.kernel.show("rootkit", kmodquery.ViewSysfs)
				for i := range 10 {
					w.lose()
					time.Sleep(time.Second)
					if i == 1 {
						w.kernel.load("rootkit")
					}
				}
			}
		}, "it is not in modules, but in (sysfs, )?events"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKernel("ext4")
				w := startWatch(t, k)
				w.sees(kmodquery.EventModuleLoad, "rootkit", "1")
				k.load("rootkit")
				k.set(func() {
					m := k.modules["rootkit"]
					m.Address = new(int64(-65536))
					k.modules["rootkit"] = m
				})
				w.advance()
				w.found(t)
				test.hide(w)
				w.advance()
				w.advance()
				w.sink.mu.Lock()
				for _, e := range w.sink.events {
					if e.Source == kmodquery.SourceProcfs {
						isKnown := test.name != "memory of its size stays"
						require.Equal(t, isKnown, e.LoadID == "1", e)
						require.Equal(t, isKnown, !e.Missing.Has("load_id") && !e.Missing.Has("path"), e)
						require.True(t, isKnown || e.LoadID+e.Path == "", e)
					}
				}
				w.sink.mu.Unlock()
				require.Regexp(t, "^"+test.reason+"$", w.reasonOf(t, kmodquery.EventModuleHidden))
				require.Equal(t, []string{"module_hidden rootkit"}, w.found(t))
				for range 5 {
					w.advance()
				}
				require.Empty(t, w.found(t))
				require.NoError(t, w.Close())
			})
		})
	}
}

// glanceTime is longer than the time between two glances.
const glanceTime = 1500 * time.Millisecond

// Losses are no proof of hiding: modules are loaded and unloaded, and all records of some of
// that are lost.
func TestLostUnloadsAreNoHiding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel("ext4")
		w := startWatch(t, k)
		w.found(t)
		for i := range 300 {
			if i%3 != 1 {
				w.sees(kmodquery.EventModuleLoad, "dummy", fmt.Sprint("load", i))
			} else {
				w.lose()
			}
			k.load("dummy")
			time.Sleep(time.Duration(i%11)*700*time.Millisecond + time.Millisecond)
			if i%2 == 0 {
				w.unloadUnseen("dummy")
			} else {
				k.unload("dummy")
				w.sees(kmodquery.EventModuleFree, "dummy", fmt.Sprint("unload", i))
			}
			time.Sleep(time.Duration(i%13)*600*time.Millisecond + time.Millisecond)
		}
		require.NotContains(t, w.found(t), "module_hidden dummy")
		require.NoError(t, w.Close())
	})
}

// inventory returns the rows that views and events give, as "load_id hidden".
func (w *watch) inventory(t *testing.T) (rows []string) {
	t.Helper()
	require.NoError(t, w.Sync(t.Context()))
	shown, err := w.kernel.Modules(t.Context())
	require.NoError(t, err)
	for _, m := range kmodquery.JoinModules(shown, w.loaded()) {
		rows = append(rows, fmt.Sprint(m.Name, " ", m.LoadID, " ", m.IsHidden()))
	}
	return rows
}

// A module hides from every view, and an honest one of its name is loaded.
func TestNamesakeOfAHiddenModuleIsAnotherModule(t *testing.T) {
	const reason = "it is not in modules, but in events: a later module has its name, which the kernel refuses while the list has it, and no unload was reported"
	for _, test := range []struct {
		name   string
		before time.Duration // from the hiding to the second load
		reason string
	}{
		{"at once", 0, reason},
		{"after a while", time.Minute, "it is not in modules, but in events"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startWatch(t, newKernel())
				w.sees(kmodquery.EventModuleLoad, "dummy", "1")
				time.Sleep(test.before + 50*time.Millisecond)
				w.sees(kmodquery.EventModuleLoad, "dummy", "2")
				w.kernel.load("dummy")
				w.advance()
				require.Equal(t, []string{"dummy 2 false", "dummy 1 true"}, w.inventory(t))
				w.lose() // explains nothing that was before
				w.advance()
				w.sink.mu.Lock()
				for _, e := range w.sink.events {
					require.True(t, e.Source != kmodquery.SourceProcfs || e.LoadID == "1", e)
				}
				w.sink.mu.Unlock()
				require.Equal(t, test.reason, w.reasonOf(t, kmodquery.EventModuleHidden))
				require.Equal(t, []string{"module_hidden dummy"}, w.found(t))
				require.Equal(t, []string{"dummy 2 false", "dummy 1 true"}, w.inventory(t))

				w.kernel.unload("dummy")
				w.sees(kmodquery.EventModuleFree, "dummy", "3")
				for range 5 {
					w.advance()
				}
				require.Empty(t, w.found(t), "each is reported once")
				require.Equal(t, []string{"dummy 1 true"}, w.inventory(t))
				w.kernel.show("dummy", kmodquery.ViewFtrace) // of the first one
				w.advance()
				require.Empty(t, w.found(t))
				require.Equal(t, []string{"dummy 1 true"}, w.inventory(t))
				w.sees(kmodquery.EventModuleLoad, "dummy", "4")
				w.kernel.load("dummy")
				w.kernel.unload("dummy")
				w.advance()
				require.Equal(t, []string{"module_hidden dummy"}, w.found(t), "the second one hides too")
				require.Equal(t, []string{"dummy 4 true", "dummy 1 true"}, w.inventory(t))
				require.Empty(t, w.source.reasons)
				require.NoError(t, w.Close())
			})
		})
	}
}

// The unload of the first one is among lost records.
func TestLoadAfterALostUnloadIsNoNamesake(t *testing.T) {
	for _, address := range []int64{-65536, -4096} { // where the second one is
		synctest.Test(t, func(t *testing.T) {
			w := startWatch(t, newKernel())
			load := func(id string, address int64) {
				w.sees(kmodquery.EventModuleLoad, "dummy", id)
				w.kernel.set(func() {
					w.kernel.modules["dummy"] = kmodquery.Module{
						Name: "dummy", State: "Live", Size: new(int64(4096)), Address: &address, Views: []string{kmodquery.ViewModules},
					}
				})
			}
			load("1", -65536)
			w.advance()
			w.unloadUnseen("dummy")
			time.Sleep(50 * time.Millisecond)
			load("2", address)
			w.advance()
			require.Equal(t, []string{"dummy 2 false"}, w.inventory(t))
			require.Empty(t, w.found(t))
			for range 5 {
				w.advance()
			}
			if address != -65536 {
				require.Contains(t, w.reasonOf(t, kmodquery.EventModuleFree), "it was unloaded, or hides from every view")
				require.Equal(t, []string{"module_free dummy"}, w.found(t))
			}
			require.Empty(t, w.found(t), "a namesake at the same address was unloaded")
			require.Equal(t, []string{"dummy 2 false"}, w.inventory(t), "the end of the first one is not that of the second")
			require.NoError(t, w.Close())
		})
	}
}

// Sysfs replaces the slash in a name, which the events and the kernel's list have.
func TestAHiddenModuleWithASlashIsOneModule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, newKernel())
		w.sees(kmodquery.EventModuleLoad, "a/b", "1")
		w.kernel.load("a/b")
		w.advance()
		require.Equal(t, []string{"a/b 1 false"}, w.inventory(t))
		w.kernel.unload("a/b")
		w.kernel.show("a!b", kmodquery.ViewSysfs)
		w.advance()
		require.Equal(t, []string{"a/b 1 true"}, w.inventory(t))
		require.Equal(t, []string{"module_hidden a/b"}, w.found(t))
		require.NoError(t, w.Close())
	})
}

// countedViews count how often they are read.
type countedViews struct {
	listOnlyViews
	cheap, whole, status atomic.Int64
}

func (v *countedViews) Listed(ctx context.Context) ([]kmodquery.Module, error) {
	v.cheap.Add(1)
	return v.listOnlyViews.Listed(ctx)
}

func (v *countedViews) Modules(ctx context.Context) ([]kmodquery.Module, error) {
	v.whole.Add(1)
	return v.kernel.Modules(ctx)
}

func (v *countedViews) Shown() ([]string, string) {
	v.status.Add(1)
	return v.kernel.Shown()
}

// What the views cost on an idle host, and within which time each finds a hidden module.
func TestIdleHostIsReadWholeOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel("ext4")
		v := &countedViews{listOnlyViews: listOnlyViews{k}}
		w := &watch{kernel: k, source: &trusting{staged: newStaged(kmodquery.SourceEBPF)}}
		w.Recorder, w.sink, w.said = startStaged(t, Options{Sources: []Source{w.source}, Views: v, Stamp: stampNow})
		w.source.begin <- struct{}{}
		w.advance()
		require.Equal(t, []string{"module_present ext4"}, w.found(t))
		v.cheap.Store(0)
		v.whole.Store(0)
		v.status.Store(0)
		time.Sleep(10 * time.Minute)
		require.InDelta(t, 3*10*6, v.cheap.Load(), 2, "three times in ten seconds")
		require.InDelta(t, 10, v.whole.Load(), 1)
		require.Equal(t, v.whole.Load(), v.status.Load(), "which views can be read matters for whole looks only")
		require.Empty(t, w.found(t))

		k.show("by_sysfs", kmodquery.ViewSysfs)
		time.Sleep(DefaultPoll)
		require.Equal(t, []string{"module_hidden by_sysfs"}, w.found(t))
		k.show("by_kallsyms", kmodquery.ViewKallsyms)
		time.Sleep(time.Minute + DefaultPoll)
		require.Equal(t, []string{"module_hidden by_kallsyms"}, w.found(t))
		require.NoError(t, w.Close())
	})
}

// Go's clock stands still while the machine sleeps, and the boot clock does not.
func TestASleepMakesNoHidingAnUnload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		booted := time.Now().Add(-time.Hour)
		var slept atomic.Int64 // in seconds
		stamp := func() kmodquery.Event {
			e := stampNow()
			e.Uptime = new(int64(time.Since(booted)/time.Second) + slept.Load())
			return e
		}
		k := newKernel()
		w := &watch{kernel: k, source: &trusting{staged: newStaged(kmodquery.SourceEBPF)}}
		w.Recorder, w.sink, w.said = startStaged(t, Options{Sources: []Source{w.source}, Views: k, Stamp: stamp})
		w.source.begin <- struct{}{}
		w.advance()
		for _, name := range []string{"rootkit", "dummy"} {
			e := stamp()
			e.EventName, e.Name, e.LoadID = kmodquery.EventModuleLoad, name, name
			w.source.emitting <- e
			k.load(name)
		}
		w.advance()
		require.Empty(t, w.found(t))
		slept.Store(8 * 3600)
		loaded, err := w.Loaded(t.Context())
		require.NoError(t, err)
		require.Len(t, loaded, 2)
		require.Equal(t, []string{kmodquery.ViewEvents}, loaded[0].Views)
		k.unload("rootkit")
		w.advance()
		require.Equal(t, []string{"module_hidden rootkit"}, w.found(t))
		require.NoError(t, w.Close())
	})
}

// evading are views of a module that hides from each glance, and only then.
type evading struct {
	*kernel
	name string
}

func (v evading) Absent(ctx context.Context, names []string) ([]string, error) {
	absent, err := v.kernel.Absent(ctx, names)
	if slices.Contains(names, v.name) && !slices.Contains(absent, v.name) {
		absent = append(absent, v.name)
	}
	return absent, err
}

// A module that hides in turn must not make the memory of another one pass for its own.
func TestMemoryIsNotOfAModuleThatIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		w := &watch{kernel: k, source: &trusting{staged: newStaged(kmodquery.SourceEBPF)}}
		w.Recorder, w.sink, w.said = startStaged(t, Options{Sources: []Source{w.source}, Views: evading{k, "decoy"}, Stamp: stampNow})
		w.source.begin <- struct{}{}
		w.advance()
		k.set(func() {
			k.memory = []kmodquery.Module{{Address: new(int64(-4096)), Size: new(int64(8192)), Views: []string{kmodquery.ViewVmallocinfo}}}
		})
		w.sees(kmodquery.EventModuleLoad, "decoy", "1")
		k.load("decoy")
		time.Sleep(2 * time.Minute)
		require.NoError(t, w.Sync(t.Context()))
		w.sink.mu.Lock()
		sizes := map[string]*int64{}
		for _, e := range w.sink.events {
			if e.EventName == kmodquery.EventModuleHidden {
				sizes[e.Name] = e.Size
			}
		}
		w.sink.mu.Unlock()
		require.Equal(t, map[string]*int64{"decoy": nil, "": new(int64(8192))}, sizes)
		require.NoError(t, w.Close())
	})
}

// lateGlances are views whose glances find nothing until a module was confirmed.
type lateGlances struct{ *kernel }

func (v lateGlances) Absent(ctx context.Context, names []string) ([]string, error) {
	if v.confirmations() == 0 {
		return nil, nil
	}
	return v.kernel.Absent(ctx, names)
}

// A check has found two hidden modules. While it confirms the second, a glance reports the first.
func TestAHiddenModuleIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		w := &watch{kernel: k, source: &trusting{staged: newStaged(kmodquery.SourceEBPF)}}
		w.Recorder, w.sink, w.said = startStaged(t, Options{Sources: []Source{w.source}, Views: lateGlances{k}, Stamp: stampNow})
		w.source.begin <- struct{}{}
		w.advance()
		w.sees(kmodquery.EventModuleLoad, "unlinked", "1")
		k.load("unlinked")
		w.advance()
		require.Empty(t, w.found(t))
		k.set(func() { delete(k.modules, "unlinked") })
		k.show("other", kmodquery.ViewSysfs)
		w.advance()
		require.ElementsMatch(t, []string{"module_hidden unlinked", "module_hidden other"}, w.found(t))
		require.NoError(t, w.Close())
	})
}
