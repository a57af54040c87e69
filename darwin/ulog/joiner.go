package ulog

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/kextlog"
)

const (
	// attemptTime is the longest time between two messages of one attempt.
	attemptTime = 10 * time.Second
	// failureTime is the time within which several messages report one failure or
	// block. Later ones report another attempt: repeated attempts may follow each
	// other within attemptTime.
	failureTime = 2 * time.Second
	// maxAttempts bounds the remembered attempts.
	maxAttempts = 1024
	// maxRaw bounds the raw column, in bytes.
	maxRaw = 8 << 10
)

// optionalColumns are the columns that the messages do not always provide.
var optionalColumns = []string{"path", "version", "team_id", "cdhash", "sha256", "signature_status", "pid", "process_path", "uid"}

// An attempt is an attempt to load or unload an extension.
type attempt struct {
	loadID  string
	last    time.Time
	isOver  bool // the extension was loaded or unloaded, or the attempt failed
	failed  bool
	known   kextlog.Statement    // merged details
	emitted map[string]time.Time // times of the emitted events, by event name
}

// A joiner makes events from records, which it must get in their order. The events of
// one attempt share its load_id, and each has the details of the earlier records. A
// joiner that reads the log again gives an attempt the same load_id if it begins
// with the attempt's first record.
type joiner struct {
	attempts map[string]*attempt // by bundle id
}

func newJoiner() *joiner { return &joiner{attempts: map[string]*attempt{}} }

// add returns the events of a record. Several messages about the same step of an
// attempt, such as its failure, make one event.
func (j *joiner) add(r *kextlog.Record, raw string) []kmodquery.Event {
	var events []kmodquery.Event
	for _, s := range r.Statements() {
		a := j.attempt(r, &s)
		a.merge(&s)
		name := eventNames[s.Kind]
		if name == "" || a.hasEmitted(name) {
			continue
		}
		a.emitted[name] = r.Time
		events = append(events, a.event(r, &s, raw))
	}
	return events
}

// attempt returns the attempt that a statement belongs to.
func (j *joiner) attempt(r *kextlog.Record, s *kextlog.Statement) *attempt {
	a := j.attempts[s.Name]
	if a == nil || !a.continuesWith(r, s) {
		j.makeRoom(r.Time)
		a = &attempt{loadID: newLoadID(r, s.Name), emitted: map[string]time.Time{}}
		j.attempts[s.Name] = a
	}
	if r.Time.After(a.last) {
		a.last = r.Time
	}
	switch s.Kind {
	case kextlog.Failed:
		a.isOver, a.failed = true, true
	case kextlog.Loaded, kextlog.Unloaded:
		a.isOver = true
	}
	return a
}

func (a *attempt) continuesWith(r *kextlog.Record, s *kextlog.Statement) bool {
	pause := r.Time.Sub(a.last).Abs()
	isRefusal := s.Kind == kextlog.Failed || s.Kind == kextlog.Blocked
	if name := eventNames[s.Kind]; isRefusal && a.hasEmitted(name) && r.Time.Sub(a.emitted[name]).Abs() > failureTime {
		return false
	}
	if a.isOver {
		return a.failed && s.Kind == kextlog.Failed && pause <= failureTime
	}
	return pause <= attemptTime
}

func (a *attempt) hasEmitted(name string) bool {
	_, ok := a.emitted[name]
	return ok
}

// makeRoom forgets the attempts that are over. If that makes no room it forgets all.
func (j *joiner) makeRoom(now time.Time) {
	if len(j.attempts) < maxAttempts {
		return
	}
	for name, a := range j.attempts {
		if now.Sub(a.last).Abs() > attemptTime {
			delete(j.attempts, name)
		}
	}
	if len(j.attempts) >= maxAttempts {
		clear(j.attempts)
	}
}

// adopt adds the attempts of another joiner that this one does not have.
func (j *joiner) adopt(other *joiner) {
	for name, a := range other.attempts {
		if j.attempts[name] == nil {
			j.makeRoom(a.last)
			j.attempts[name] = a
		}
	}
}

// merge adds the details of a statement.
func (a *attempt) merge(s *kextlog.Statement) {
	for _, text := range []struct{ to, from *string }{
		{&a.known.Path, &s.Path}, {&a.known.Version, &s.Version}, {&a.known.TeamID, &s.TeamID}, {&a.known.CDHash, &s.CDHash},
	} {
		if *text.from != "" {
			*text.to = *text.from
		}
	}
	a.known.IsUnsigned = a.known.IsUnsigned || s.IsUnsigned
}

// eventNames are the events of the kinds of statements.
var eventNames = map[kextlog.Kind]string{
	kextlog.Loaded:   kmodquery.EventKextload,
	kextlog.Failed:   kmodquery.EventKextload,
	kextlog.Unloaded: kmodquery.EventKextunload,
	kextlog.Allowed:  kmodquery.EventKextAllowed,
	kextlog.Blocked:  kmodquery.EventKextBlocked,
}

func (a *attempt) event(r *kextlog.Record, s *kextlog.Statement, raw string) kmodquery.Event {
	e := kmodquery.Event{
		Time:      r.Time.Unix(),
		TimeNanos: r.Time.UnixNano(),
		BootID:    r.BootID,
		EventName: eventNames[s.Kind],
		Source:    kmodquery.SourceUnifiedLog,
		LoadID:    a.loadID,
		Name:      s.Name,
		Path:      a.known.Path,
		Type:      kmodquery.TypeKernelModule,
		Version:   a.known.Version,
		TeamID:    a.known.TeamID,
		CDHash:    a.known.CDHash,
		Result:    s.Result,
		Error:     s.Error,
		Count:     new(int64(1)),
		Raw:       raw,
	}
	if e.Path != "" {
		e.Origin = kmodquery.OriginFile
	}
	if s.Kind == kextlog.Loaded || s.Kind == kextlog.Unloaded {
		e.Result = new(int64(0))
	}
	if len(raw) > maxRaw {
		e.Raw = ""
		e.Missing.Add("raw")
	}
	if a.known.IsUnsigned {
		e.SignatureStatus = kmodquery.SignatureUnsigned
	}
	for _, column := range optionalColumns {
		if !isKnown(&e, column) {
			e.Missing.Add(column)
		}
	}
	return e
}

// isKnown reports whether an event has a value for one of the optionalColumns.
func isKnown(e *kmodquery.Event, column string) bool {
	switch column {
	case "path":
		return e.Path != ""
	case "version":
		return e.Version != ""
	case "team_id": // an unsigned extension has none
		return e.TeamID != "" || e.SignatureStatus == kmodquery.SignatureUnsigned
	case "cdhash":
		return e.CDHash != "" || e.SignatureStatus == kmodquery.SignatureUnsigned
	case "signature_status":
		return e.SignatureStatus != ""
	}
	return false
}

// newLoadID returns the load_id of an attempt from its first record.
func newLoadID(r *kextlog.Record, name string) string {
	key := keyOf(r)
	sum := sha256.Sum256([]byte(kmodquery.SourceUnifiedLog + "\x00" + name + "\x00" + string(key[:])))
	return hex.EncodeToString(sum[:8])
}
