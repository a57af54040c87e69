package ulog

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
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
	// maxNames bounds the remembered extensions, maxOpen the open attempts of each,
	// maxCandidates the candidates of an attempt, and maxRequested the remembered paths
	// that were asked for.
	maxNames      = 1024
	maxOpen       = 16
	maxCandidates = 64
	maxRequested  = 256
	// maxRaw bounds the raw column, in bytes.
	maxRaw = 8 << 10
)

// An attempt is an attempt to load or unload an extension. The system allows, checks and
// then loads an extension, and one program after the other logs that. Each describes the
// extension; the descriptions are never mixed.
type attempt struct {
	loadID  string
	last    time.Time
	outcome kextlog.Kind               // Loaded, Blocked or Failed once it is over
	emitted map[kextlog.Kind]time.Time // times of the emitted events

	isCodeless  bool // a notification of the load may follow
	isRequested bool // a message before that of the load belongs to it

	direct, verdict *kextlog.Description
	checks          []kextlog.Description // the candidates
}

// The attempts of one extension. No message says to which of several attempts it belongs.
type extension struct {
	open    []*attempt                // those without an outcome, the oldest first
	blocked []*attempt                // those that were blocked and may yet be logged as failed
	ended   map[kextlog.Kind]*attempt // the last with each outcome
	// unclear is when a statement may last have belonged to an attempt that was forgotten.
	unclear time.Time
}

// A joiner makes events from records, which it must get in their order. The events of
// one attempt share its load_id, and each describes the extension as one earlier record
// did. If the record could belong to several attempts, it has what their descriptions agree
// on. A joiner that reads the log again gives an attempt the same load_id if it begins
// with the attempt's first record.
type joiner struct {
	extensions map[string]*extension // by bundle id
	forgot     time.Time             // when attempts of extensions that are not remembered may last have begun

	requested       map[string]time.Time // when each path, and each idKey, was last asked for
	forgotRequested time.Time            // when such a request was last forgotten early, or not understood
}

func newJoiner() *joiner {
	return &joiner{extensions: map[string]*extension{}, requested: map[string]time.Time{}}
}

// add returns the events of a record. Several messages about the same step of an
// attempt, such as its failure, make one event. unparsed counts the messages that begin like
// one of a known form and do not parse.
func (j *joiner) add(r *kextlog.Record, raw string) (events []kmodquery.Event, unparsed int64) {
	for _, s := range r.Statements() {
		if s.IsUnparsed {
			unparsed++
		}
		if s.Kind == kextlog.Requested {
			j.request(&s, r.Time)
			continue
		}
		a, described := j.attempt(r, &s)
		if _, isEmitted := a.emitted[s.Kind]; isEmitted || eventNames[s.Kind] == "" {
			continue
		}
		a.emitted[s.Kind] = r.Time
		events = append(events, a.event(r, &s, described, raw))
	}
	return events, unparsed
}

// attempt returns the attempt that a statement belongs to, and the description of the
// extension at this moment.
func (j *joiner) attempt(r *kextlog.Record, s *kextlog.Statement) (*attempt, kextlog.Description) {
	if s.Name == "" || s.Kind == kextlog.Unloaded {
		if eventNames[s.Kind] == "" || s.Kind == kextlog.Allowed {
			j.forgot = r.Time // any extension may be loaded next
		}
		return newAttempt(r, s), s.Description
	}
	x := j.extension(s.Name, r.Time)
	var a *attempt
	described := s.Description
	switch s.Kind {
	case kextlog.Loaded, kextlog.Failed:
		if x.ended[s.Kind].repeats(s, r.Time) {
			a = x.ended[s.Kind]
			break
		}
		candidates := x.open
		if s.Kind == kextlog.Failed {
			candidates = slices.Concat(x.blocked, x.open)
		}
		if a = newAttempt(r, s); len(candidates) > 0 {
			a, described = candidates[0], j.describe(x, candidates, r.Time)
			a.isRequested = true
		}
		if s.Description != (kextlog.Description{}) {
			described = s.Description
		}
		a.isRequested = a.isRequested || j.isRequested(s.Name, r.Time)
		a.isCodeless = s.IsCodeless
		x.end(a, s.Kind)
	case kextlog.Blocked:
		if last := x.ended[s.Kind]; last.repeats(s, r.Time) && *last.verdict == s.Description {
			a = last
			break
		}
		a = x.take(r, s)
		a.direct = a.verdict // the candidates may be another attempt's
		x.end(a, s.Kind)
		if x.blocked = append(x.blocked, a); len(x.blocked) > maxOpen {
			x.blocked, x.unclear = nil, r.Time
		}
	default:
		if len(x.open) == maxOpen {
			x.open, x.unclear = nil, r.Time
		}
		a = x.take(r, s)
	}
	if r.Time.After(a.last) {
		a.last = r.Time
	}
	return a, described
}

