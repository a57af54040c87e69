package crossview

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
)

// The events of an attempt wait until its image was read, so those of a later one may
// come first.
func TestStateIsOrderedByTimeOfEvents(t *testing.T) {
	load := func(id, path string, at int64) kmodquery.Event {
		return kmodquery.Event{Source: "ebpf", EventName: kmodquery.EventModuleLoad, Name: "m", LoadID: id, Path: path, TimeNanos: at}
	}
	free := func(at int64) kmodquery.Event {
		return kmodquery.Event{Source: "ebpf", EventName: kmodquery.EventModuleFree, Name: "m", TimeNanos: at}
	}
	for _, test := range []struct {
		name   string
		events []kmodquery.Event
		want   string // load_id and path, or ""
	}{
		{"loaded", []kmodquery.Event{load("1", "/a", 1)}, "1 /a"},
		{"unloaded", []kmodquery.Event{load("1", "/a", 1), free(2)}, ""},
		{"unloaded, out of order", []kmodquery.Event{free(2), load("1", "/a", 1)}, ""},
		{"again", []kmodquery.Event{load("1", "/a", 1), free(2), load("2", "/b", 3)}, "2 /b"},
		{"again, newest first", []kmodquery.Event{load("2", "", 3), free(2), load("1", "/a", 1)}, "2 "},
		{"again, mixed", []kmodquery.Event{free(2), load("2", "/b", 3), load("1", "/a", 1)}, "2 /b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := NewState("")
			s.Add(test.events...)
			got := ""
			for _, at := range s.certain() {
				got += at.module.LoadID + " " + at.module.Path
			}
			require.Equal(t, test.want, got)
		})
	}
}

func TestStateTrustsEachSourceAsFarAsItSees(t *testing.T) {
	s := NewState("")
	s.Add(
		kmodquery.Event{Source: "audit", EventName: kmodquery.EventFinitModule, Name: "audited", Result: new(int64(0)), TimeNanos: 1},
		kmodquery.Event{Source: "audit", EventName: kmodquery.EventFinitModule, Name: "refused", Result: new(int64(-1)), TimeNanos: 1},
		kmodquery.Event{Source: "ebpf", EventName: kmodquery.EventFinitModule, Name: "returned", Result: new(int64(0)), TimeNanos: 1},
		kmodquery.Event{Source: "kmsg", EventName: kmodquery.EventModuleLoad, Name: "tainting", TimeNanos: 1},
		kmodquery.Event{Source: "kmsg", EventName: kmodquery.EventModuleLoad, Name: "broken", Result: new(int64(-8)), TimeNanos: 1},
		kmodquery.Event{Source: "ebpf", EventName: kmodquery.EventModuleLoad, TimeNanos: 1},
	)
	var names []string
	for name := range s.certain() {
		names = append(names, name)
	}
	require.Equal(t, []string{"audited"}, names, "the kernel may still have refused the other one")
	at := s.get("tainting")
	require.True(t, at.isLoaded())
	s.Add(kmodquery.Event{Source: "audit", EventName: kmodquery.EventDeleteModule, Name: "audited", Result: new(int64(0)), TimeNanos: 2})
	require.Empty(t, s.certain())
}

