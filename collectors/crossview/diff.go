package crossview

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

// A difference is something that the views and the module state disagree about.
type difference struct {
	event  string
	module kmodquery.Module
	reason string
	seen   kmodquery.Event // the moment before the views were read that show it
	former string          // the name that the module had before, if it was renamed
	load   string          // the load id, if it is about a module whose name a later one has
}

// key is the same for the same difference found by two checks.
func (d *difference) key() string { return d.event + "\x00" + d.subject() }

// subject identifies what a difference is about.
func (d *difference) subject() string {
	switch {
	case d.event == kmodquery.EventTaintReset:
		return "\x00taint"
	case d.module.Name == "":
		return "\x00" + memoryKey(&d.module)
	}
	return subjectOf(d.module.Name, d.load)
}

func subjectOf(name, load string) string {
	name = kmodquery.FolderName(name)
	if load != "" {
		name += "\x00" + load
	}
	return name
}

// isByViews reports whether views alone show a hidden module.
func (d *difference) isByViews() bool {
	return d.event == kmodquery.EventModuleHidden && !slices.Contains(d.module.Views, kmodquery.ViewEvents)
}

// compare returns the differences between the views and the module state, without
// those whose events are still pending.
func (c *Check) compare(shown []kmodquery.Module, taint int64) []difference {
	var found []difference
	brought := int64(0) // taint of the modules
	for _, m := range shown {
		if m.Taints != nil {
			brought |= *m.Taints
		}
		if d, ok := c.compareShown(m); ok {
			found = append(found, d)
		}
	}
	found = nameMemory(append(found, c.compareLoaded(namesIn(shown))...))
	found = withoutFormerNames(found)
	if lack := (c.taint | brought) &^ taint &^ c.resetTaint; lack != 0 {
		reason := "the kernel's taint lacks bits that it had"
		if brought&lack != 0 {
			reason = "the kernel's taint lacks bits that its modules have"
		}
		found = append(found, difference{event: kmodquery.EventTaintReset, module: kmodquery.Module{Taints: &lack}, reason: reason})
	}
	for i := range found {
		found[i].seen = c.seen
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.pending, func(_ string, emitted time.Time) bool { return time.Since(emitted) >= c.MaxDelay+pendingSlack })
	return slices.DeleteFunc(found, func(d difference) bool {
		_, isPending := c.pending[d.subject()]
		return isPending
	})
}

// compareShown compares the module state with a module that views show.
func (c *Check) compareShown(m kmodquery.Module) (d difference, differs bool) {
	c.State.identify(&m)
	known := c.State.get(m.Name)
	switch {
	case m.IsHidden() && m.Name == "":
		return difference{event: kmodquery.EventModuleHidden, module: m, reason: "memory of a module that no other view shows"}, !c.wasReported(&m)
	case m.IsHidden():
		return difference{event: kmodquery.EventModuleHidden, module: m, reason: hiddenReason(&m, known.isLoaded())}, !known.isReported()
	case known.isLoaded() && (known.isCertain() || c.complete == ""):
		c.State.confirm(&m, c.began)
		return difference{}, false
	case m.State == "Loading": // its init may still fail
		return difference{}, false
	case c.State.adopt(m.Name):
		return difference{}, false
	case c.checkedAt.IsZero() && c.atStart != nil && !c.atStart[kmodquery.FolderName(m.Name)]:
		return difference{event: kmodquery.EventModuleLoad, module: m, reason: "it is in " + c.list() + " but was not when this process started"}, true
	case c.checkedAt.IsZero():
		return difference{event: kmodquery.EventModulePresent, module: m}, true
	case c.formerName(&m) != "":
		former := c.formerName(&m)
		reason := "module " + strconv.Quote(former) + " was renamed: this one has its address and size"
		return difference{event: kmodquery.EventModuleUnwitnessed, module: m, reason: reason, former: former}, true
	case c.complete != "":
		reason := "it is in " + kmodquery.ViewModules + ", but " + c.complete + " did not report its load"
		if _, lost := c.reliable(); lost > c.lost {
			n := lost - c.lost
			reason += fmt.Sprintf("; %d records were lost meanwhile", n)
		}
		return difference{event: kmodquery.EventModuleUnwitnessed, module: m, reason: reason}, true
	}
	reason := "it is in " + c.list() + " but was not " + c.Period.String() + " ago"
	return difference{event: kmodquery.EventModuleLoad, module: m, reason: reason}, true
}

