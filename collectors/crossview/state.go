package crossview

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmodquery/kmodquery"
)

// maxUnloaded bounds the remembered modules that are not loaded. Beyond it the
// half that was unloaded first is forgotten.
const maxUnloaded = 4096

// A moment is when an event happened. Within a boot the boot clock decides, which
// nobody can set; it has a resolution of a second. Within a second the wall clock decides, unless it
// was set meanwhile; then the order in which the events arrived does.
type moment struct {
	uptime *int64
	nanos  int64  // Unix time; 0 never
	order  uint64 // of arrival
}

var arrived atomic.Uint64

func momentOf(e *kmodquery.Event) moment { return moment{e.Uptime, e.TimeNanos, arrived.Add(1)} }

func (m moment) isAfter(other moment) bool {
	switch {
	case m.nanos == 0 || other.nanos == 0:
		return m.nanos != 0
	case m.uptime == nil || other.uptime == nil:
		return m.nanos > other.nanos
	case *m.uptime != *other.uptime:
		return *m.uptime > *other.uptime
	case time.Duration(m.nanos-other.nanos).Abs() >= time.Second:
		return m.order > other.order
	}
	return m.nanos > other.nanos
}

// before returns how long the moment was before a later one.
func (m moment) before(later moment) time.Duration {
	if m.uptime != nil && later.uptime != nil {
		return time.Duration(*later.uptime-*m.uptime) * time.Second
	}
	return time.Duration(later.nanos - m.nanos)
}

// A State holds which modules are loaded according to the events of one boot,
// including events that wait to be stored. Its methods may be called
// concurrently.
type State struct {
	boot string // id of the boot; "" accepts events of any

	mu        sync.Mutex
	entries   map[string]*entry // by folder name
	replaying bool              // stored events are being added, in any order: nothing is forgotten
	ended     map[string]bool   // while replaying, load ids of attempts by eBPF whose module_load or failure is known
	changed   time.Time         // when a load or an unload was last added
	reported  map[string]bool   // load ids of modules that were reported as hidden, or that have another name since
}

// An entry is what the events say of the modules of one name, of which the last one that
// was loaded counts. Its moments are those of the events, which do not arrive in order.
type entry struct {
	module      kmodquery.Module
	witnessed   string // load id of the module_load of a source that sees every load
	witnessedAt moment // of that event
	history     []step // the loads and unloads of the name since horizon
	horizon     moment
	namesakes   []*entry // other loads of the name, in order, that no unload ended
	loaded      moment   // when it was last loaded
	unloaded    moment
	hidden      moment    // when it was last reported as hidden
	certain     moment    // when it was last loaded according to a source that would see it unloaded
	describedAt moment    // of the event that module's LoadID, Path, FirstSeen, Loaded and SignatureStatus come from
	describedBy authority // of that event
	shown       time.Time // views that were read after it showed the module
	address     *int64    // of the module when views last showed it; nil if it is unknown
	size        *int64
	isProven    bool      // it was absent from the kernel's list, and no loss of records explains that
	doubted     time.Time // when views first lacked it, although no unload was reported and a loss may explain that; zero if they do not
	wasReported bool      // the last module that was loaded under this name was reported by its load id

	// begun is the last event of an attempt by eBPF that has not failed, and whose
	// module_load is not known; nil if there is none. loadID is that of the last module_load.
	begun  *kmodquery.Event
	loadID string
}

// An authority is how far an event can be trusted to describe a load.
type authority int

const (
	byView  authority = iota // shows that the module is there
	byGuess                  // a source that would not see it unloaded
	bySight
)

func (e *entry) isLoaded() bool { return e.loaded.isAfter(e.unloaded) }

// isCertain reports whether a source that would see the module unloaded saw it
// loaded.
func (e *entry) isCertain() bool { return e.certain.isAfter(e.unloaded) }

// isReported reports whether the module was reported as hidden, or under another name,
// since it was loaded.
func (e *entry) isReported() bool { return e.wasReported || e.hidden.isAfter(e.loaded) }

// wasWatched reports whether a source that began to watch at since would have seen the
// module unloaded: it watched when the module was loaded, or when views showed it. What
// they show within calmTime may be a module that is being unloaded.
func (e *entry) wasWatched(since Start, now moment) bool {
	return !since.At.IsZero() && e.shown.After(since.At.Add(calmTime)) || wasWatched(since, e.loaded, now)
}