// What the kernel read identifies the module's file. Whichever event of an attempt comes first,
// the state has the one that can be compared with a file.
func TestStateHasWhatWasLoaded(t *testing.T) {
	n := int64(7)
	ebpf := kmodquery.Event{
		Source: "ebpf", EventName: kmodquery.EventModuleLoad, Name: "m", LoadID: "1", Path: "/a.ko", Origin: kmodquery.OriginFile, TimeNanos: 1,
		Device: &n, Inode: &n, Size: &n, Ctime: &n, SHA256: "s", ImageSHA256: "i", Signer: "x",
		SignatureStatus: kmodquery.SignatureUntrusted,
	}
	audit := kmodquery.Event{
		Source: "audit", EventName: kmodquery.EventFinitModule, Name: "m", LoadID: "1", Path: "/a.ko", Result: new(int64(0)), TimeNanos: 1,
		Missing: "sha256,signer", SignatureStatus: kmodquery.SignatureUnknown,
	}
	view := kmodquery.Event{Source: "procfs", EventName: kmodquery.EventModulePresent, Name: "m", LoadID: "1", TimeNanos: 2}
	want := &kmodquery.LoadedImage{File: &kmodquery.FileID{Device: 7, Inode: 7, Size: 7, Ctime: 7}, ImageSHA256: "i", Signer: new("x")}
	for _, events := range [][]kmodquery.Event{{ebpf, audit, view}, {audit, ebpf, view}, {view, audit, ebpf}, {ebpf}} {
		s := NewState("")
		s.Add(events...)
		require.Equal(t, want, s.get("m").module.Loaded)
		require.Equal(t, "/a.ko", s.get("m").module.Path)
		joined := kmodquery.JoinModules([]kmodquery.Module{{Name: "m"}}, s.Loaded(Start{}, &view))[0]
		require.Equal(t, want, joined.Loaded)
		require.Equal(t, kmodquery.SignatureUntrusted, joined.SignatureStatus)
		s.Add(kmodquery.Event{Source: "ebpf", EventName: kmodquery.EventModuleFree, Name: "m", TimeNanos: 3})
		require.Nil(t, s.get("m").module.Loaded)
		require.Empty(t, s.get("m").module.SignatureStatus, "another module may have the name now")
	}

	unread := ebpf
	unread.SHA256, unread.ImageSHA256, unread.Signer, unread.Missing = "", "", "", "sha256,image_sha256,signer"
	for _, test := range []struct {
		event kmodquery.Event
		want  *kmodquery.LoadedImage
	}{
		{unread, &kmodquery.LoadedImage{File: want.File}},
		{audit, &kmodquery.LoadedImage{}},
		{view, nil},
	} {
		s := NewState("")
		s.Add(test.event)
		require.Equal(t, test.want, s.get("m").module.Loaded)
	}
}

func TestStateOfKexts(t *testing.T) {
	s := NewState("")
	add := func(source, eventName string, result, at int64) {
		s.Add(kmodquery.Event{Source: source, EventName: eventName, Name: "com.a", LoadID: fmt.Sprint(at), Result: &result, TimeNanos: at})
	}
	add(kmodquery.SourceEndpointSecurity, kmodquery.EventKextload, 0, 1)
	add(kmodquery.SourceUnifiedLog, kmodquery.EventKextAllowed, 0, 2)
	add(kmodquery.SourceUnifiedLog, kmodquery.EventKextload, -5, 3)
	require.Empty(t, s.certain(), "a request and a failure do not prove a load")
	add(kmodquery.SourceUnifiedLog, kmodquery.EventKextload, 0, 4)
	require.Equal(t, "4", s.certain()["com.a"].module.LoadID)
	add(kmodquery.SourceEndpointSecurity, kmodquery.EventKextunload, 0, 5)
	add(kmodquery.SourceUnifiedLog, kmodquery.EventKextunload, -1, 6)
	require.Len(t, s.certain(), 1, "a request and a failure do not prove an unload")
	add(kmodquery.SourceUnifiedLog, kmodquery.EventKextunload, 0, 7)
	require.Empty(t, s.certain())
}

func TestStateIsBounded(t *testing.T) {
	s := NewState("")
	for i := range 3 * maxUnloaded {
		name := fmt.Sprint("m", i)
		s.Add(
			kmodquery.Event{Source: "ebpf", EventName: kmodquery.EventModuleLoad, Name: name, TimeNanos: int64(2 * i)},
			kmodquery.Event{Source: "ebpf", EventName: kmodquery.EventModuleFree, Name: name, TimeNanos: int64(2*i + 1)},
		)
	}
	require.LessOrEqual(t, len(s.entries), maxUnloaded+1)
	require.NotZero(t, s.get(fmt.Sprint("m", 3*maxUnloaded-1)).unloaded.nanos, "the latest are remembered")
}

