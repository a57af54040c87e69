package signatures

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kmodquery/kmodquery"
)

// loadColumns are the columns that describeLoad reads.
var loadColumns = []string{
	"event_name", "source", "name", "path", "origin", "result", "error", "process_name", "pid", "uid",
}

// describeLoad describes an event about a load in one sentence. It states only what the
// event states.
func describeLoad(e *kmodquery.Event) string {
	doing, done := "loading", "loaded"
	switch e.EventName {
	case kmodquery.EventSecurityKernelReadFile:
		doing, done = "reading", "read as a kernel module"
	case kmodquery.EventInitModule, kmodquery.EventFinitModule:
		if e.Result == nil {
			done = "being loaded"
		}
	case kmodquery.EventKextload:
		if e.Source == kmodquery.SourceEndpointSecurity {
			done = "about to be loaded" // Endpoint Security does not report the result
		}
	}
	if e.Result == nil || *e.Result == 0 {
		return e.EventName + ": " + subject(e) + " " + done + origin(e) + loader(e)
	}
	failure := e.Error
	if failure == "" {
		failure = strconv.FormatInt(*e.Result, 10)
	}
	return e.EventName + ": " + doing + " " + subject(e) + origin(e) + loader(e) + " failed with " + failure
}

// quote quotes text that the host controls, so that it cannot look like a part of a sentence.
func quote(text string) string { return strconv.Quote(text) }

// subject returns the module's name or path.
func subject(e *kmodquery.Event) string {
	switch {
	case e.Name != "":
		return quote(e.Name)
	case e.Path != "":
		return quote(e.Path)
	}
	return "a module without a known name"
}

func origin(e *kmodquery.Event) string {
	switch e.Origin {
	case kmodquery.OriginMemory:
		return " from memory"
	case kmodquery.OriginMemfd:
		return " from a memfd"
	case kmodquery.OriginDeleted:
		return " from a deleted file"
	case kmodquery.OriginFile:
		if e.Name != "" && e.Path != "" {
			return " from " + quote(e.Path)
		}
	}
	return ""
}

func loader(e *kmodquery.Event) string {
	var ids []string
	if e.Pid != nil {
		ids = append(ids, fmt.Sprintf("pid %d", *e.Pid))
	}
	if e.UID != nil {
		ids = append(ids, fmt.Sprintf("uid %d", *e.UID))
	}
	known := ""
	if len(ids) > 0 {
		known = " (" + strings.Join(ids, ", ") + ")"
	}
	switch {
	case e.ProcessName != "":
		return " by " + word(e.ProcessName) + known
	case known != "":
		return " by a process" + known
	}
	return ""
}

// word returns a plain name unchanged and any other name quoted.
func word(name string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-+@:/", r)
	}
	if strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		return quote(name)
	}
	return name
}

// ofLoads returns a signature of attempts to load a module. It accepts the event that stands
// for an attempt if because returns why, which ends the sentence that describes the load.
// because reads the facts only. What any user can cause any number of times is left out.
func ofLoads(s kmodquery.Signature, because func(*kmodquery.Event) string) kmodquery.Signature {
	s.Events, s.LoadReports = kmodquery.LoadReportEvents(), true
	s.Columns = slices.Concat(kmodquery.LoadReportColumns, kmodquery.UnprivilegedNeeds(), loadColumns, s.Facts)
	s.Sigma = kmodquery.Sigma{Selections: "load:\n  reports_load: 1\n  unprivileged: 0\n" + s.Sigma.Selections, Condition: "load and (" + s.Sigma.Condition + ")"}
	s.Match = func(e *kmodquery.Event) (string, bool) {
		if !e.IsLoadReport() || e.IsUnprivileged() {
			return "", false
		}
		why := because(e)
		if why == "" {
			return "", false
		}
		return describeLoad(e) + "; " + why, true
	}
	return s
}

// ofDifferences returns a signature of events that the recorder found by comparing what it sees.
func ofDifferences(s kmodquery.Signature, describe func(*kmodquery.Event) string, events ...string) kmodquery.Signature {
	s.Events = events
	s.Sigma = kmodquery.Sigma{Selections: "selection:\n  event_name: [" + strings.Join(events, ", ") + "]\n", Condition: "selection"}
	s.Columns = slices.Concat([]string{"event_name", "name", "path", "reason"}, s.Facts)
	s.Match = func(e *kmodquery.Event) (string, bool) {
		if !slices.Contains(events, e.EventName) {
			return "", false
		}
		reason := e.EventName + ": " + describe(e)
		if e.Reason != "" {
			reason += ": " + e.Reason // the recorder quotes what the host controls in it
		}
		return reason, true
	}
	return s
}

// wrapped matches the names that NixOS gives to programs behind a wrapper.
var wrapped = regexp.MustCompile(`^\.(.+)-wrapped_*$`)

// baseOf returns the last part of a program's path, as its package names it.
func baseOf(program string) string {
	base := path.Base(program)
	if strings.HasPrefix(program, "/nix/store/") {
		base = wrapped.ReplaceAllString(base, "$1")
	}
	return base
}