func newAttempt(r *kextlog.Record, s *kextlog.Statement) *attempt {
	return &attempt{loadID: newLoadID(r, s.Name), last: r.Time, emitted: map[kextlog.Kind]time.Time{}}
}

func isOld(a *attempt, now time.Time) bool { return now.Sub(a.last).Abs() > attemptTime }

// extension returns the extension of a bundle id, without the attempts of which nothing
// more can be logged.
func (j *joiner) extension(name string, now time.Time) *extension {
	x := j.extensions[name]
	if x == nil {
		j.makeRoom(now)
		x = &extension{ended: map[kextlog.Kind]*attempt{}}
		j.extensions[name] = x
	}
	isOver := func(a *attempt) bool { return isOld(a, now) }
	x.open, x.blocked = slices.DeleteFunc(x.open, isOver), slices.DeleteFunc(x.blocked, isOver)
	return x
}

// all returns the remembered attempts. One of them may be there twice.
func (x *extension) all() []*attempt {
	return slices.Concat(x.open, x.blocked, slices.Collect(maps.Values(x.ended)))
}

// repeats reports whether a statement reports again how the attempt ended. Of a load there is
// one notification, which may follow the message that an extension has no executable.
func (a *attempt) repeats(s *kextlog.Statement, at time.Time) bool {
	if a == nil || a.outcome != s.Kind || at.Sub(a.emitted[s.Kind]).Abs() > failureTime {
		return false
	}
	isNotification := a.isCodeless && !s.IsCodeless
	a.isCodeless = a.isCodeless && !isNotification
	return s.Kind != kextlog.Loaded || isNotification
}

// take returns the newest open attempt that a statement can belong to, or a new one, with
// what the statement says.
func (x *extension) take(r *kextlog.Record, s *kextlog.Statement) *attempt {
	var a *attempt
	for _, known := range slices.Backward(x.open) {
		if known.continuesWith(s, r.Time) {
			a = known
			break
		}
	}
	if a == nil {
		a = newAttempt(r, s)
		x.open = append(x.open, a)
	}
	switch s.Kind {
	case kextlog.Checked:
		switch {
		case slices.Contains(a.checks, s.Description):
		case len(a.checks) == maxCandidates:
			a.checks = []kextlog.Description{{}} // agrees with none
		default:
			a.checks = append(a.checks, s.Description)
		}
	case kextlog.Direct:
		a.direct = &s.Description
	default:
		a.verdict = &s.Description
	}
	return a
}

// continuesWith reports whether a statement can belong to an open attempt, of which each
// program logs a step once. syspolicyd may repeat its message at once.
func (a *attempt) continuesWith(s *kextlog.Statement, at time.Time) bool {
	isOf := func(other *kextlog.Description) bool { return other == nil || other.TeamID == s.TeamID }
	switch s.Kind {
	case kextlog.Checked:
		return true
	case kextlog.Direct:
		return a.direct == nil && isOf(a.verdict)
	case kextlog.Blocked:
		return a.direct == nil && a.verdict == nil
	}
	if a.verdict != nil {
		return *a.verdict == s.Description && at.Sub(a.emitted[s.Kind]).Abs() <= failureTime
	}
	return isOf(a.direct)
}