// Refused loads of many names displace nothing that is known of others.
func TestRefusedLoadsAreNotRemembered(t *testing.T) {
	s := NewState("")
	for i := range maxUnloaded - 1 {
		s.Add(kmodquery.Event{EventName: kmodquery.EventModuleFree, Name: fmt.Sprint("m", i), TimeNanos: int64(i + 1)})
	}
	event := func(name, of, id string, result *int64) kmodquery.Event {
		return kmodquery.Event{
			Source: kmodquery.SourceEBPF, EventName: name, Type: kmodquery.TypeKernelModule, Name: of, LoadID: id, Result: result, TimeNanos: 1 << 40,
		}
	}
	hidden := event(kmodquery.EventModuleHidden, "hidden", "", nil)
	s.Add(hidden)
	for i := range maxUnloaded {
		id := fmt.Sprint(i)
		s.Add(event(kmodquery.EventFinitModule, "refused"+id, id, new(int64(-8))))
		s.Add(event(kmodquery.EventSecurityKernelReadFile, "later"+id, "l"+id, nil), event(kmodquery.EventFinitModule, "later"+id, "l"+id, new(int64(-8))))
	}
	s.Add(event(kmodquery.EventSecurityKernelReadFile, "hidden", "h", nil), event(kmodquery.EventFinitModule, "hidden", "h", new(int64(-8))))
	count := len(s.entries) // require.Len would print them
	require.Equal(t, maxUnloaded, count)
	require.NotZero(t, s.get("m0").unloaded.nanos)
	require.NotZero(t, s.get("hidden").hidden.nanos)
}

// Stored events are replayed in any order: an unload may come before its load.
func TestStateForgetsNothingWhileReplaying(t *testing.T) {
	s := NewState("")
	s.SetReplaying(true)
	for i := range maxUnloaded + 1 {
		s.Add(kmodquery.Event{EventName: kmodquery.EventModuleFree, Name: fmt.Sprint(i), TimeNanos: int64(i + 100)})
	}
	other := kmodquery.Event{EventName: kmodquery.EventModuleFree, Name: "other", TimeNanos: 1 << 40}
	s.Add(other)
	for i := range maxUnloaded + 1 {
		s.Add(kmodquery.Event{EventName: kmodquery.EventModuleLoad, Source: kmodquery.SourceEBPF, Name: fmt.Sprint(i), TimeNanos: int64(i + 1)})
	}
	require.Empty(t, s.certain())
	s.SetReplaying(false)
	s.Add(other)
	require.LessOrEqual(t, len(s.entries), maxUnloaded)
	require.Empty(t, s.certain())
}

