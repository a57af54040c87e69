package ulog

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
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

// An attempt is an attempt to load or unload an extension.
type attempt struct {
	loadID  string
	last    time.Time
	outcome kextlog.Kind               // Loaded, Unloaded or Failed once it is over
	known   kextlog.Statement          // merged details
	emitted map[kextlog.Kind]time.Time // times of the emitted events
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
		if _, isEmitted := a.emitted[s.Kind]; isEmitted || eventNames[s.Kind] == "" {
			continue
		}
		a.emitted[s.Kind] = r.Time
		events = append(events, a.event(r, &s, raw))
	}
	return events
}

// attempt returns the attempt that a statement belongs to.
func (j *joiner) attempt(r *kextlog.Record, s *kextlog.Statement) *attempt {
	a := j.attempts[s.Name]
	if a == nil || !a.continuesWith(s.Kind, r.Time) {
		j.makeRoom(r.Time)
		a = &attempt{loadID: newLoadID(r, s.Name), emitted: map[kextlog.Kind]time.Time{}}
		j.attempts[s.Name] = a
	}
	if r.Time.After(a.last) {
		a.last = r.Time
	}
	switch s.Kind {
	case kextlog.Loaded, kextlog.Unloaded, kextlog.Failed:
		a.outcome = s.Kind
	}
	return a
}

// continuesWith reports whether a statement of this kind and time belongs to the attempt.
func (a *attempt) continuesWith(kind kextlog.Kind, at time.Time) bool {
	isRefusal := kind == kextlog.Failed || kind == kextlog.Blocked
	if first, isRepeated := a.emitted[kind]; isRefusal && isRepeated && at.Sub(first).Abs() > failureTime {
		return false
	}
	if a.outcome != 0 {
		return a.outcome == kextlog.Failed && kind == kextlog.Failed
	}
	return at.Sub(a.last).Abs() <= attemptTime
}

// makeRoom forgets the attempts that are over. If that makes no room it forgets all.
func (j *joiner) makeRoom(now time.Time) {
	if len(j.attempts) < maxAttempts {
		return
	}
	maps.DeleteFunc(j.attempts, func(_ string, a *attempt) bool { return now.Sub(a.last).Abs() > attemptTime })
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
	known := &a.known
	known.Path = cmp.Or(s.Path, known.Path)
	known.Version = cmp.Or(s.Version, known.Version)
	known.TeamID = cmp.Or(s.TeamID, known.TeamID)
	known.CDHash = cmp.Or(s.CDHash, known.CDHash)
	known.IsUnsigned = known.IsUnsigned || s.IsUnsigned
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
	isUnsigned := a.known.IsUnsigned // then it has no team and no cdhash
	if isUnsigned {
		e.SignatureStatus = kmodquery.SignatureUnsigned
	}
	for _, value := range []struct {
		column  string
		isKnown bool
	}{
		{"path", e.Path != ""},
		{"version", e.Version != ""},
		{"team_id", e.TeamID != "" || isUnsigned},
		{"cdhash", e.CDHash != "" || isUnsigned},
		{"sha256", false},
		{"signature_status", isUnsigned},
		{"pid", false},
		{"process_path", false},
		{"uid", false},
	} {
		if !value.isKnown {
			e.Missing.Add(value.column)
		}
	}
	return e
}

// newLoadID returns the load_id of an attempt from its first record.
func newLoadID(r *kextlog.Record, name string) string {
	sum := sha256.Sum256([]byte(kmodquery.SourceUnifiedLog + "\x00" + name + "\x00" + keyOf(r)))
	return hex.EncodeToString(sum[:8])
}