// end ends an attempt.
func (x *extension) end(a *attempt, outcome kextlog.Kind) {
	a.outcome, x.ended[outcome] = outcome, a
	isIt := func(other *attempt) bool { return other == a }
	x.open, x.blocked = slices.DeleteFunc(x.open, isIt), slices.DeleteFunc(x.blocked, isIt)
}

// describe returns what the descriptions of open attempts agree on. One of them ends, and
// it is unknown which, so no more than that stays known of the others.
func (j *joiner) describe(x *extension, attempts []*attempt, now time.Time) kextlog.Description {
	if now.Sub(x.unclear).Abs() <= attemptTime || now.Sub(j.forgot).Abs() <= attemptTime {
		x.unclear = now // the forgotten attempt may end later, instead of one of these
		return kextlog.Description{}
	}
	all := j.description(attempts[0], now)
	for _, a := range attempts[1:] {
		all = agreed(all, j.description(a, now))
	}
	for _, a := range attempts {
		a.direct = &all
	}
	return all
}

// description returns what one record says of an attempt's extension: the one that says
// most, if there are several.
func (j *joiner) description(a *attempt, now time.Time) kextlog.Description {
	if a.direct != nil {
		return *a.direct
	}
	candidate := j.candidate(a.checks, now)
	if a.verdict != nil && candidate.Path == "" {
		return *a.verdict
	}
	return candidate
}

// candidate returns what the candidates with the path that was asked for agree on,
// otherwise what all candidates agree on, but no path.
func (j *joiner) candidate(checks []kextlog.Description, now time.Time) kextlog.Description {
	var requested, others []kextlog.Description
	for _, check := range checks {
		if check.Path = j.requestedPath(check.Path, now); check.Path != "" {
			requested = append(requested, check)
		}
		others = append(others, check)
	}
	if len(requested) == 0 {
		requested = others
	}
	var all kextlog.Description
	for i, check := range requested {
		if i == 0 {
			all = check
		}
		all = agreed(all, check)
	}
	return all
}

// staged is where macOS copies an extension before it loads it.
const staged = "/Library/StagedExtensions"

// requestedPath returns the path that was asked for, if a candidate is there or is a copy
// of what is there, otherwise "".
func (j *joiner) requestedPath(candidate string, now time.Time) string {
	if now.Sub(j.forgotRequested).Abs() <= attemptTime {
		return ""
	}
	for _, path := range []string{candidate, strings.TrimPrefix(candidate, staged)} {
		if at, ok := j.requested[path]; ok && now.Sub(at).Abs() <= attemptTime {
			return path
		}
	}
	return ""
}

// idKey returns what a bundle id has in joiner.requested. A path begins with a slash.
func idKey(id string) string { return "id " + id }

// isRequested reports whether an extension was asked for by its id, or may have been.
func (j *joiner) isRequested(id string, now time.Time) bool {
	at, ok := j.requested[idKey(id)]
	return ok && now.Sub(at).Abs() <= attemptTime || now.Sub(j.forgotRequested).Abs() <= attemptTime
}

// request remembers what a statement of the kind Requested says. If it says neither a
// path nor an id, anything may have been asked for.
func (j *joiner) request(s *kextlog.Statement, now time.Time) {
	switch {
	case s.Path != "":
		j.remember(s.Path, now)
	case s.Name != "":
		j.remember(idKey(s.Name), now)
	default:
		j.forgotRequested = now
	}
}

func (j *joiner) remember(key string, now time.Time) {
	if len(j.requested) >= maxRequested {
		maps.DeleteFunc(j.requested, func(_ string, at time.Time) bool { return now.Sub(at).Abs() > attemptTime })
	}
	if len(j.requested) >= maxRequested {
		clear(j.requested)
		j.forgotRequested = now
	}
	j.requested[key] = now
}

