package kmodquery

import (
	"encoding/json"
	"slices"
	"strings"
)

// Outcomes of an attempt to load a module.
const (
	OutcomeLoaded     = "loaded"
	OutcomeInitFailed = "init_failed" // the module's init ran and returned an error
	OutcomeRejected   = "rejected"    // the kernel refused the module
	OutcomeDenied     = "denied"      // the kernel, or macOS's policy, refused the attempt before it looked at the module
	OutcomeUnknown    = "unknown"
	OutcomeRunning    = "running" // the call has not returned
)

// EventLoadClosed is an attempt to load a module as it was known when it was over. The event
// store derives it from the attempt's events; no source emits it. EventLoadClosedUnprivileged
// is the same for attempts of which an unprivileged user can make any number. Their Raw is
// the JSON of a [Closing]. A [Filter] selects them only by a condition on event_name.
const (
	EventLoadClosed             = "load_closed"
	EventLoadClosedUnprivileged = "load_closed_unprivileged"
)

// IsLoadClosed reports whether an event_name is one of those two.
func IsLoadClosed(eventName string) bool {
	return eventName == EventLoadClosed || eventName == EventLoadClosedUnprivileged
}

// A Closing is what the event that closes an attempt has besides the columns of an [Event].
type Closing struct {
	Outcome string `json:"outcome"`
	Sources string `json:"sources"`        // separated by commas
	Event   int64  `json:"event"`          // EID of the event that stands for the attempt
	User    string `json:"user,omitempty"` // name of the event's UID, escaped by Escape
}

// Closing returns the parsed Raw of an event that closes an attempt, empty if it is no
// [Closing].
func (e *Event) Closing() (c Closing) {
	_ = json.Unmarshal([]byte(e.Raw), &c)
	return c
}

// LoadEvents returns the names of the events of which an attempt to load a module consists.
func LoadEvents() []string {
	return append(LoadReportEvents(), EventSysExitInitModule, EventSecurityKernelLoadData, EventKextAllowed, EventKextBlocked)
}

// OutcomeColumns are the columns that events must have for [OutcomeOf].
var OutcomeColumns = []string{
	"event_name", "source", "type", "name", "result", "error", "verdict", "sha256", "pid", "euid", "missing",
}

// OutcomeOf returns the outcome of an attempt from its events, and the event that tells it.
// The event is nil while none does: then the outcome is OutcomeRunning if the call of the
// attempt was seen and not its end, otherwise OutcomeUnknown. Whether an event tells an
// outcome does not depend on the others.
func OutcomeOf(events []Event) (outcome string, by *Event) {
	var seen observed
	for i := range events {
		seen.add(&events[i])
	}
	outcome = OutcomeUnknown
	rank := 0
	for i := range events {
		if o, r := seen.outcomeBy(&events[i]); r > rank {
			outcome, rank, by = o, r, &events[i]
		}
	}
	if rank == 1 {
		return outcome, nil
	}
	return outcome, by
}

// observed is what eBPF has seen the kernel do in an attempt.
type observed struct{ hasRead, isLive bool }

func (o *observed) add(e *Event) {
	if e.Source != SourceEBPF {
		return
	}
	o.hasRead = o.hasRead || e.EventName == EventSecurityKernelReadFile && e.Type == TypeKernelModule
	o.isLive = o.isLive || e.EventName == EventModuleLoad
}