// Stored events and new ones come in any order.
func TestStateDoesNotDependOnOrder(t *testing.T) {
	event := func(name, id, path string, at int64) kmodquery.Event {
		return kmodquery.Event{Source: kmodquery.SourceEBPF, EventName: name, Name: "m", LoadID: id, Path: path, TimeNanos: at}
	}
	first := event(kmodquery.EventModuleLoad, "1", "/first.ko", 10)
	free := event(kmodquery.EventModuleFree, "2", "", 12)
	fromMemory := event(kmodquery.EventModuleLoad, "3", "", 20)
	guess := event(kmodquery.EventModuleLoad, "4", "", 21)
	guess.Source = kmodquery.SourceJournal
	present := event(kmodquery.EventModulePresent, "5", "", 30)
	present.Source = kmodquery.SourceProcfs
	last := event(kmodquery.EventModuleFree, "6", "", 40)
	for _, test := range []struct {
		name      string
		events    []kmodquery.Event
		id, path  string
		isCertain bool
	}{
		{"loaded again", []kmodquery.Event{first, free, fromMemory}, "3", "", true},
		{"loaded again without an unload", []kmodquery.Event{first, fromMemory}, "3", "", true},
		{"reported by several sources", []kmodquery.Event{fromMemory, guess, present}, "3", "", true},
		{"shown later", []kmodquery.Event{first, present}, "1", "/first.ko", true},
		{"all but the end", []kmodquery.Event{first, free, fromMemory, guess, present}, "3", "", true},
		{"unloaded", []kmodquery.Event{first, free, fromMemory, present, last}, "", "", false},
	} {
		permute(test.events, 0, func() {
			s := NewState("")
			for _, e := range test.events {
				s.Add(e)
			}
			at := s.get("m")
			require.Equal(t, test.id != "", at.isLoaded(), "%s: %v", test.name, test.events)
			require.Equal(t, test.isCertain, at.isCertain(), "%s: %v", test.name, test.events)
			if at.isLoaded() {
				require.Equal(t, test.id, at.module.LoadID, "%s: %v", test.name, test.events)
				require.Equal(t, test.path, at.module.Path, "%s: %v", test.name, test.events)
			}
		})
	}
}

// What is known of a load that is over does not describe the next one.
func TestStateForgetsLoadThatIsOver(t *testing.T) {
	event := func(name, source, id string, at int64) kmodquery.Event {
		return kmodquery.Event{Source: source, EventName: name, Name: "m", LoadID: id, Path: "/" + id, TimeNanos: at}
	}
	s := NewState("")
	s.Add(event(kmodquery.EventModuleLoad, kmodquery.SourceEBPF, "1", 10), event(kmodquery.EventModuleLoad, kmodquery.SourceJournal, "2", 20))
	s.Add(event(kmodquery.EventModuleFree, kmodquery.SourceEBPF, "3", 12))
	at := s.get("m")
	require.True(t, at.isLoaded())
	require.False(t, at.isCertain())
	require.Empty(t, at.module.LoadID+at.module.Path)
}

// permute calls f with the list in every order.
func permute[T any](list []T, from int, f func()) {
	if from == len(list) {
		f()
	}
	for i := from; i < len(list); i++ {
		list[from], list[i] = list[i], list[from]
		permute(list, from+1, f)
		list[from], list[i] = list[i], list[from]
	}
}

// A clock that is set back between a load and an unload of the same second makes no module loaded.
func TestStateKeepsOrderWhenTheClockIsSet(t *testing.T) {
	for _, test := range []struct {
		name                 string
		loadedAt, unloadedAt time.Duration
		isLoaded             bool
	}{
		{"not set", 0, 300 * time.Millisecond, false},
		{"set back", time.Hour, 0, false},
		{"set forward", 0, time.Hour, false},
		{"events of another source come late", 300 * time.Millisecond, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			event := func(name string, at time.Duration) kmodquery.Event {
				return kmodquery.Event{
					Source: kmodquery.SourceEBPF, EventName: name, Name: "m",
					Uptime: new(int64(7)), TimeNanos: time.Now().Add(at).UnixNano(),
				}
			}
			s := NewState("")
			s.Add(event(kmodquery.EventModuleLoad, test.loadedAt), event(kmodquery.EventModuleFree, test.unloadedAt))
			require.Equal(t, test.isLoaded, s.of("m").isLoaded())
		})
	}
}

