package ulog

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/kextlog"
)

const (
	// attemptQuiet is how long after the last word on an attempt the next one
	// belongs to another.
	attemptQuiet = 10 * time.Second
	// failureTime is how long it goes on, in several messages, that one attempt is
	// said to have failed, or to be blocked. Later words are of another attempt:
	// whoever tries again and again makes no quiet in between.
	failureTime = 2 * time.Second
	// maxAttempts bounds the attempts that are remembered.
	maxAttempts = 1024
	// maxRaw bounds a row's message in bytes.
	maxRaw = 8 << 10
)

// unsaidKext are the columns that a message of the log does not always have.
var unsaidKext = []string{"path", "version", "team_id", "cdhash", "sha256", "signature_status", "pid", "process_path", "uid"}

// An attempt is one to load or unload an extension as the log tells of
// it.
type attempt struct {
	loadID string
	last   time.Time
	isOver bool // it loaded, failed, or the extension went
	failed bool
	knows  kextlog.Statement    // what was said of it so far
	told   map[string]time.Time // the moments of what was, by event
}

// A joiner makes events of records that come in their order: those that speak
// of one attempt share its load_id, and know what was said before. Whoever reads
// the log again gives an attempt the same name, if they begin with its first
// record.
type joiner struct {
	attempts map[string]*attempt // by bundle id
}

func newJoiner() *joiner { return &joiner{attempts: map[string]*attempt{}} }

// add returns the events that a record makes. What is said twice of an attempt,
// as its failure is in several messages, is one event.
func (j *joiner) add(r *kextlog.Record, raw string) []kmodquery.Event {
	var events []kmodquery.Event
	for _, s := range r.Statements() {
		a := j.attempt(r, &s)
		a.learn(&s)
		name := logEvents[s.Kind]
		if name == "" || a.hasTold(name) {
			continue
		}
		a.told[name] = r.Time
		events = append(events, a.event(r, &s, raw))
	}
	return events
}

// attempt returns the one that a statement belongs to.
func (j *joiner) attempt(r *kextlog.Record, s *kextlog.Statement) *attempt {
	a := j.attempts[s.Name]
	if a == nil || !a.continuesWith(r, s) {
		j.makeRoom(r.Time)
		a = &attempt{loadID: kextLoadID(r, s.Name), told: map[string]time.Time{}}
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
	quiet := r.Time.Sub(a.last).Abs()
	isRefusal := s.Kind == kextlog.Failed || s.Kind == kextlog.Blocked
	if name := logEvents[s.Kind]; isRefusal && a.hasTold(name) && r.Time.Sub(a.told[name]).Abs() > failureTime {
		return false
	}
	if a.isOver {
		return a.failed && s.Kind == kextlog.Failed && quiet <= failureTime
	}
	return quiet <= attemptQuiet
}

func (a *attempt) hasTold(name string) bool {
	_, ok := a.told[name]
	return ok
}

// makeRoom forgets the attempts of which nothing more is expected, and all of
// them where these are too few.
func (j *joiner) makeRoom(now time.Time) {
	if len(j.attempts) < maxAttempts {
		return
	}
	for name, a := range j.attempts {
		if now.Sub(a.last).Abs() > attemptQuiet {
			delete(j.attempts, name)
		}
	}
	if len(j.attempts) >= maxAttempts {
		clear(j.attempts)
	}
}

// inherit takes over what another joiner knows of attempts that this one has not
// heard of.
func (j *joiner) inherit(other *joiner) {
	for name, a := range other.attempts {
		if j.attempts[name] == nil {
			j.makeRoom(a.last)
			j.attempts[name] = a
		}
	}
}

func (a *attempt) learn(s *kextlog.Statement) {
	for _, text := range []struct{ to, from *string }{
		{&a.knows.Path, &s.Path}, {&a.knows.Version, &s.Version}, {&a.knows.TeamID, &s.TeamID}, {&a.knows.CDHash, &s.CDHash},
	} {
		if *text.from != "" {
			*text.to = *text.from
		}
	}
	a.knows.IsUnsigned = a.knows.IsUnsigned || s.IsUnsigned
}

// logEvents are the events that statements make.
var logEvents = map[kextlog.Kind]string{
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
		EventName: logEvents[s.Kind],
		Source:    kmodquery.SourceUnifiedLog,
		LoadID:    a.loadID,
		Name:      s.Name,
		Path:      a.knows.Path,
		Type:      kmodquery.TypeKernelModule,
		Version:   a.knows.Version,
		TeamID:    a.knows.TeamID,
		CDHash:    a.knows.CDHash,
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
		e.Miss("raw")
	}
	if a.knows.IsUnsigned {
		e.SignatureStatus = kmodquery.SignatureUnsigned
	}
	for _, column := range unsaidKext {
		if !isKnown(&e, column) {
			e.Miss(column)
		}
	}
	return e
}

// isKnown reports whether an event has one of the columns of unsaidKext.
func isKnown(e *kmodquery.Event, column string) bool {
	switch column {
	case "path":
		return e.Path != ""
	case "version":
		return e.Version != ""
	case "team_id": // what is not signed has none
		return e.TeamID != "" || e.SignatureStatus == kmodquery.SignatureUnsigned
	case "cdhash":
		return e.CDHash != "" || e.SignatureStatus == kmodquery.SignatureUnsigned
	case "signature_status":
		return e.SignatureStatus != ""
	}
	return false
}

// kextLoadID names the attempt that a record is the first of.
func kextLoadID(r *kextlog.Record, name string) string {
	key := keyOf(r)
	sum := sha256.Sum256([]byte(kmodquery.SourceUnifiedLog + "\x00" + name + "\x00" + string(key[:])))
	return hex.EncodeToString(sum[:8])
}
