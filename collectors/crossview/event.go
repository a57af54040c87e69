package crossview

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

// maxMemory bounds the nameless regions that are remembered. Beyond it all are
// forgotten and may be reported again.
const maxMemory = 4096

// pendingSlack is added to MaxDelay before an event that did not reach State may be
// emitted again.
const pendingSlack = 10 * time.Second

// emit emits a difference as an event, unless a glance did so during the check.
func (c *Check) emit(d difference) {
	c.mu.Lock()
	_, isPending := c.pending[d.subject()]
	c.mu.Unlock()
	known := c.State.load(d.module.Name, d.load)
	if isPending || d.event == kmodquery.EventModuleHidden && known.isReported() {
		return
	}
	e := d.seen
	e.Source, e.EventName, e.Reason = c.Source, d.event, d.reason
	if c.Source == kmodquery.SourceShowloaded {
		e.EventName = cmp.Or(kextEvents[d.event], d.event)
	}
	e.Count = new(int64(1))
	e.Name, e.Size, e.Taints, e.Version, e.Srcversion = d.module.Name, d.module.Size, d.module.Taints, d.module.Version, d.module.Srcversion
	e.TeamID, e.CDHash, e.Collection = d.module.TeamID, d.module.CDHash, d.module.Collection
	e.LoadID, e.Path = d.module.LoadID, d.module.Path
	if d.event != kmodquery.EventTaintReset {
		e.Type = kmodquery.TypeKernelModule
	}
	switch d.event {
	case kmodquery.EventModuleHidden:
		isItsMemory := true
		if owner := c.ownerOf(&d.module); d.module.Name == "" && owner.module.Name != "" {
			isItsMemory = owner.address != nil && d.module.Address != nil
			isLast := c.State.get(owner.module.Name).module.LoadID == owner.module.LoadID
			switch {
			case isItsMemory:
				known, d.module.Name, e.Reason = owner, owner.module.Name, hiddenReason(&d.module, true)
				if !isLast {
					d.load = owner.module.LoadID
				}
			case isLast:
				known, d.module.Name = owner, owner.module.Name
				e.Reason = "it is not in " + kmodquery.ViewModules + ", but memory of its size is in " + kmodquery.ViewVmallocinfo +
					", and its unload was not reported. The memory may be another module's"
				e.Missing.Add("load_id", "path")
			}
		}
		if known.module.Name != "" {
			d.module.Name = known.module.Name // views may show that of its folder
			e.Name = d.module.Name
		}
		if known.isLoaded() && e.LoadID == "" && isItsMemory {
			e.LoadID, e.Path = known.module.LoadID, known.module.Path
		}
		e.Missing.Add(c.unknownOfHidden(&d.module)...)
		if key := memoryKey(&d.module); slices.Contains(d.module.Views, kmodquery.ViewVmallocinfo) && key != "" {
			if len(c.memory) >= maxMemory {
				clear(c.memory)
			}
			c.memory[key] = true
		}
	case kmodquery.EventModulePresent:
		e.LoadID = loadID(&e)
	case kmodquery.EventModuleLoad, kmodquery.EventModuleUnwitnessed:
		e.LoadID = loadID(&e)
		if d.former != "" {
			e.ParentLoadID = c.State.get(d.former).module.LoadID
		}
		e.Missing.Add("path", "origin", "sha256", "signature_status", "pid", "process_path", "uid")
		if c.Source == kmodquery.SourceProcfs {
			e.Missing.Add("signer", "cmdline", "requested_by", "container_id")
		}
	case kmodquery.EventModuleFree:
		e.LoadID, e.ParentLoadID = loadID(&e), d.load
		e.Missing.Add("pid", "process_path", "uid")
		if c.Source == kmodquery.SourceProcfs {
			e.Missing.Add("cmdline", "container_id")
		}
	case kmodquery.EventTaintReset:
		c.resetTaint |= *d.module.Taints
	}
	c.mu.Lock()
	c.sensor.LastEventTime = e.Time
	if e.Missing != "" {
		c.sensor.EnrichErrors++
	}
	c.pending[d.subject()] = time.Now()
	c.mu.Unlock()
	c.Emit(e)
	c.loop.Round()
	if d.event == kmodquery.EventModuleUnwitnessed && d.former == "" {
		c.markUnreliable(d.module.Name)
	}
}

// unknownOfHidden returns the columns of which no view gives a hidden module's value.
func (c *Check) unknownOfHidden(m *kmodquery.Module) []string {
	isKext := c.Source == kmodquery.SourceShowloaded // which has no taints and no srcversion
	var columns []string
	for _, column := range []struct {
		name      string
		isUnknown bool
	}{
		{"name", m.Name == ""}, {"size", m.Size == nil}, {"taints", m.Taints == nil && !isKext},
		{"version", m.Version == ""}, {"srcversion", m.Srcversion == "" && !isKext},
	} {
		if column.isUnknown {
			columns = append(columns, column.name)
		}
	}
	return columns
}

// Added takes an event that State holds now, so that it is no longer pending.
func (c *Check) Added(e *kmodquery.Event) {
	if !FromViews(e) {
		return
	}
	d := difference{event: e.EventName, module: kmodquery.Module{Name: e.Name, Size: e.Size}}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, load := range []string{e.LoadID, e.ParentLoadID} {
		if subject := subjectOf(e.Name, load); load != "" && !c.pending[subject].IsZero() {
			delete(c.pending, subject)
			return
		}
	}
	delete(c.pending, d.subject())
}

// markUnreliable marks the sources that should have seen a load. If records were
// lost meanwhile, the load was among them and no source is unreliable.
func (c *Check) markUnreliable(name string) {
	sources, lost := c.reliable()
	if lost != c.lost {
		return
	}
	for _, source := range sources {
		source.MarkUnreliable(fmt.Sprintf("module %s was loaded and the source did not report it", strconv.Quote(name)))
	}
}

// kextEvents are the names that macOS has for events.
var kextEvents = map[string]string{
	kmodquery.EventModuleLoad: kmodquery.EventKextload,
	kmodquery.EventModuleFree: kmodquery.EventKextunload,
}

func loadID(e *kmodquery.Event) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{e.BootID, e.Source, e.EventName, e.Name, strconv.FormatInt(e.TimeNanos, 10)}, "\x00")))
	return hex.EncodeToString(sum[:8])
}
