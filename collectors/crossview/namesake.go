package crossview

import (
	"slices"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// maxSteps bounds the remembered loads and unloads of one name, without the loads that no
	// unload ended, and maxNamesakes all of them. The oldest are forgotten.
	maxSteps     = 16
	maxNamesakes = 64
	// repeatTime is how far apart two sets of programs report one load at most, of which one
	// was attached in the midst of it.
	repeatTime = 10 * time.Millisecond
)

// A step is a load or an unload of a name. The kernel refuses to load a name that its list
// has. So if there are two loads without an unload between them, the first module hides.
type step struct {
	at         moment
	load       *entry // nil for an unload
	id         string // load_id
	of         string // load_id of the load that an unload ended; "" if it is unknown
	srcversion string // of the module
	loader     loader
}

// A loader is the thread that made a load, if eBPF saw it, and whether it saw the beginning.
type loader struct {
	pid, tid int64 // 0 if it is unknown
	isWhole  bool
}

func loaderOf(load *kmodquery.Event) (l loader) {
	if load.Pid != nil && load.Tid != nil {
		l = loader{pid: *load.Pid, tid: *load.Tid}
	}
	l.isWhole = !load.Missing.Has("origin")
	return l
}

// addLoad takes a load that a source which sees every load reported. It reports whether that
// is the last load of the name.
func (e *entry) addLoad(load *kmodquery.Event, wasReported bool) bool {
	now := momentOf(load)
	for _, other := range e.history {
		if other.load != nil && (other.id == load.LoadID || other.isRepeatedBy(load)) {
			return other.id == e.witnessed
		}
	}
	added := &entry{
		module: kmodquery.Module{Name: load.Name, Views: []string{kmodquery.ViewEvents}}, loaded: now, certain: now, wasReported: wasReported,
	}
	added.describe(load, now, bySight)
	isLast := !e.witnessedAt.isAfter(now)
	if isLast {
		e.keep()
		e.witnessed, e.witnessedAt = load.LoadID, now
	}
	wasNamesake := len(e.namesakes) > 0
	e.add(step{at: now, load: added, id: load.LoadID, srcversion: load.Srcversion, loader: loaderOf(load)})
	if e.unloaded.isAfter(e.witnessedAt) && e.isOpen(e.witnessed) {
		e.reopen()
	}
	if isLast {
		e.shown, e.address, e.size = time.Time{}, nil, nil
	}
	if isLast && (wasNamesake || len(e.namesakes) > 0) {
		e.hidden, e.describedAt = moment{}, moment{} // those of the former one
	}
	return isLast
}

// reopen takes back the unload of the last load, which was of a namesake.
func (e *entry) reopen() {
	i := slices.IndexFunc(e.history, func(s step) bool { return s.load != nil && s.id == e.witnessed })
	last := e.history[i].load
	e.unloaded, e.module = moment{}, last.module
	e.describedAt, e.describedBy = last.describedAt, last.describedBy
}

// isRepeatedBy reports whether a load is that of the step: made by the same thread at the same
// time, and one of the two lacks its beginning.
func (s *step) isRepeatedBy(load *kmodquery.Event) bool {
	by := loaderOf(load)
	apart := time.Duration(max(s.at.nanos-load.TimeNanos, load.TimeNanos-s.at.nanos))
	return apart < repeatTime && s.srcversion == load.Srcversion && by.isWhole != s.loader.isWhole &&
		by.pid != 0 && by.pid == s.loader.pid && by.tid == s.loader.tid
}

// addUnload takes an unload, and reports whether it ended the last load of the name.
func (e *entry) addUnload(unload *kmodquery.Event) bool {
	now, of := momentOf(unload), ""
	if FromViews(unload) {
		of = unload.ParentLoadID
	}
	if unload.LoadID != "" && of == "" && slices.ContainsFunc(e.history, func(other step) bool { return other.load == nil && other.id == unload.LoadID }) {
		return now.isAfter(e.unloaded) && !e.isOpen(e.witnessed) // another event of the attempt
	}
	e.add(step{at: now, id: unload.LoadID, of: of, srcversion: unload.Srcversion})
	return !now.isAfter(e.witnessedAt) || !e.isOpen(e.witnessed)
}

