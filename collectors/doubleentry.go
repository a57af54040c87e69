package collectors

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery"
)

const (
	// recheckAfter is how long after a suspicion the first other look is taken.
	// Nobody makes the sources hurry for it: a load under way would be told of
	// without what is not known yet.
	recheckAfter = time.Second
	// rechecks is how many looks must all show the same before it is written,
	// and recheckEvery how far they lie apart. A module that is loaded again and
	// again is found half made now and then, and not every time.
	rechecks     = 8
	recheckEvery = 600 * time.Millisecond
	// confirmAfter is how much later what hides must still do so, though no load
	// or unload of the name was seen meanwhile.
	confirmAfter = 2 * time.Second
	// atStart is how long what is there at the start waits for the sources to
	// tell of it.
	atStart = 500 * time.Millisecond
	// pendingFor is how long a row may wait behind others that wait for a better
	// source.
	pendingFor = matchPatience + 10*time.Second
	// looksInPeriod is how many looks at what costs little a period has.
	looksInPeriod = 3
	// memoryAfter is how much later memory without a name must still be there:
	// the kernel frees that of a module late.
	memoryAfter = 10 * time.Second
	// maxMemory bounds the regions without a name that are remembered. Beyond it
	// all are forgotten, and told of again.
	maxMemory = 4096
	// wholeEvery is how often everything is looked at, though what costs
	// little shows nothing new.
	wholeEvery = time.Minute
)

// A doubleEntry compares what views of the kernel show with what the sources
// saw, and writes down the differences: what was there at the start, what hides,
// what came though no source saw it, and what only the views noticed.
type doubleEntry struct {
	views      Views
	ledger     *ledger
	stamp      func() kmodquery.Event
	emit       func(kmodquery.Event)
	gather     func(context.Context) error
	witnesses  func() ([]Witness, time.Time)
	report     func(error)
	every      time.Duration
	lookedAt   time.Time       // when the last look that is done with began
	wholeAt    time.Time       // likewise, at everything
	listed     string          // names and views of the last look
	memory     map[string]bool // regions without a name that were reported
	recalled   map[int64]int   // how many of a size an earlier recorder reported
	seen       kmodquery.Event // the moment before the views were last read
	taint      int64           // the kernel's, as it was
	resetTaint int64           // bits that were reported as reset
	watching   string          // the witnesses of the last look; "" where there were none
	lost       int64           // by those of them that watched through it

	mu      sync.Mutex
	sensor  kmodquery.Sensor
	pending map[string]time.Time // subjects of what was written and is not in the ledger yet, and when
}

// A difference is the same one in two looks if its key is.
type difference struct {
	event  string
	module kmodquery.Module
	reason string
	seen   kmodquery.Event // the moment before the views were read that show it
}

func (d *difference) key() string { return d.event + "\x00" + d.subject() }

// subject is what a difference is about.
func (d *difference) subject() string {
	switch {
	case d.event == kmodquery.EventTaintReset:
		return "\x00taint"
	case d.module.Name == "":
		return "\x00" + memoryKey(&d.module)
	}
	return d.module.Name
}

// isByViews reports whether only views show a module that hides.
func (d *difference) isByViews() bool {
	return d.event == kmodquery.EventModuleHidden && !slices.Contains(d.module.Views, kmodquery.ViewEvents)
}