// outcomeBy returns the outcome that one event of an attempt tells, and its rank: the outcome
// with the highest counts. The rank is 0 if the event tells none, and 1 if it only tells that a
// call has begun.
func (o *observed) outcomeBy(e *Event) (outcome string, rank int) {
	isLog := e.Source == SourceJournal || e.Source == SourceKmsg || e.Source == SourceSyslog
	isFailure := e.Result != nil && *e.Result < 0 || isLog && e.Missing.Has("result")
	isCall := e.EventName == EventInitModule || e.EventName == EventFinitModule
	switch {
	case e.Source == SourceAudit && isCall && e.IsUnprivileged() && e.EUID != nil && *e.EUID == 0:
		return OutcomeUnknown, 2 // lockdown refuses a module with the same record
	case e.Verdict == VerdictDeny, e.EventName == EventKextBlocked, e.IsUnprivileged() && isCall:
		return OutcomeDenied, 4
	case isFailure && o.isLive:
		return OutcomeInitFailed, 3
	case isFailure && e.Source == SourceAudit && e.Name != "":
		return OutcomeUnknown, 2 // the kernel has read the module; whether its init ran is not in the record
	case isFailure && e.Source == SourceEBPF && e.EventName == EventFinitModule && !o.hasRead && e.Missing.Has("sha256"):
		return OutcomeUnknown, 2 // it returns what another call returned, or its beginning was not seen
	case isFailure && isLog && e.Pid != nil && !slices.Contains(refusals, e.Error):
		return OutcomeUnknown, 2 // the loader logged the error, which may be that of the init
	case isFailure:
		return OutcomeRejected, 3
	case e.Result != nil, e.Source == SourceProcfs, e.Source == SourceShowloaded:
		return OutcomeLoaded, 3
	case e.Source == SourceEBPF:
		return OutcomeRunning, 1
	}
	return "", 0
}

// refusals are the errors with which the kernel refuses a module, and no init fails.
var refusals = []string{"ENOEXEC", "EKEYREJECTED", "ENOKEY"}

// notOfLoad are the columns in which the events of one attempt differ.
var notOfLoad = []string{
	"time", "time_nanos", "uptime", "boot_id", "eid", "stored_time", "event_name", "source", "load_id", "reports_load",
	"result", "error", "count", "missing", "raw",
}

// fill sets the columns of an attempt that are unknown from another event of it. A value that
// is not whole is named in Missing, and stays so.
func (e *Event) fill(from *Event) {
	for _, c := range eventColumns {
		isKnown := c.Value(e) != nil && (c.Name != "signature_status" || e.SignatureStatus != SignatureUnknown)
		if isKnown || c.Value(from) == nil || slices.Contains(notOfLoad, c.Name) {
			continue
		}
		c.copy(e, from)
		if e.Missing.Remove(c.Name); from.Missing.Has(c.Name) {
			e.Missing.Add(c.Name)
		}
	}
}

// CloseLoad returns the event that closes an attempt with these stored events, in the order
// of their EIDs. It returns false if none of them is an attempt. users returns the name of a
// user id, or "".
func CloseLoad(events []Event, users func(uid int64) string) (closed Event, ok bool) {
	at := slices.IndexFunc(events, func(e Event) bool { return e.IsLoadReport() })
	if at < 0 {
		at = slices.IndexFunc(events, func(e Event) bool {
			return e.EventName == EventInitModule || e.EventName == EventFinitModule || e.EventName == EventKextBlocked
		})
	}
	if at < 0 {
		return Event{}, false
	}
	closed = events[at]
	closing := Closing{Event: closed.EID}
	var sources []string
	closed.EventName = EventLoadClosedUnprivileged
	for i := range events {
		e := &events[i]
		if !e.IsUnprivileged() {
			closed.EventName = EventLoadClosed
		}
		if !slices.Contains(sources, e.Source) {
			sources = append(sources, e.Source)
		}
		if e.TimeNanos < closed.TimeNanos {
			closed.Time, closed.TimeNanos = e.Time, e.TimeNanos
			if e.Uptime != nil {
				closed.Uptime = e.Uptime
			}
		}
		closed.fill(e)
	}
	outcome, by := OutcomeOf(events)
	closed.Result, closed.Error, closed.ReportsLoad = nil, "", nil
	if by != nil {
		closed.Result, closed.Error = by.Result, by.Error
	}
	switch {
	case closed.Result != nil:
		closed.Missing.Remove("result")
	case outcome == OutcomeRunning || outcome == OutcomeUnknown:
		closed.Missing.Add("result")
	}
	closing.Outcome, closing.Sources = outcome, strings.Join(sources, ",")
	if closed.UID != nil {
		closing.User = Escape(users(*closed.UID))
	}
	text, err := json.Marshal(closing)
	if err != nil {
		panic(err) // it has only text and a number
	}
	closed.Raw = string(text)
	return closed, true
}