// add inserts a step in the order of time, and finds the namesakes.
func (e *entry) add(added step) {
	if e.horizon.isAfter(added.at) {
		return
	}
	at := len(e.history)
	for at > 0 && e.history[at-1].at.isAfter(added.at) {
		at--
	}
	e.history = slices.Insert(e.history, at, added)
	hasUnload := slices.ContainsFunc(e.history, func(s step) bool { return s.load == nil })
	if n := len(e.history); n > maxNamesakes || hasUnload && n-len(e.namesakes) > maxSteps {
		e.forget()
	}
	e.updateNamesakes()
}

// forget removes the oldest unload with the load that it ended, or the oldest load if none
// was unloaded. What is older and comes later is ignored.
func (e *entry) forget() {
	oldest := 0
	for i, s := range e.history {
		if s.load != nil {
			continue
		}
		e.horizon = s.at
		before := open(e.history[:i])
		if ended := endedBy(e.history, before, &s); ended >= 0 {
			oldest = before[ended]
			e.history = slices.Delete(e.history, i, i+1)
		} else {
			oldest = i
		}
		break
	}
	e.history = slices.Delete(e.history, oldest, oldest+1)
}

// open returns the indexes of the loads that no unload ended.
func open(history []step) (loads []int) {
	for i := range history {
		if history[i].load != nil {
			loads = append(loads, i)
		} else if ended := endedBy(history, loads, &history[i]); ended >= 0 {
			loads = slices.Delete(loads, ended, ended+1)
		}
	}
	return loads
}

// endedBy returns which of the loads, given by their indexes, an unload after them ended: the
// last one of the same sources, else the last one; -1 if there is none.
func endedBy(history []step, loads []int, unload *step) int {
	if unload.of != "" {
		return slices.IndexFunc(loads, func(i int) bool { return history[i].id == unload.of })
	}
	for i, load := range slices.Backward(loads) {
		if unload.srcversion != "" && history[load].srcversion == unload.srcversion {
			return i
		}
	}
	return len(loads) - 1
}

func (e *entry) isOpen(id string) bool {
	return slices.ContainsFunc(open(e.history), func(i int) bool { return e.history[i].id == id })
}

func (e *entry) updateNamesakes() {
	e.namesakes = nil
	for _, i := range open(e.history) {
		if s := &e.history[i]; s.id != e.witnessed {
			e.namesakes = append(e.namesakes, s.load)
		}
	}
}

// keep stores what is known of the last load with the loads of the name.
func (e *entry) keep() {
	for i := range e.history {
		if s := &e.history[i]; s.load != nil && s.id == e.witnessed && e.isLoaded() {
			former := *e
			former.history, former.namesakes, former.loaded = nil, nil, s.at
			s.load = &former
		}
	}
}

// load returns the entry of a load of the name: that of a namesake, or e itself.
func (e *entry) load(id string) *entry {
	for _, other := range e.namesakes {
		if id != "" && other.module.LoadID == id {
			return other
		}
	}
	return e
}

// end forgets a namesake.
func (e *entry) end(other *entry) {
	e.history = slices.DeleteFunc(e.history, func(s step) bool { return s.load == other })
	e.updateNamesakes()
}

// namesakes returns the loaded modules whose name a later one has.
func (s *State) namesakes() (list []entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, known := range s.entries {
		for _, other := range known.namesakes {
			list = append(list, *other)
		}
	}
	return list
}

// identify finds out which of several loads of one name views show: in the kernel's list
// usually the last one. A namesake that is at the same address was unloaded. If the last one
// was unloaded, the list shows a namesake, unless all are known to be at other addresses.
func (s *State) identify(m *kmodquery.Module) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.entries[kmodquery.FolderName(m.Name)]
	if known == nil || len(known.namesakes) == 0 || m.IsHidden() && known.isLoaded() {
		return
	}
	at := func(e *entry) bool { return e.address != nil && m.Address != nil && *e.address == *m.Address }
	i := slices.IndexFunc(known.namesakes, at)
	for last := len(known.namesakes) - 1; i < 0 && last >= 0 && !known.isLoaded(); last-- {
		if m.Address == nil || known.namesakes[last].address == nil {
			i = last
		}
	}
	switch {
	case i < 0:
	case !known.isLoaded() || known.address != nil && !at(known):
		known.keep()
		former, listed := *known, known.namesakes[i]
		at := slices.IndexFunc(former.history, func(s step) bool { return s.load == listed })
		*known = *listed
		known.history, known.horizon, known.begun, known.loadID = former.history, former.horizon, former.begun, former.loadID
		known.witnessed, known.witnessedAt = known.history[at].id, known.history[at].at
		known.updateNamesakes()
	default:
		known.end(known.namesakes[i])
	}
}
