//go:build linux

package klog

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/host"
	"github.com/kmodquery/kmodquery/linux/klog/printk"
)

const (
	// quietPeriod is how long after the last line of a log nothing more is
	// expected of the attempts that it speaks of, and holdLimit how long lines
	// are held at most, both by the log's own clock.
	quietPeriod = time.Second
	holdLimit   = 2 * time.Second
	// syncGrace is how old the last line must be for a Sync not to wait for
	// more: the kernel says in a moment what it has to say of an attempt.
	syncGrace = 100 * time.Millisecond
	// lateLimit is how long after its last line the same thread may still speak of
	// an attempt. A load waits half a minute for each module that it needs.
	lateLimit = time.Minute
	// noteLifetime is how long a remark waits for its attempt.
	noteLifetime = 100 * time.Millisecond

	maxHeld    = 256     // attempts that are held at once
	maxEmitted = 64      // attempts that are remembered
	maxTexts   = 1024    // lines of one attempt that are remembered
	maxRaw     = 8 << 10 // bytes of a row's lines, and of the parameters that they name
)

// A line is one message of a log that says something of modules.
type line struct {
	statement printk.Statement
	raw       string        // as it stood
	text      string        // the message itself
	at        time.Duration // on the log's own clock, which no change of the wall clock moves

	time   time.Time
	uptime *int64
	bootID string
	id     string // what no other line of this log has
	tid    *int64 // the thread that spoke, where the log says so

	loader *loader // the process that spoke; nil where the kernel did
}

// unsaid are the columns of a module_load that the kernel knows and its log does
// not say.
var unknownColumns = []string{
	"name", "path", "origin", "size", "sha256", "signature_status", "params", "taints",
	"pid", "tid", "parent", "process_name", "process_path", "cmdline", "uid", "gid", "auid",
}

// A correlator makes events of lines: those that tell of one attempt become one
// event. It holds them until no more is expected, and then emits all that it
// holds, so that the last event can say how far in the log everything was told.
// Its methods must not be called concurrently.
type correlator struct {
	source string
	// isBuiltin reports whether something of that name is built into the kernel.
	isBuiltin func(name string) bool
	since     time.Time // nothing before is emitted
	emit      func(kmodquery.Delivery)

	held     []*attempt
	emitted  []*attempt // emitted, oldest first
	note     *line
	position string // of the last line that was taken in
	first    time.Duration
	last     time.Duration // of the held lines, by the log's clock
	touched  time.Time     // when the last of them was taken in, by ours
}

// attempt is an attempt, or another event, as lines tell of it.
type attempt struct {
	event kmodquery.Event
	stage printk.Stage
	texts []uint64 // hashes of what was said, which is not said twice of one attempt
	at    time.Duration
	over  bool // nothing more is said of it
	// byLoader says that the loader spoke. The journal may have its words before
	// the kernel's, which journald reads elsewhere.
	byLoader bool
}

// add takes the next line of the log.
func (j *correlator) add(l line, now time.Time) {
	if len(j.held) > 0 && (l.at-j.last > quietPeriod || l.at-j.first > holdLimit || j.first-l.at > quietPeriod) {
		j.flush()
	}
	if len(j.held) >= maxHeld {
		j.flush()
	}
	if l.statement.IsBuiltin && j.isBuiltin(l.statement.Name) {
		return
	}
	if l.statement.Kind == printk.Note {
		j.note = &l
		return
	}
	if len(j.held) == 0 {
		j.first, j.last = l.at, l.at
	}
	j.last, j.touched = max(j.last, l.at), now
	if l.statement.Kind == printk.Unload {
		j.close(l.statement.Name)
	}
	if of := j.find(j.held, l); of != nil {
		of.take(l)
		return
	}
	of := j.begin(l)
	if before := j.find(j.emitted, l); before != nil {
		before.late(of, l)
	}
	j.held = append(j.held, of)
}

// close notes that a module went: what is said of it from now on belongs to
// another attempt.
func (j *correlator) close(name string) {
	for _, of := range slices.Concat(j.held, j.emitted) {
		of.over = of.over || of.event.Name == name
	}
}

// passed notes how far the log was read.
func (j *correlator) setPosition(position string) { j.position = position }

// find returns the latest of those that the line may belong to.
func (j *correlator) find(among []*attempt, l line) *attempt {
	for _, of := range slices.Backward(among) {
		if of.continuesWith(l) {
			return of
		}
	}
	return nil
}

func (of *attempt) continuesWith(l line) bool {
	e := &of.event
	isAttempt := e.EventName == kmodquery.EventModuleLoad || e.EventName == kmodquery.EventSysExitInitModule
	if !isAttempt || l.statement.Kind != printk.Attempt {
		return false
	}
	// Without the thread's name only time tells two loads of one module apart.
	patience := quietPeriod
	if e.Tid != nil && l.tid != nil && l.loader == nil {
		if *e.Tid != *l.tid {
			return false
		}
		patience = lateLimit
	}
	if l.at-of.at > patience {
		return false
	}
	isLoader := l.loader != nil
	if slices.Contains(of.texts, hashText(l.text)) || isLoader && of.byLoader && of.over {
		return false
	}
	if !isLoader && !of.byLoader && (of.over || l.statement.Stage != 0 && l.statement.Stage < of.stage) {
		return false
	}
	if !isLoader && of.byLoader && l.at-of.at > syncGrace {
		return false
	}
	if isLoader != of.byLoader && (e.Name == "" || l.statement.Name == "") {
		// One of the two does not say which module; that both failed alike says
		// it well enough.
		return (l.at-of.at).Abs() <= quietPeriod && e.Result != nil && l.statement.Result != nil && *e.Result == *l.statement.Result
	}
	return e.Name == l.statement.Name && e.Name != ""
}