// Stored events come in any order: an attempt that failed, or whose module_load is known, explains no
// module that views show later.
func TestReplayedAttemptsThatEndedExplainNoModule(t *testing.T) {
	event := func(name, id string, result *int64, at int64) kmodquery.Event {
		return kmodquery.Event{
			Source: kmodquery.SourceEBPF, EventName: name, Type: kmodquery.TypeKernelModule, Name: "m", LoadID: id,
			Result: result, TimeNanos: at * int64(time.Second),
		}
	}
	refused := []kmodquery.Event{
		event(kmodquery.EventFinitModule, "a", new(int64(-17)), 2), event(kmodquery.EventSecurityKernelReadFile, "a", nil, 1),
	}
	loaded := []kmodquery.Event{
		event(kmodquery.EventModuleLoad, "b", nil, 4), event(kmodquery.EventModuleLoad, "a", nil, 2), event(kmodquery.EventSecurityKernelReadFile, "b", nil, 3),
	}
	underWay := []kmodquery.Event{
		event(kmodquery.EventSecurityKernelReadFile, "b", nil, 3), event(kmodquery.EventFinitModule, "a", new(int64(-17)), 2),
		event(kmodquery.EventSecurityKernelReadFile, "a", nil, 1),
	}
	later := []kmodquery.Event{
		event(kmodquery.EventSecurityKernelReadFile, "b", nil, 3), event(kmodquery.EventSecurityKernelReadFile, "a", nil, 1),
	}
	for _, test := range []struct {
		name   string
		events []kmodquery.Event
		want   string
	}{
		{"refused", refused, ""}, {"loaded", loaded, ""}, {"one is under way", underWay, "b"}, {"the last one explains it", later, "b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := NewState("")
			s.SetReplaying(true)
			s.Add(test.events...)
			s.SetReplaying(false)
			isKnown := s.adopt("m")
			require.Equal(t, test.want != "", isKnown)
			if isKnown {
				require.Equal(t, test.want, s.of("m").module.LoadID)
			}
		})
	}
}

// The boot clock decides: Go's stands still while the machine sleeps.
func TestWasWatched(t *testing.T) {
	at := func(uptime int64) moment { return moment{uptime: &uptime, nanos: uptime + 1} }
	since := Start{At: time.Now().Add(-time.Minute), Uptime: new(int64(1000))}
	require.True(t, wasWatched(since, at(1000), at(90000)), "the machine slept")
	require.False(t, wasWatched(since, at(999), at(1060)))
	require.False(t, wasWatched(Start{}, at(1000), at(1060)))
	since.Uptime = nil
	require.True(t, wasWatched(since, at(1001), at(1060)))
	require.False(t, wasWatched(since, at(999), at(1060)))
}

