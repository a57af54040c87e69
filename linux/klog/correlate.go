//go:build linux

package klog

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/klog/printk"
)

const (
	// The correlator holds lines until the log has had no line about modules for the
	// quietPeriod, and for the holdLimit at most, both by the log's own clock.
	quietPeriod = time.Second
	holdLimit   = 2 * time.Second
	// syncGrace is how old the last line must be before a Sync stops waiting for more:
	// the kernel logs all messages about an attempt within a moment.
	syncGrace = 100 * time.Millisecond
	// lateLimit is how long after the last line about an attempt another one of the same
	// thread belongs to it. A load waits half a minute for each module that it needs.
	lateLimit = time.Minute
	// noteLifetime is how long before the attempt's first line a note may be.
	noteLifetime = 100 * time.Millisecond

	maxHeld    = 256     // attempts that are held at once
	maxEmitted = 64      // emitted attempts that are remembered
	maxTexts   = 1024    // lines of one attempt that are remembered
	maxRaw     = 8 << 10 // bytes of an event's lines, and of its parameters
)

// A line is one message of a log about modules.
type line struct {
	statement printk.Statement
	raw       string        // as the log has it
	text      string        // the message alone
	at        time.Duration // by the log's own clock, which does not step

	time   time.Time
	uptime *int64
	bootID string
	id     string // unique in this log
	tid    *int64 // of the thread that logged it, if the log has that

	loader *loader // the process that logged it; nil for the kernel
}

// Columns that the log may lack, and of a load.
var (
	processColumns = []string{
		"pid", "tid", "parent", "process_name", "process_path", "cmdline", "uid", "gid", "auid", "ancestors", "cgroup", "container_id",
	}
	loadColumns = []string{
		"name", "path", "origin", "size", "sha256", "signature_status", "signer", "params", "taints", "requested_by",
	}
)

// A correlator makes one event of all lines about one attempt. It holds attempts until
// no more lines are expected, and then emits all of them. So the position of the last
// event covers everything before it. Its methods must not be called concurrently.
type correlator struct {
	source string
	// isBuiltin reports whether something of that name is built into the kernel.
	isBuiltin func(name string) bool
	since     time.Time // events from before are not emitted
	until     time.Time // nor are events from after, unless it is zero
	emit      func(kmodquery.Delivery)

	held     []*attempt
	emitted  []*attempt // oldest first
	note     *line      // the last one, which the next attempt may take
	position string     // of the last line that was read; the reader sets it
	first    time.Duration
	last     time.Duration // of the held lines, by the log's clock
	touched  time.Time     // when the last of them was added, by the wall clock
}

// An attempt is an attempt, or another event, as far as lines have described it.
type attempt struct {
	event kmodquery.Event
	stage printk.Stage
	texts []uint64 // hashes of its lines, which differ within one attempt
	at    time.Duration
	over  bool // the next line belongs to another attempt
	// byLoader is set if a line is the loader's. journald reads the kernel's lines from
	// elsewhere, so the journal may have them after the loader's.
	byLoader bool
}

// add adds the next line of the log.
func (c *correlator) add(l line, now time.Time) {
	isLater := l.at-c.last > quietPeriod || l.at-c.first > holdLimit || c.first-l.at > quietPeriod
	if len(c.held) > 0 && isLater || len(c.held) >= maxHeld {
		c.flush()
	}
	if l.statement.IsBuiltin && c.isBuiltin(l.statement.Name) {
		return
	}
	if l.statement.Kind == printk.Note {
		c.note = &l
		return
	}
	if len(c.held) == 0 {
		c.first, c.last = l.at, l.at
	}
	c.last, c.touched = max(c.last, l.at), now
	if l.statement.Kind == printk.Unload {
		c.close(l.statement.Name)
	}
	if a := find(c.held, l); a != nil {
		a.take(l)
		return
	}
	a := c.begin(l)
	if before := find(c.emitted, l); before != nil {
		before.late(a, l)
	}
	c.held = append(c.held, a)
}

// close marks the attempts of a module that was unloaded: later lines about it belong to
// another attempt.
func (c *correlator) close(name string) {
	for _, a := range slices.Concat(c.held, c.emitted) {
		a.over = a.over || a.event.Name == name
	}
}