// NewState returns the state of a boot without modules; "" accepts the events of
// any boot.
func NewState(boot string) *State {
	return &State{boot: boot, entries: map[string]*entry{}, reported: map[string]bool{}}
}

// Add takes events, before they are stored.
func (s *State) Add(events ...kmodquery.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range events {
		s.add(&events[i])
	}
	if len(s.entries) > maxUnloaded && !s.replaying {
		s.forgetUnloaded()
	}
}

// SetReplaying says whether events that an earlier recorder stored are still to
// be added.
func (s *State) SetReplaying(is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replaying, s.ended = is, map[string]bool{}
}

// Stored takes what only the store knows, FirstSeen, from events that were added.
func (s *State) Stored(deliveries []kmodquery.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range deliveries {
		e := &deliveries[i].Event
		if known := s.entries[kmodquery.FolderName(e.Name)]; known != nil {
			if m := &known.load(e.LoadID).module; m.FirstSeen == nil && m.LoadID == e.LoadID {
				m.FirstSeen = e.FirstSeen
			}
		}
	}
}

func (s *State) add(e *kmodquery.Event) {
	if s.boot != "" && e.BootID != "" && e.BootID != s.boot {
		return // a log may reach back further
	}
	if e.Name == "" {
		return // an event of nameless memory identifies no module
	}
	switch e.EventName {
	case kmodquery.EventModuleLoad, kmodquery.EventModulePresent, kmodquery.EventModuleUnwitnessed:
		if FromViews(e) && e.ParentLoadID != "" {
			s.rename(e.ParentLoadID, momentOf(e))
		}
		failed := e.Result != nil && *e.Result != 0
		if !failed {
			s.setLoaded(e, e.Source == kmodquery.SourceEBPF || FromViews(e))
			known := s.of(e.Name)
			known.begun, known.loadID = nil, e.LoadID
		}
		s.end(e.LoadID)
	case kmodquery.EventSecurityKernelReadFile, kmodquery.EventSecurityKernelLoadData:
		s.setBegun(e)
	case kmodquery.EventInitModule, kmodquery.EventFinitModule:
		// Audit knows of a load only from the system call's result.
		if e.Source == kmodquery.SourceAudit && e.Result != nil && *e.Result == 0 {
			s.setLoaded(e, true)
		}
		s.setBegun(e)
	case kmodquery.EventModuleFree:
		s.setUnloaded(e)
	case kmodquery.EventDeleteModule:
		// That of eBPF has the moment of the return; its module_free is exact.
		if e.Source != kmodquery.SourceEBPF && e.Result != nil && *e.Result == 0 {
			s.setUnloaded(e)
		}
	case kmodquery.EventKextload, kmodquery.EventKextunload:
		// Endpoint Security reports requests and not whether they succeed.
		if e.Source == kmodquery.SourceEndpointSecurity || e.Result != nil && *e.Result != 0 {
			return
		}
		if e.EventName == kmodquery.EventKextload {
			s.setLoaded(e, true)
		} else {
			s.setUnloaded(e)
		}
	case kmodquery.EventModuleHidden:
		known := s.of(e.Name).load(e.LoadID)
		if e.LoadID != "" {
			s.report(e.LoadID)
		}
		if now := momentOf(e); now.isAfter(known.hidden) && (e.LoadID == "" || e.LoadID == known.module.LoadID) {
			known.hidden, known.isProven = now, !s.replaying
		}
	}
}

// setBegun takes an event of an attempt by eBPF. Its time may be after that of an unload: a
// call returns when its module can already be unloaded. So nothing is taken of an attempt
// whose module_load is known. A refused load leaves no entry, so that it displaces none.
func (s *State) setBegun(e *kmodquery.Event) {
	if e.Source != kmodquery.SourceEBPF || e.Type != kmodquery.TypeKernelModule {
		return
	}
	if e.Result == nil || *e.Result == 0 {
		known := s.of(e.Name)
		isLater := known.begun == nil || !momentOf(known.begun).isAfter(momentOf(e))
		if known.loadID != e.LoadID && isLater && !s.ended[e.LoadID] {
			known.begun = new(*e)
		}
		return
	}
	s.end(e.LoadID)
	name := kmodquery.FolderName(e.Name)
	known := s.entries[name]
	if known == nil || known.begun == nil || known.begun.LoadID != e.LoadID {
		return
	}
	if known.begun = nil; known.loaded.nanos == 0 && known.unloaded.nanos == 0 && known.hidden.nanos == 0 {
		delete(s.entries, name)
	}
}