// A place is a module of the kernel's list at an address.
type place struct {
	name string
	size int64
}

// placesOf returns the listed modules by address.
func placesOf(shown []kmodquery.Module) map[int64]place {
	places := map[int64]place{}
	for _, m := range shown {
		if m.Address != nil && m.Size != nil && !m.IsHidden() {
			places[*m.Address] = place{m.Name, *m.Size}
		}
	}
	return places
}

// formerName returns the name that a module had at the last check if its code has renamed
// it since, and "" otherwise.
func (c *Check) formerName(m *kmodquery.Module) string {
	if m.Address == nil || m.Size == nil {
		return ""
	}
	former := c.places[*m.Address]
	known := c.State.get(former.name)
	if former.name == m.Name || former.size != *m.Size || !known.isLoaded() {
		return ""
	}
	return former.name
}

// withoutFormerNames drops what is found of the former names of renamed modules.
func withoutFormerNames(found []difference) []difference {
	former := map[string]bool{}
	for _, d := range found {
		if d.former != "" {
			former[kmodquery.FolderName(d.former)] = true
		}
	}
	return slices.DeleteFunc(found, func(d difference) bool { return d.former == "" && former[kmodquery.FolderName(d.module.Name)] })
}

// doubtTime is how long no view may show a module before it counts as unloaded, although
// no unload was reported, because records were lost.
const doubtTime = time.Minute

// compareLoaded returns the loaded modules that no view shows.
func (c *Check) compareLoaded(shown map[string]bool) []difference {
	var found []difference
	since, now := c.Unbroken(), c.Stamp()
	add := func(known *entry, load string) {
		m := kmodquery.Module{Name: known.module.Name, LoadID: known.module.LoadID, Path: known.module.Path, Views: known.module.Views}
		switch {
		case known.isProven || known.wasWatched(since, momentOf(&now)):
			reason := hiddenReason(&m, true)
			if load != "" {
				reason += ": a later module has its name, which the kernel refuses while the list has it, and no unload was reported"
			}
			found = append(found, difference{event: kmodquery.EventModuleHidden, module: m, reason: reason, load: load})
		case load == "" && c.checkedAt.IsZero() || c.complete == "" && since.At.IsZero():
			found = append(found, difference{event: kmodquery.EventModuleFree, module: m, reason: "it is no longer in " + c.list()})
		case c.State.doubt(m.Name, load) >= doubtTime && !slices.ContainsFunc(c.nameless, known.mayOwn):
			reason := "it is no longer in " + c.list() + ", and no view has shown it for " + doubtTime.String() +
				"; records were lost, or no source watched, when it disappeared: it was unloaded, or hides from every view"
			found = append(found, difference{event: kmodquery.EventModuleFree, module: m, reason: reason, load: load})
		}
	}
	for name, known := range c.State.certain() {
		if !shown[name] && !known.isReported() {
			add(&known, "")
		}
	}
	for _, known := range c.State.namesakes() {
		if !known.isReported() {
			add(&known, known.module.LoadID)
		}
	}
	return found
}

// mayOwn reports whether memory that no view names may belong to a module.
func (e *entry) mayOwn(memory kmodquery.Module) bool {
	switch {
	case e.size == nil || memory.Size == nil:
		return true
	case e.address != nil && memory.Address != nil:
		return uint64(*e.address-*memory.Address) < uint64(*memory.Size)
	}
	return *memory.Size >= *e.size
}

// ownerOf returns the module whose unload may be among lost records and to which memory
// belongs that no view names; an entry without a name unless there is exactly one.
func (c *Check) ownerOf(memory *kmodquery.Module) (owner entry) {
	loaded := c.State.namesakes()
	for _, known := range c.State.certain() {
		loaded = append(loaded, known)
	}
	for _, known := range loaded {
		isExact := known.size != nil && memory.Size != nil && (known.address != nil && memory.Address != nil || *known.size == *memory.Size)
		switch {
		case known.doubted.IsZero() || known.isReported() || !isExact || !known.mayOwn(*memory):
		case owner.module.Name != "":
			return entry{}
		default:
			owner = known
		}
	}
	return owner
}