// The kernel refuses a name that is taken: two loads without an unload between are two
// modules, of which the first hides.
func TestStateKeepsLoadsOfOneName(t *testing.T) {
	event := func(name, id string, at int64) kmodquery.Event {
		return kmodquery.Event{
			Source: kmodquery.SourceEBPF, EventName: name, Name: "m", LoadID: id, Path: "/" + id, Srcversion: "src" + id,
			TimeNanos: at * int64(time.Second),
		}
	}
	load := func(id string, at int64) kmodquery.Event { return event(kmodquery.EventModuleLoad, id, at) }
	free := func(at int64) kmodquery.Event {
		e := event(kmodquery.EventModuleFree, fmt.Sprint("free", at), at)
		e.Srcversion = ""
		return e
	}
	present := event(kmodquery.EventModulePresent, "view", 9)
	present.Source = kmodquery.SourceProcfs
	hidden := event(kmodquery.EventModuleHidden, "1", 7)
	hidden.Source = kmodquery.SourceProcfs
	freeOf := func(e kmodquery.Event, srcversion string) kmodquery.Event { e.Srcversion = srcversion; return e }
	byViews := free(6)
	byViews.Source, byViews.ParentLoadID = kmodquery.SourceProcfs, "1"
	audited := free(5) // the correlator gives it the same load_id
	audited.Source, audited.EventName, audited.Result = kmodquery.SourceAudit, kmodquery.EventDeleteModule, new(int64(0))
	for _, test := range []struct {
		name      string
		events    []kmodquery.Event
		last      string // load_id, or "" if it was unloaded
		namesakes []string
	}{
		{"one load", []kmodquery.Event{load("1", 1), present}, "1", nil},
		{"an unload between", []kmodquery.Event{load("1", 1), free(2), load("2", 3), present}, "2", nil},
		{"no unload between", []kmodquery.Event{load("1", 1), load("2", 3), present}, "2", []string{"1"}},
		{"the hidden one was reported", []kmodquery.Event{load("1", 1), load("2", 3), hidden}, "2", []string{"1 reported"}},
		{"three", []kmodquery.Event{load("1", 1), load("2", 3), load("3", 5)}, "3", []string{"1", "2"}},
		{"three and an unload", []kmodquery.Event{load("1", 1), load("2", 3), free(4), load("3", 5)}, "3", []string{"1"}},
		{"the listed one is unloaded", []kmodquery.Event{load("1", 1), load("2", 3), free(5)}, "", []string{"1"}},
		{"the other one is unloaded", []kmodquery.Event{load("1", 1), load("2", 3), freeOf(free(5), "src1")}, "2", nil},
		{"both are unloaded", []kmodquery.Event{load("1", 1), load("2", 3), free(5), free(6)}, "", nil},
		{"audit reports the same unload", []kmodquery.Event{load("1", 1), load("2", 3), free(5), audited}, "", []string{"1"}},
		{"views report the end of the first", []kmodquery.Event{load("1", 1), load("2", 3), byViews}, "2", nil},
	} {
		permute(test.events, 0, func() {
			s := NewState("")
			s.Add(test.events...)
			last := s.get("m")
			require.Equal(t, test.last != "", last.isLoaded(), "%s: %v", test.name, test.events)
			if test.last != "" {
				require.Equal(t, test.last+" /"+test.last, last.module.LoadID+" "+last.module.Path, test.name)
				require.False(t, last.isReported(), test.name)
			}
			var ids []string
			for _, n := range s.namesakes() {
				require.Equal(t, "m /"+n.module.LoadID, n.module.Name+" "+n.module.Path, test.name)
				id := n.module.LoadID
				if n.isReported() {
					id += " reported"
				}
				ids = append(ids, id)
			}
			require.ElementsMatch(t, test.namesakes, ids, "%s: %v", test.name, test.events)
		})
	}

	s := NewState("")
	former, again := load("1", 1), load("1b", 1)
	former.Pid, former.Tid, again.Pid, again.Tid = new(int64(7)), new(int64(8)), new(int64(7)), new(int64(8))
	again.TimeNanos, again.Srcversion = again.TimeNanos+1000, "src1"
	s.Add(former, again)
	require.Len(t, s.namesakes(), 1, "a thread loads one image twice, and the first module hides at once")
	again.Missing.Add("path") // it is too long
	s = NewState("")
	s.Add(former, again)
	require.Len(t, s.namesakes(), 1)
	again.Missing.Add("origin")
	for _, events := range [][]kmodquery.Event{{former, again}, {again, former}} {
		s = NewState("")
		s.Add(events...)
		require.Empty(t, s.namesakes(), "two sets of programs report one load, of which one did not see its beginning")
	}
	again.Tid = new(int64(9))
	s = NewState("")
	s.Add(former, again)
	require.Len(t, s.namesakes(), 1)
	s = NewState("")
	s.Add(load("1", 1))
	for i := range 3 * maxNamesakes {
		s.Add(load(fmt.Sprint("n", i), int64(10+i)))
	}
	require.Len(t, s.namesakes(), maxNamesakes-1)

	// However often an honest module is loaded and unloaded, the hidden one is not forgotten.
	events := []kmodquery.Event{load("hidden", 1)}
	for i := range 3 * maxNamesakes {
		events = append(events, load(fmt.Sprint("n", i), int64(10+2*i)), free(int64(11+2*i)))
	}
	s = NewState("")
	s.Add(events...)
	require.Len(t, s.namesakes(), 1)
	require.LessOrEqual(t, len(s.get("m").history), maxNamesakes)
	slices.Reverse(events) // as they are replayed
	s = NewState("")
	s.Add(events[:len(events)-1]...)
	require.Empty(t, s.namesakes())
	require.LessOrEqual(t, len(s.get("m").history), maxNamesakes)
}