// end notes that the module_load of an attempt, or its failure, is known: stored events come in any order.
func (s *State) end(loadID string) {
	if !s.replaying || loadID == "" {
		return
	}
	if len(s.ended) >= maxUnloaded {
		clear(s.ended)
	}
	s.ended[loadID] = true
}

// adopt makes a module that views show a loaded one if eBPF reported its load, except its
// module_load. It reports whether it did.
func (s *State) adopt(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.entries[kmodquery.FolderName(name)]
	if known == nil || known.begun == nil || !momentOf(known.begun).isAfter(known.unloaded) {
		return false
	}
	s.setLoaded(known.begun, true)
	known.begun, known.loadID = nil, known.begun.LoadID
	return true
}

func (s *State) report(loadID string) {
	if len(s.reported) >= maxUnloaded {
		clear(s.reported)
	}
	s.reported[loadID] = true
}

// rename notes that the module of a load has another name since, so that none of its
// former name is loaded.
func (s *State) rename(loadID string, now moment) {
	s.report(loadID)
	for _, known := range s.entries {
		if other := known.load(loadID); other != known {
			known.end(other)
		} else if known.module.LoadID == loadID {
			known.wasReported = true
			known.addUnload(&kmodquery.Event{LoadID: loadID, Uptime: now.uptime, TimeNanos: now.nanos})
			known.unload(now)
		}
	}
}

func (s *State) of(name string) *entry {
	key := kmodquery.FolderName(name)
	known := s.entries[key]
	if known == nil {
		known = &entry{module: kmodquery.Module{Name: name, Views: []string{kmodquery.ViewEvents}}}
		s.entries[key] = known
	}
	if known.module.Name == key {
		known.module.Name = name // the folder's name may lack slashes
	}
	return known
}

func (s *State) setLoaded(e *kmodquery.Event, certain bool) {
	s.changed = time.Now()
	known, now := s.of(e.Name), momentOf(e)
	if e.Source == kmodquery.SourceEBPF && e.LoadID != "" && !known.addLoad(e, s.reported[e.LoadID]) {
		return
	}
	if now.isAfter(known.loaded) {
		known.loaded, known.wasReported = now, s.reported[e.LoadID]
		known.isProven, known.doubted = false, time.Time{}
	}
	if certain && now.isAfter(known.certain) {
		known.certain = now
	}
	if now.isAfter(known.unloaded) {
		by := byGuess
		switch {
		case FromViews(e):
			by = byView
		case certain:
			by = bySight
		}
		known.describe(e, now, by)
	}
}

// moreOf returns the first of two verdicts on a signature, unless only the other one says
// something.
func moreOf(a, b string) string {
	if a == "" || a == kmodquery.SignatureUnknown {
		return cmp.Or(b, a)
	}
	return a
}

// describe takes LoadID, Path, FirstSeen, Loaded and SignatureStatus from an event if it is about the last
// load and of higher authority than the event before. Views only add to that.
func (known *entry) describe(e *kmodquery.Event, now moment, by authority) {
	m := &known.module
	isStale, isLater := !known.describedAt.isAfter(known.unloaded), now.isAfter(known.describedAt)
	isSame := e.LoadID == m.LoadID
	switch {
	case isStale || isLater && !isSame && by >= known.describedBy && by != byView: // another load
		known.describedAt, known.describedBy = now, by
		m.LoadID, m.Path, m.FirstSeen, m.Loaded = e.LoadID, e.Path, e.FirstSeen, e.LoadedImage()
		m.SignatureStatus = e.SignatureStatus
	case by > known.describedBy:
		known.describedAt, known.describedBy = now, by
		m.LoadID, m.FirstSeen = e.LoadID, cmp.Or(e.FirstSeen, m.FirstSeen)
		m.SignatureStatus = moreOf(e.SignatureStatus, m.SignatureStatus)
		if image := e.LoadedImage(); image != nil {
			m.Path, m.Loaded = e.Path, image
		}
	case isSame || isLater && by == byView:
		m.FirstSeen = cmp.Or(m.FirstSeen, e.FirstSeen)
		m.SignatureStatus = moreOf(m.SignatureStatus, e.SignatureStatus)
		if image := e.LoadedImage(); m.Loaded == nil || image.IsComparable() && !m.Loaded.IsComparable() {
			m.Path, m.Loaded = e.Path, image
		}
	}
}