// nameMemory merges a hidden module that no view names with nameless memory, if
// there is exactly one of each: they must be the same module.
func nameMemory(found []difference) []difference {
	named, nameless := -1, -1
	for i, d := range found {
		switch {
		case d.event != kmodquery.EventModuleHidden:
		case d.module.Name == "" && nameless == -1:
			nameless = i
		case d.module.Name != "" && !d.isByViews() && named == -1:
			named = i
		default:
			return found
		}
	}
	if named == -1 || nameless == -1 {
		return found
	}
	m, memory := &found[named].module, found[nameless].module
	m.Address, m.Size = memory.Address, memory.Size
	m.Views = append(slices.Clone(memory.Views), m.Views...)
	found[named].reason = hiddenReason(m, true)
	return slices.Delete(found, nameless, nameless+1)
}

// Unbroken returns since when complete sources have watched without losing a record. What
// was lost before the latest call counts as lost then.
func (c *Check) Unbroken() Start {
	list, since := c.Complete()
	lost, now := lostBy(list), c.Stamp()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(list) > 0 && lost != c.lostBefore {
		c.lostBefore, c.lostAt = lost, Start{At: time.Now()}
		if now.Uptime != nil {
			c.lostAt.Uptime = new(*now.Uptime + 1) // rounded up
		}
	}
	if len(list) > 0 && c.lostAt.At.After(since.At) {
		return c.lostAt
	}
	return since
}

// reliable returns the complete sources that have watched since the last check,
// and how many records they have lost. A source that began later proves nothing.
func (c *Check) reliable() ([]CompleteSource, int64) {
	list, since := c.Complete()
	if len(list) == 0 || since.At.After(c.checkedAt) {
		return nil, 0
	}
	return list, lostBy(list)
}

// wasReported reports whether this recorder or an earlier one reported a nameless
// region. Of an earlier one only the size is known.
func (c *Check) wasReported(m *kmodquery.Module) bool {
	key := memoryKey(m)
	if !c.memory[key] && m.Size != nil && c.replayed[*m.Size] > 0 {
		c.replayed[*m.Size]--
		c.memory[key] = true
	}
	return c.memory[key]
}

// list is the name of the kernel's own list among the views.
func (c *Check) list() string {
	if c.Source == kmodquery.SourceShowloaded {
		return c.Source
	}
	return kmodquery.ViewModules
}

func hiddenReason(m *kmodquery.Module, isLoaded bool) string {
	views := m.Views
	if isLoaded && !slices.Contains(views, kmodquery.ViewEvents) {
		views = append(slices.Clone(views), kmodquery.ViewEvents)
	}
	reason := "it is not in " + kmodquery.ViewModules + ", but in " + strings.Join(views, ", ")
	if len(views) == 1 && (views[0] == kmodquery.ViewSysfs || views[0] == kmodquery.ViewBTF) {
		reason += " only, where code in the kernel can add an entry"
	}
	return reason
}

func lostBy(list []CompleteSource) int64 {
	lost := int64(0)
	for _, source := range list {
		lost += source.Sensor().Lost
	}
	return lost
}

func namesOf(list []CompleteSource) string {
	names := make([]string, len(list))
	for i, source := range list {
		names[i] = source.Name()
	}
	return strings.Join(names, " and ")
}

// wasWatched reports whether a source that began to watch at since has watched
// from the moment of a load until now. The boot clock's seconds are rounded down.
func wasWatched(since Start, loaded, now moment) bool {
	switch {
	case since.At.IsZero():
		return false
	case since.Uptime != nil && loaded.uptime != nil:
		return *loaded.uptime >= *since.Uptime
	}
	return time.Since(since.At) >= loaded.before(now)
}

// memoryKey identifies a nameless region by its address, or by its size if the
// kernel hides addresses.
func memoryKey(m *kmodquery.Module) string {
	switch {
	case m.Address != nil:
		return "at " + strconv.FormatUint(uint64(*m.Address), 16)
	case m.Size != nil:
		return strconv.FormatInt(*m.Size, 10) + " bytes"
	}
	return ""
}