// The address says which of two loads the kernel's list shows.
func TestStateIdentifiesTheListedLoad(t *testing.T) {
	const first, second = 4096, 8192
	for _, test := range []struct {
		name      string
		seen      [2]int64 // where each load was listed; 0 if it was not
		now       int64
		last      string
		namesakes []string
	}{
		{"the first is at its address", [2]int64{first, second}, first, "1", []string{"2"}},
		{"the second is at its address", [2]int64{first, second}, second, "2", []string{"1"}},
		{"the first was unloaded unseen", [2]int64{first, 0}, first, "2", nil},
		{"another address", [2]int64{first, 0}, second, "2", []string{"1"}},
		{"unknown", [2]int64{0, 0}, first, "2", []string{"1"}},
	} {
		s := NewState("")
		for i, at := range test.seen {
			id := fmt.Sprint(i + 1)
			s.Add(kmodquery.Event{Source: kmodquery.SourceEBPF, EventName: kmodquery.EventModuleLoad, Name: "m", LoadID: id, TimeNanos: int64(i+1) * int64(time.Second)})
			if at != 0 {
				s.confirm(&kmodquery.Module{Name: "m", Address: &at, Size: new(int64(4096))}, time.Now())
			}
		}
		s.identify(&kmodquery.Module{Name: "m", Address: &test.now, Views: []string{kmodquery.ViewModules}})
		require.Equal(t, test.last, s.get("m").module.LoadID, test.name)
		var ids []string
		for _, n := range s.namesakes() {
			ids = append(ids, n.module.LoadID)
		}
		require.Equal(t, test.namesakes, ids, test.name)
	}
}

// Of two loads of one name the last was unloaded, and the first hides. The list then shows a
// load that no hook saw.
func TestStateIdentifiesAHiddenLoadByItsAddressOnly(t *testing.T) {
	const first, other = 4096, 8192
	for _, test := range []struct {
		name      string
		seen, now *int64
		last      string
	}{
		{"it is at its address", new(int64(first)), new(int64(first)), "1"},
		{"another address", new(int64(first)), new(int64(other)), ""},
		{"it was never listed", nil, new(int64(other)), "1"},
		{"no addresses are shown", new(int64(first)), nil, "1"},
	} {
		s := NewState("")
		load := func(id string, at int64) kmodquery.Event {
			return kmodquery.Event{Source: kmodquery.SourceEBPF, EventName: kmodquery.EventModuleLoad, Name: "m", LoadID: id, TimeNanos: at * int64(time.Second)}
		}
		free := load("free", 3)
		free.EventName = kmodquery.EventModuleFree
		s.Add(load("1", 1))
		if test.seen != nil {
			s.confirm(&kmodquery.Module{Name: "m", Address: test.seen, Size: new(int64(4096))}, time.Now())
		}
		s.Add(load("2", 2), free)
		known := s.entries["m"]
		known.horizon = moment{nanos: 1}
		known.begun, known.loadID = &kmodquery.Event{LoadID: "4"}, "3"
		s.identify(&kmodquery.Module{Name: "m", Address: test.now, Views: []string{kmodquery.ViewModules}})
		at := s.get("m")
		require.Equal(t, test.last, at.module.LoadID, test.name)
		require.Equal(t, test.last != "", at.isLoaded(), test.name)
		require.Equal(t, test.last == "", len(s.namesakes()) == 1, test.name)
		require.Equal(t, moment{nanos: 1}, at.horizon, test.name)
		require.NotNil(t, at.begun, test.name)
		require.Equal(t, "3", at.loadID, test.name)
	}
}