// begin makes a new event of a line.
func (j *correlator) begin(l line) *attempt {
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
		Source: j.source,
		LoadID: loadID(l, j.source),
		Tid:    l.tid,
		Count:  new(int64(1)),
	}
	if l.statement.Kind != printk.Request {
		e.Type = kmodquery.TypeKernelModule
	}
	of := &attempt{event: e, stage: l.statement.Stage, at: l.at}
	if r := j.note; r != nil && l.statement.Kind == printk.Attempt {
		j.note = nil
		belongs := r.tid == nil || l.tid == nil || *r.tid == *l.tid
		if belongs && l.statement.Signature != "" && l.at-r.at <= noteLifetime && l.at >= r.at {
			of.takeText(*r)
			if l.statement.Signature == kmodquery.SignatureUnknown {
				l.statement.Signature = r.statement.Signature
			}
		}
	}
	of.take(l)
	return of
}

// take adds what a line says.
func (of *attempt) take(l line) {
	of.takeText(l)
	e, s := &of.event, l.statement
	of.at = max(of.at, l.at)
	of.stage = max(of.stage, s.Stage)
	of.byLoader = of.byLoader || l.loader != nil
	if nanos := l.time.UnixNano(); nanos < e.TimeNanos {
		e.Time, e.TimeNanos, e.Uptime = l.time.Unix(), nanos, l.uptime
	}
	of.over = of.over || s.IsLast
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
		e.Missing.Add("params") // there may be others
	}
	switch {
	case s.Result != nil:
		e.Result, e.Error = s.Result, host.ErrnoName(*s.Result)
	case s.IsRefused && !of.byLoader: // a message before was not the last
		e.Result, e.Error = nil, ""
		e.Missing.Add("result", "error")
	case s.IsRefused && e.Result == nil:
		e.Missing.Add("result", "error")
	}
	if e.Result != nil {
		e.Missing.Remove("result")
		e.Missing.Remove("error")
	}
	if p := l.loader; p != nil {
		e.Pid, e.UID, e.GID = p.pid, p.uid, p.gid
		e.ProcessName, e.ProcessPath, e.Cmdline, e.Cgroup = p.name, p.path, p.cmdline, p.cgroup
	}
}

func (of *attempt) takeText(l line) {
	of.remember(l)
	e := &of.event
	room := maxRaw - len(e.Raw)
	if e.Raw != "" {
		room--
	}
	switch {
	case len(l.raw) > room:
		e.Missing.Add("raw")
	case e.Raw == "":
		e.Raw = l.raw
	default:
		e.Raw += "\n" + l.raw
	}
}

func (of *attempt) remember(l line) {
	if len(of.texts) < maxTexts {
		of.texts = append(of.texts, hashText(l.text))
	}
}

func hashText(text string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // it never fails
	return h.Sum64()
}

// late makes of an event what is still said of an attempt that was emitted. The
// attempt has its one module_load already.
func (of *attempt) late(rest *attempt, l line) {
	rest.event.EventName = kmodquery.EventSysExitInitModule
	rest.event.LoadID = of.event.LoadID
	if rest.event.Name == "" {
		rest.event.Name = of.event.Name
	}
	of.remember(l)
	of.over = of.over || l.statement.IsLast
	of.stage = max(of.stage, l.statement.Stage)
}

// next is when expire must be called though no line came; the zero time where
// nothing is held.
func (j *correlator) next() time.Time {
	if len(j.held) == 0 {
		return time.Time{}
	}
	return j.touched.Add(quietPeriod)
}

// expire emits what has waited long enough.
func (j *correlator) expire(now time.Time) {
	if len(j.held) > 0 && now.Sub(j.touched) >= quietPeriod {
		j.flush()
	}
}

// settled returns when no more lines are expected of the attempts that are held. The
// kernel logs all messages about an attempt within a moment.
func (j *correlator) settled() time.Time {
	if len(j.held) == 0 {
		return time.Now()
	}
	return j.touched.Add(syncGrace)
}

// flush emits everything that is held.
func (j *correlator) flush() {
	held := j.held
	j.held = nil
	j.emitted = append(j.emitted, held...)
	if n := len(j.emitted) - maxEmitted; n > 0 {
		j.emitted = slices.Clone(j.emitted[n:])
	}
	// A row that is not emitted cannot say how far the log was read.
	wanted := slices.DeleteFunc(slices.Clone(held), func(of *attempt) bool {
		return !j.since.IsZero() && time.Unix(0, of.event.TimeNanos).Before(j.since)
	})
	for i, of := range wanted {
		e := of.event
		if e.EventName == kmodquery.EventModuleLoad {
			for _, column := range unknownColumns {
				if e.Lacks(column) {
					e.Missing.Add(column)
				}
			}
		}
		delivery := kmodquery.Delivery{Event: e}
		if i == len(wanted)-1 {
			delivery.Position = j.position
		}
		j.emit(delivery)
	}
}

// loadID names the attempt that a line is the first of. Whoever reads the
// log again gives it the same name.
func loadID(l line, source string) string {
	if l.statement.Kind == printk.Request {
		return ""
	}
	sum := sha256.Sum256([]byte(l.bootID + "\x00" + source + "\x00" + l.id))
	return hex.EncodeToString(sum[:8])
}