func (s *State) setUnloaded(e *kmodquery.Event) {
	s.changed = time.Now()
	known, now := s.of(e.Name), momentOf(e)
	if known.addUnload(e) {
		known.unload(now)
	}
}

func (known *entry) unload(now moment) {
	if now.isAfter(known.unloaded) {
		known.unloaded = now
	}
	if !known.describedAt.isAfter(known.unloaded) {
		m := &known.module
		m.LoadID, m.Path, m.FirstSeen, m.Loaded, m.SignatureStatus = "", "", nil, nil, ""
	}
}

// forgetUnloaded applies maxUnloaded.
func (s *State) forgetUnloaded() {
	var unloaded []int64
	for _, known := range s.entries {
		if !known.isLoaded() {
			unloaded = append(unloaded, known.unloaded.nanos)
		}
	}
	if len(unloaded) <= maxUnloaded {
		return
	}
	slices.Sort(unloaded)
	limit := unloaded[len(unloaded)/2]
	for name, known := range s.entries {
		if !known.isLoaded() && len(known.namesakes) == 0 && known.unloaded.nanos <= limit {
			delete(s.entries, name)
		}
	}
}

// Loaded returns the loaded modules, in the order of their names: of one name, the one that
// the kernel's list may show comes first, and the others hide. Their Views are
// [kmodquery.ViewEvents] if complete sources that have watched since then would
// have seen the module unloaded, and nil otherwise. now holds the present moment.
func (s *State) Loaded(since Start, now *kmodquery.Event) []kmodquery.Module {
	var modules []kmodquery.Module
	add := func(known entry) {
		if !known.isProven && !known.wasWatched(since, momentOf(now)) {
			known.module.Views = nil
		}
		modules = append(modules, known.module)
	}
	for _, known := range s.certain() {
		add(known)
	}
	for _, known := range s.namesakes() {
		add(known)
	}
	slices.SortStableFunc(modules, func(a, b kmodquery.Module) int { return strings.Compare(a.Name, b.Name) })
	return modules
}

// changedSince reports whether a load or an unload was added since then.
func (s *State) changedSince(then time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.changed.Before(then)
}

// get returns what the events say of the modules of a name, and load what they say of one
// load of it.
func (s *State) get(name string) entry { return s.load(name, "") }

func (s *State) load(name, id string) entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.entries[kmodquery.FolderName(name)]; known != nil {
		return *known.load(id)
	}
	return entry{}
}

// certain returns the loaded modules that are certain, by folder name.
func (s *State) certain() map[string]entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := map[string]entry{}
	for name, known := range s.entries {
		if known.isLoaded() && known.isCertain() {
			list[name] = *known
		}
	}
	return list
}

// confirm makes a loaded module certain, because the kernel's list that was read after a
// time shows it.
func (s *State) confirm(m *kmodquery.Module, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.entries[kmodquery.FolderName(m.Name)]
	if known == nil {
		return
	}
	known.certain, known.shown = known.loaded, at
	known.isProven, known.doubted = false, time.Time{}
	if m.Size != nil {
		known.address, known.size = m.Address, m.Size
	}
}

// prove notes that a loaded module was absent from the kernel's list, and that no loss of
// records explains it. Later losses do not explain it either.
func (s *State) prove(name, loadID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.entries[kmodquery.FolderName(name)]; known != nil {
		known.load(loadID).isProven = true
	}
}

// doubt returns for how long views have lacked a loaded module of which an unload may be
// among lost records.
func (s *State) doubt(name, loadID string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.of(name).load(loadID)
	if known.doubted.IsZero() {
		known.doubted = time.Now()
	}
	return time.Since(known.doubted)
}

// lacks reports whether a loaded module that was not reported as hidden is not
// among those shown.
func (s *State) lacks(shown map[string]bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, known := range s.entries {
		if known.isLoaded() && !known.isReported() && !shown[name] {
			return true
		}
	}
	return false
}

// dropUncertain marks modules as unloaded that are not certain, were loaded before
// the views were read, and are not shown: the kernel refused them after all, or no
// source saw them unloaded.
func (s *State) dropUncertain(shown map[string]bool, seen moment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, known := range s.entries {
		if known.isLoaded() && !known.isCertain() && !shown[name] && seen.isAfter(known.loaded) {
			known.unloaded = seen
		}
	}
}