// agreed returns the values that two descriptions have in common.
func agreed(a, b kextlog.Description) kextlog.Description {
	same := func(a, b string) string {
		if a != b {
			return ""
		}
		return a
	}
	return kextlog.Description{
		Path: same(a.Path, b.Path), Version: same(a.Version, b.Version), TeamID: same(a.TeamID, b.TeamID),
		CDHash: same(a.CDHash, b.CDHash), IsUnsigned: a.IsUnsigned && b.IsUnsigned,
	}
}

// makeRoom forgets the extensions without open attempts. If that makes no room it forgets
// all.
func (j *joiner) makeRoom(now time.Time) {
	if len(j.extensions) < maxNames {
		return
	}
	maps.DeleteFunc(j.extensions, func(_ string, x *extension) bool {
		return !slices.ContainsFunc(x.all(), func(a *attempt) bool { return !isOld(a, now) })
	})
	if len(j.extensions) >= maxNames {
		clear(j.extensions)
		j.forgot = now
	}
}

// adopt adds the attempts and requests of another joiner that this one does not have.
func (j *joiner) adopt(other *joiner) {
	for name, theirs := range other.extensions {
		x := j.extensions[name]
		if x == nil {
			x = &extension{ended: map[kextlog.Kind]*attempt{}}
			j.extensions[name] = x
		}
		isKnown := func(a *attempt) bool {
			return slices.ContainsFunc(x.all(), func(b *attempt) bool { return b.loadID == a.loadID })
		}
		open, blocked := slices.DeleteFunc(theirs.open, isKnown), slices.DeleteFunc(theirs.blocked, isKnown)
		x.open, x.blocked = slices.Concat(open, x.open), slices.Concat(blocked, x.blocked)
		for kind, a := range theirs.ended {
			if x.ended[kind] == nil {
				x.ended[kind] = a
			}
		}
		if theirs.unclear.After(x.unclear) {
			x.unclear = theirs.unclear
		}
	}
	if other.forgot.After(j.forgot) {
		j.forgot = other.forgot
	}
	if other.forgotRequested.After(j.forgotRequested) {
		j.forgotRequested = other.forgotRequested
	}
	for key, at := range other.requested {
		if _, ok := j.requested[key]; !ok {
			j.remember(key, at)
		}
	}
}

// eventNames are the events of the kinds of statements.
var eventNames = map[kextlog.Kind]string{
	kextlog.Loaded:   kmodquery.EventKextload,
	kextlog.Failed:   kmodquery.EventKextload,
	kextlog.Unloaded: kmodquery.EventKextunload,
	kextlog.Allowed:  kmodquery.EventKextAllowed,
	kextlog.Blocked:  kmodquery.EventKextBlocked,
}

func (a *attempt) event(r *kextlog.Record, s *kextlog.Statement, known kextlog.Description, raw string) kmodquery.Event {
	e := kmodquery.Event{
		Time:      r.Time.Unix(),
		TimeNanos: r.Time.UnixNano(),
		BootID:    r.BootID,
		EventName: eventNames[s.Kind],
		Source:    kmodquery.SourceUnifiedLog,
		LoadID:    a.loadID,
		Name:      s.Name,
		Path:      known.Path,
		Type:      kmodquery.TypeKernelModule,
		Version:   known.Version,
		TeamID:    known.TeamID,
		CDHash:    known.CDHash,
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
	if s.Kind == kextlog.Loaded {
		e.BootLoad = new(int64(1)) // unless it was later
		if a.isRequested {
			e.BootLoad = new(int64(0))
		}
	}
	if s.IsCodeless {
		e.Collection = kmodquery.CollectionCodeless
	}
	switch {
	case s.Kind == kextlog.Allowed:
		e.Verdict = kmodquery.VerdictAllow
	case s.Kind == kextlog.Blocked || s.IsDenied:
		e.Verdict = kmodquery.VerdictDeny
	}
	if len(raw) > maxRaw {
		e.Raw = ""
		e.Missing.Add("raw")
	}
	isUnsigned := known.IsUnsigned // then it has no team and no cdhash
	if isUnsigned {
		e.SignatureStatus = kmodquery.SignatureUnsigned
	}
	for _, value := range []struct {
		column  string
		isKnown bool
	}{
		{"name", e.Name != ""},
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