// run looks at once, and then again and again until ctx ends.
func (d *doubleEntry) run(ctx context.Context, ready func()) {
	defer ready()
	reported := ""
	// What hides is to be told of within the period, and looking again takes most
	// of it.
	ticker := time.NewTicker(max(d.every/looksInPeriod, time.Second))
	defer ticker.Stop()
	for {
		err := d.look(ctx)
		if ctx.Err() != nil {
			return
		}
		d.account(err)
		if err != nil && err.Error() != reported {
			reported = err.Error()
			d.report(fmt.Errorf("%s: %w", d.sensor.Source, err))
		}
		ready()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (d *doubleEntry) account(err error) {
	shown, reason := d.views.Shown()
	hooks, _ := json.Marshal(shown)
	d.mu.Lock()
	defer d.mu.Unlock()
	state := kmodquery.StateActive
	if err != nil {
		state, reason = kmodquery.StateFailed, err.Error()
	}
	if d.sensor.State != state {
		d.sensor.State, d.sensor.Since = state, time.Now().Unix()
	}
	d.sensor.Reason, d.sensor.Hooks = reason, string(hooks)
}

// asSensor is the views' account of themselves as a source.
func (d *doubleEntry) asSensor() kmodquery.Sensor {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sensor
}

// look compares once.
func (d *doubleEntry) look(ctx context.Context) error {
	began := time.Now()
	all, _ := d.witnesses() // before the views are read
	watching, lost := namesOf(all), lostBy(all)
	d.seen = d.stamp()
	at := d.seen
	shown, whole, err := d.see(ctx, watching != "")
	if err != nil {
		return err
	}
	taint, err := d.views.Taint(ctx)
	if err != nil {
		return err
	}
	found := d.compare(shown, taint)
	if len(found) > 0 && !whole {
		d.seen = d.stamp()
		if shown, err = d.views.Modules(ctx); err != nil {
			return err
		}
		whole, found = true, d.compare(shown, taint)
	}
	if len(found) > 0 {
		if found, err = d.recheck(ctx, found); err != nil {
			return err
		}
	}
	for _, f := range found {
		d.write(f)
	}
	d.taint |= taint
	d.lookedAt = began
	if whole {
		d.wholeAt = began
		d.ledger.dropUncertain(namesIn(shown), momentOf(&at))
	}
	d.watching, d.lost = watching, lost
	return nil
}

// see looks at everything where what costs little has changed, where it lacks a
// module that came, from time to time, and once in each period while no source
// sees every load; else only at what costs little.
func (d *doubleEntry) see(ctx context.Context, isWatched bool) (shown []kmodquery.Module, whole bool, err error) {
	shown, err = d.views.Listed(ctx)
	if err != nil {
		return nil, false, err
	}
	d.mu.Lock()
	d.sensor.Received += int64(len(shown))
	d.mu.Unlock()
	var names strings.Builder
	for _, m := range shown {
		fmt.Fprintf(&names, "%s %v\n", m.Name, m.Views)
	}
	often := wholeEvery
	if !isWatched {
		often = d.every
	}
	if names.String() == d.listed && time.Since(d.wholeAt) < often && !d.ledger.unlisted(namesIn(shown)) {
		return shown, false, nil
	}
	if shown, err = d.views.Modules(ctx); err == nil {
		d.listed = names.String()
	}
	return shown, true, err
}

func namesIn(modules []kmodquery.Module) map[string]bool {
	names := map[string]bool{}
	for _, m := range modules {
		names[m.Name] = true
	}
	return names
}

// compare returns what differs between the views and the ledger.
func (d *doubleEntry) compare(shown []kmodquery.Module, taint int64) []difference {
	var found []difference
	atStart := d.lookedAt.IsZero()
	witnesses, lost := d.trusted()
	_, since := d.witnesses()
	now := d.stamp()
	there := map[string]bool{}
	brought := int64(0)
	for _, m := range shown {
		if m.Name != "" {
			there[m.Name] = true
		}
		if m.Taints != nil {
			brought |= *m.Taints
		}
		at := d.ledger.get(m.Name)
		switch {
		case m.IsHidden() && m.Name == "":
			if !d.wasReported(&m) {
				found = append(found, difference{event: kmodquery.EventModuleHidden, module: m, reason: "memory of a module that no other view shows"})
			}
		case m.IsHidden():
			if !at.isReported() {
				found = append(found, difference{event: kmodquery.EventModuleHidden, module: m, reason: hides(&m, at.isLoaded())})
			}
		case at.isLoaded() && (at.isCertain() || d.watching == ""):
			d.ledger.confirm(m.Name)
		case m.State == "Loading": // it is not live, or fails yet
		case atStart:
			found = append(found, difference{event: kmodquery.EventModulePresent, module: m})
		case d.watching != "":
			found = append(found, difference{event: kmodquery.EventModuleUnwitnessed, module: m, reason: "it is in " + kmodquery.ViewModules + ", and " + d.watching + " did not see it come" + sinceLost(lost-d.lost)})
		default:
			found = append(found, difference{event: kmodquery.EventModuleLoad, module: m, reason: "it is in " + d.list() + " and was not " + d.every.String() + " ago"})
		}
	}
	for name, at := range d.ledger.certain() {
		if there[name] {
			continue
		}
		gone := kmodquery.Module{Name: name, LoadID: at.module.LoadID, Path: at.module.Path, Views: at.module.Views}
		switch {
		case at.isReported():
		case len(witnesses) > 0 && lost == d.lost && wereArmed(since, at.came, momentOf(&now)):
			found = append(found, difference{event: kmodquery.EventModuleHidden, module: gone, reason: hides(&gone, true)})
		default:
			found = append(found, difference{event: kmodquery.EventModuleFree, module: gone, reason: "it is not in " + d.list() + " any more"})
		}
	}
	found = nameMemory(found)
	lack := (d.taint | brought) &^ taint &^ d.resetTaint
	if lack != 0 {
		reason := "the kernel's taint lacks bits that it had"
		if brought&lack != 0 {
			reason = "the kernel's taint lacks bits that its modules have"
		}
		found = append(found, difference{event: kmodquery.EventTaintReset, module: kmodquery.Module{Taints: &lack}, reason: reason})
	}
	for i := range found {
		found[i].seen = d.seen
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(found, func(f difference) bool {
		written, isPending := d.pending[f.subject()]
		return isPending && time.Since(written) < pendingFor
	})
}

// nameMemory makes one difference of two, where the only module that no view
// names any more and the only memory without a name must be the same.
func nameMemory(found []difference) []difference {
	named, nameless := -1, -1
	for i, f := range found {
		switch {
		case f.event != kmodquery.EventModuleHidden:
		case f.module.Name == "" && nameless == -1:
			nameless = i
		case f.module.Name != "" && !f.isByViews() && named == -1:
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
	found[named].reason = hides(m, true)
	return slices.Delete(found, nameless, nameless+1)
}

// noted takes an event that is in the ledger, which has the say of a row now.
func (d *doubleEntry) noted(e *kmodquery.Event) {
	if !isByViews(e) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := difference{event: e.EventName, module: kmodquery.Module{Name: e.Name, Size: e.Size}}
	delete(d.pending, f.subject())
}

// recall takes an event that an earlier recorder of this boot stored.
func (d *doubleEntry) recall(e *kmodquery.Event) {
	switch {
	case e.EventName == kmodquery.EventTaintReset && e.Taints != nil:
		d.resetTaint |= *e.Taints
	case e.EventName == kmodquery.EventModuleHidden && e.Name == "" && e.Size != nil:
		d.recalled[*e.Size]++
	}
}

// wasReported reports whether this memory was, by this recorder or by an earlier
// one, which left no more than its size.
func (d *doubleEntry) wasReported(m *kmodquery.Module) bool {
	key := memoryKey(m)
	if !d.memory[key] && m.Size != nil && d.recalled[*m.Size] > 0 {
		d.recalled[*m.Size]--
		d.memory[key] = true
	}
	return d.memory[key]
}

// recheck returns what still differs when the sources have told all they saw,
// and some time after.
func (d *doubleEntry) recheck(ctx context.Context, found []difference) ([]difference, error) {
	if d.lookedAt.IsZero() && !slices.ContainsFunc(found, func(f difference) bool { return f.event != kmodquery.EventModulePresent }) {
		// What is there at the start needs no proof, but it may have just come, or
		// while nothing recorded, and a source has yet to tell of it. One that cannot
		// be asked keeps nothing from being told.
		found, err := d.lookAgain(ctx, found, 1, atStart)
		if err != nil || len(found) == 0 {
			return nil, err
		}
		_ = d.gatherAll(ctx)
		return d.lookAgain(ctx, found, 1, 0)
	}
	if err := pause(ctx, recheckAfter); err != nil {
		return nil, err
	}
	byViews := slices.DeleteFunc(slices.Clone(found), func(f difference) bool { return !f.isByViews() })
	others := slices.DeleteFunc(found, func(f difference) bool { return f.isByViews() })
	others, err := d.lookAgain(ctx, others, rechecks, recheckEvery)
	if err != nil {
		return nil, err
	}
	if len(others) > 0 {
		// Only now: what a source still holds back, as while it reads a large
		// image, it is to say.
		if err := d.gatherAll(ctx); err != nil {
			return nil, fmt.Errorf("wait for the sources: %w", err)
		}
		if others, err = d.lookAgain(ctx, others, 1, 0); err != nil {
			return nil, err
		}
	}
	byViews, err = d.confirm(ctx, byViews)
	return append(others, byViews...), err
}

// gatherAll has the sources tell all they saw, in bounded time.
func (d *doubleEntry) gatherAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	return d.gather(ctx)
}

// lookAgain returns what differs in every one of several looks.
func (d *doubleEntry) lookAgain(ctx context.Context, found []difference, looks int, every time.Duration) ([]difference, error) {
	for look := 0; look < looks && len(found) > 0; look++ {
		if err := pause(ctx, every); err != nil {
			return nil, err
		}
		d.seen = d.stamp()
		shown, err := d.views.Listed(ctx)
		if err != nil {
			return nil, err
		}
		taint, err := d.views.Taint(ctx)
		if err != nil {
			return nil, err
		}
		again := map[string]bool{}
		for _, f := range d.compare(shown, taint) {
			again[f.key()] = true
		}
		found = slices.DeleteFunc(found, func(f difference) bool { return !again[f.key()] })
		for i := range found {
			found[i].seen = d.seen
		}
	}
	return found, nil
}

// confirm returns the modules that hide beyond doubt of those that only views
// show: twice, and with no load or unload of the name between. One that comes
// and goes all the time may be taken for hidden in one moment.
func (d *doubleEntry) confirm(ctx context.Context, found []difference) ([]difference, error) {
	before := map[string]entry{}
	for _, f := range found {
		before[f.module.Name] = d.ledger.get(f.module.Name)
	}
	found, err := d.confirmOnce(ctx, found)
	if err != nil || len(found) == 0 {
		return found, err
	}
	wait := confirmAfter
	if slices.ContainsFunc(found, func(f difference) bool { return f.module.Name == "" }) {
		wait = memoryAfter
	}
	if err := pause(ctx, wait); err != nil {
		return nil, err
	}
	// It may have come after the moment before the first look: a row of that moment
	// would be of the module before it.
	d.seen = d.stamp()
	if found, err = d.confirmOnce(ctx, found); err != nil || len(found) == 0 {
		return found, err
	}
	for i := range found {
		found[i].seen = d.seen
	}
	if err := pause(ctx, confirmAfter); err != nil { // for the events of that time to come
		return nil, err
	}
	return slices.DeleteFunc(found, func(f difference) bool {
		now, then := d.ledger.get(f.module.Name), before[f.module.Name]
		return now.isReported() || f.module.Name != "" && (now.came.isAfter(then.came) || now.went.isAfter(then.went))
	}), nil
}

func (d *doubleEntry) confirmOnce(ctx context.Context, found []difference) ([]difference, error) {
	if len(found) == 0 {
		return nil, nil
	}
	suspects := make([]kmodquery.Module, len(found))
	for i, f := range found {
		suspects[i] = f.module
	}
	confirmed, err := d.views.Confirm(ctx, suspects)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(f difference) bool {
		return !slices.ContainsFunc(confirmed, func(m kmodquery.Module) bool {
			return m.Name == f.module.Name && (m.Name != "" || memoryKey(&m) == memoryKey(&f.module))
		})
	}), nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// write makes a difference an event.
func (d *doubleEntry) write(f difference) {
	e := f.seen
	e.Source, e.EventName, e.Reason = d.sensor.Source, d.nameOf(f.event), f.reason
	e.Count = new(int64(1))
	e.Name, e.Size, e.Taints, e.Version, e.Srcversion = f.module.Name, f.module.Size, f.module.Taints, f.module.Version, f.module.Srcversion
	e.TeamID, e.CDHash = f.module.TeamID, f.module.CDHash
	e.LoadID, e.Path = f.module.LoadID, f.module.Path
	if f.event != kmodquery.EventTaintReset {
		e.Type = kmodquery.TypeKernelModule
	}
	switch f.event {
	case kmodquery.EventModuleHidden:
		if at := d.ledger.get(f.module.Name); at.isLoaded() && e.LoadID == "" {
			e.LoadID, e.Path = at.module.LoadID, at.module.Path
		}
		if f.module.Name == "" {
			e.Miss("name")
		}
		if key := memoryKey(&f.module); slices.Contains(f.module.Views, kmodquery.ViewVmallocinfo) && key != "" {
			if len(d.memory) >= maxMemory {
				clear(d.memory)
			}
			d.memory[key] = true
		}
	case kmodquery.EventModulePresent:
		e.LoadID = d.loadID(&e)
	case kmodquery.EventModuleLoad, kmodquery.EventModuleUnwitnessed:
		e.LoadID = d.loadID(&e)
		e.Miss("path", "origin", "sha256", "signature_status", "pid", "process_path", "uid")
	case kmodquery.EventModuleFree:
		e.LoadID = d.loadID(&e)
		e.Miss("pid", "process_path", "uid")
	case kmodquery.EventTaintReset:
		d.resetTaint |= *f.module.Taints
	}
	d.mu.Lock()
	d.sensor.LastEventTime = e.Time
	if e.Missing != "" {
		d.sensor.EnrichErrors++
	}
	d.mu.Unlock()
	d.mu.Lock()
	maps.DeleteFunc(d.pending, func(_ string, written time.Time) bool { return time.Since(written) >= pendingFor })
	d.pending[f.subject()] = time.Now()
	d.mu.Unlock()
	d.emit(e)
	if f.event == kmodquery.EventModuleUnwitnessed {
		d.distrust(f.module.Name)
	}
}

// distrust tells the sources that should have seen a module come. Where records
// were lost meanwhile it was one of them, and nobody is blind.
func (d *doubleEntry) distrust(name string) {
	witnesses, lost := d.trusted()
	if lost != d.lost {
		return
	}
	for _, w := range witnesses {
		w.Distrust(fmt.Sprintf("module %s came and it saw nothing of it", strconv.Quote(name)))
	}
}

// trusted returns the witnesses that have watched since the last look, and how
// many records they have lost. With one that began later nothing can be said.
func (d *doubleEntry) trusted() ([]Witness, int64) {
	list, since := d.witnesses()
	if len(list) == 0 || since.After(d.lookedAt) {
		return nil, 0
	}
	return list, lostBy(list)
}

func lostBy(list []Witness) int64 {
	lost := int64(0)
	for _, w := range list {
		lost += w.Sensor().Lost
	}
	return lost
}

// wereArmed reports whether a witness that began at since has watched from the
// moment on at which an event happened until now. The boot clock's seconds are
// rounded down.
func wereArmed(since time.Time, came, now moment) bool {
	if since.IsZero() {
		return false
	}
	watched := time.Since(since)
	if came.uptime != nil && now.uptime != nil {
		watched += time.Second
	}
	return watched >= came.before(now)
}

// nameOf is what an event is called here: a kernel extension comes and goes as
// such.
func (d *doubleEntry) nameOf(event string) string {
	if d.sensor.Source == kmodquery.SourceShowloaded {
		switch event {
		case kmodquery.EventModuleLoad:
			return kmodquery.EventKextload
		case kmodquery.EventModuleFree:
			return kmodquery.EventKextunload
		}
	}
	return event
}

// list is the kernel's own list among the views.
func (d *doubleEntry) list() string {
	if d.sensor.Source == kmodquery.SourceShowloaded {
		return d.sensor.Source
	}
	return kmodquery.ViewModules
}

func (d *doubleEntry) loadID(e *kmodquery.Event) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{e.BootID, e.Source, e.EventName, e.Name, strconv.FormatInt(e.TimeNanos, 10)}, "\x00")))
	return hex.EncodeToString(sum[:8])
}

func hides(m *kmodquery.Module, isLoaded bool) string {
	views := m.Views
	if isLoaded && !slices.Contains(views, kmodquery.ViewEvents) {
		views = append(slices.Clone(views), kmodquery.ViewEvents)
	}
	return "it is not in " + kmodquery.ViewModules + ", and in " + strings.Join(views, ", ")
}

func namesOf(witnesses []Witness) string {
	names := make([]string, len(witnesses))
	for i, w := range witnesses {
		names[i] = w.Name()
	}
	return strings.Join(names, " and ")
}

func sinceLost(n int64) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf("; %d records were lost meanwhile", n)
}

// memoryKey tells one piece of memory from another: by its address, where the
// kernel tells it, or by how much there is.
func memoryKey(m *kmodquery.Module) string {
	switch {
	case m.Address != nil:
		return "at " + strconv.FormatUint(uint64(*m.Address), 16)
	case m.Size != nil:
		return strconv.FormatInt(*m.Size, 10) + " bytes"
	}
	return ""
}