// find returns the latest attempt that the line may belong to, or nil.
func find(among []*attempt, l line) *attempt {
	for _, a := range slices.Backward(among) {
		if a.continuesWith(l) {
			return a
		}
	}
	return nil
}

// continuesWith reports whether a line belongs to the attempt.
func (a *attempt) continuesWith(l line) bool {
	e := &a.event
	isAttempt := e.EventName == kmodquery.EventModuleLoad || e.EventName == kmodquery.EventSysExitInitModule
	if !isAttempt || l.statement.Kind != printk.Attempt {
		return false
	}
	// Without the thread's id only time distinguishes two loads of one module.
	limit := quietPeriod
	if e.Tid != nil && l.tid != nil && l.loader == nil {
		if *e.Tid != *l.tid {
			return false
		}
		limit = lateLimit
	}
	if l.at-a.at > limit {
		return false
	}
	isLoader := l.loader != nil
	if slices.Contains(a.texts, hashText(l.text)) || isLoader && a.byLoader && a.over {
		return false
	}
	if !isLoader && !a.byLoader && (a.over || l.statement.Stage != 0 && l.statement.Stage < a.stage) {
		return false
	}
	if !isLoader && a.byLoader && l.at-a.at > syncGrace {
		return false
	}
	if isLoader != a.byLoader && (e.Name == "" || l.statement.Name == "") {
		// One of the two lines lacks the name. Failing with the same error is enough.
		return (l.at-a.at).Abs() <= quietPeriod && e.Result != nil && l.statement.Result != nil && *e.Result == *l.statement.Result
	}
	if l.statement.LacksName {
		return e.Name != "" && l.at-a.at <= syncGrace
	}
	return e.Name == l.statement.Name && e.Name != ""
}

// begin returns a new attempt with one line.
func (c *correlator) begin(l line) *attempt {
	e := kmodquery.Event{
		Time:      l.time.Unix(),
		TimeNanos: l.time.UnixNano(),
		Uptime:    l.uptime,
		BootID:    l.bootID,
		EventName: map[printk.Kind]string{
			printk.Attempt: kmodquery.EventModuleLoad,
			printk.Unload:  kmodquery.EventModuleFree,
			printk.Request: kmodquery.EventModuleRequest,
		}[l.statement.Kind],
		Source: c.source,
		LoadID: loadID(l, c.source),
		Tid:    l.tid,
		Count:  new(int64(1)),
	}
	if l.statement.Kind != printk.Request {
		e.Type = kmodquery.TypeKernelModule
	}
	a := &attempt{event: e, stage: l.statement.Stage, at: l.at}
	if r := c.note; r != nil && l.statement.Kind == printk.Attempt {
		c.note = nil
		belongs := r.tid == nil || l.tid == nil || *r.tid == *l.tid
		if belongs && l.statement.Signature != "" && l.at-r.at <= noteLifetime && l.at >= r.at {
			a.takeText(*r)
			if l.statement.Signature == kmodquery.SignatureUnknown {
				l.statement.Signature = r.statement.Signature
			}
		}
	}
	a.take(l)
	return a
}

// take adds a line to an attempt.
func (a *attempt) take(l line) {
	a.takeText(l)
	e, s := &a.event, l.statement
	a.at = max(a.at, l.at)
	a.stage = max(a.stage, s.Stage)
	a.byLoader = a.byLoader || l.loader != nil
	if nanos := l.time.UnixNano(); nanos < e.TimeNanos {
		e.Time, e.TimeNanos, e.Uptime = l.time.Unix(), nanos, l.uptime
	}
	a.over = a.over || s.IsLast
	for _, text := range []struct{ to, from *string }{
		{&e.Name, &s.Name},
		{&e.SignatureStatus, &s.Signature},
		{&e.License, &s.License},
		{&e.Vermagic, &s.Vermagic},
		{&e.ProcessName, &s.Comm},
	} {
		if *text.from != "" {
			*text.to = *text.from
		}
	}
	if strings.HasPrefix(s.Path, "/") {
		e.Path = s.Path
	}
	if s.Taints != 0 {
		taints := s.Taints
		if e.Taints != nil {
			taints |= *e.Taints
		}
		e.Taints = &taints
	}
	if s.IsOutside {
		e.Intree = new(int64(0))
	}
	if s.Params != "" {
		params := s.Params
		if e.Params != nil {
			params = *e.Params + " " + params
		}
		if len(params) <= maxRaw {
			e.Params = &params
		}
		e.Missing.Add("params") // the log names only some
	}
	switch {
	case s.Result != nil:
		e.Result, e.Error = s.Result, host.ErrnoName(*s.Result)
	case s.IsRefused && !a.byLoader: // the result of an earlier message was not final
		e.Result, e.Error = nil, ""
		e.Missing.Add("result", "error")
	case s.IsRefused && e.Result == nil:
		e.Missing.Add("result", "error")
	}
	if e.Result != nil {
		e.Missing.Remove("result", "error")
	}
	if p := l.loader; p != nil {
		e.Pid, e.UID, e.GID = p.pid, p.uid, p.gid
		e.ProcessName, e.ProcessPath, e.Cmdline, e.Cgroup = p.name, p.path, p.cmdline, p.cgroup
	}
}

// takeText adds a line to the event's raw column.
func (a *attempt) takeText(l line) {
	a.remember(l)
	e := &a.event
	if len(e.Raw)+1+len(l.raw) > maxRaw {
		e.Missing.Add("raw")
		return
	}
	if e.Raw != "" {
		e.Raw += "\n"
	}
	e.Raw += l.raw
}

// remember notes that the attempt has a line.
func (a *attempt) remember(l line) {
	if len(a.texts) < maxTexts {
		a.texts = append(a.texts, hashText(l.text))
	}
}

var seed = maphash.MakeSeed()

func hashText(text string) uint64 { return maphash.String(seed, text) }

// late makes rest, a further line about an attempt that was emitted, an event of that
// attempt. The attempt already has its one module_load.
func (a *attempt) late(rest *attempt, l line) {
	rest.event.EventName = kmodquery.EventSysExitInitModule
	rest.event.LoadID = a.event.LoadID
	if rest.event.Name == "" {
		rest.event.Name = a.event.Name
	}
	a.remember(l)
	a.over = a.over || l.statement.IsLast
	a.stage = max(a.stage, l.statement.Stage)
}

// next returns when expire must be called if there is no line before, or the zero time
// if nothing is held.
func (c *correlator) next() time.Time {
	if len(c.held) == 0 {
		return time.Time{}
	}
	return c.touched.Add(quietPeriod)
}

// expire emits what is held if the quietPeriod has passed.
func (c *correlator) expire(now time.Time) {
	if due := c.next(); !due.IsZero() && !due.After(now) {
		c.flush()
	}
}

// quiet returns when no more lines are expected of the attempts that are held. The
// kernel logs all messages about an attempt within a moment.
func (c *correlator) quiet() time.Time {
	if len(c.held) == 0 {
		return time.Now()
	}
	return c.touched.Add(syncGrace)
}

// flush emits everything that is held.
func (c *correlator) flush() {
	held := c.held
	c.held = nil
	c.emitted = append(c.emitted, held...)
	if n := len(c.emitted) - maxEmitted; n > 0 {
		c.emitted = slices.Clone(c.emitted[n:])
	}
	// The last event that is emitted needs the position.
	wanted := slices.DeleteFunc(slices.Clone(held), func(a *attempt) bool {
		at := time.Unix(0, a.event.TimeNanos)
		return !c.since.IsZero() && at.Before(c.since) || !c.until.IsZero() && at.After(c.until)
	})
	for i, a := range wanted {
		e := a.event
		columns := processColumns
		if e.EventName == kmodquery.EventModuleLoad {
			columns = slices.Concat(loadColumns, processColumns)
		}
		for _, column := range columns {
			if e.Lacks(column) {
				e.Missing.Add(column)
			}
		}
		delivery := kmodquery.Delivery{Event: e}
		if i == len(wanted)-1 {
			delivery.Position = c.position
		}
		c.emit(delivery)
	}
}

// loadID returns the id of the attempt whose first line this is. It is the same each
// time the log is read.
func loadID(l line, source string) string {
	if l.statement.Kind == printk.Request {
		return ""
	}
	sum := sha256.Sum256([]byte(l.bootID + "\x00" + source + "\x00" + l.id))
	return hex.EncodeToString(sum[:8])
}
