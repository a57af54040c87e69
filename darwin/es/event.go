package es

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"time"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
)

// maxRaw bounds the raw column, in bytes.
const maxRaw = 16 << 10

// eperm is errno 1 on every Unix.
const eperm = 1

// missingColumns are the columns of a load that Endpoint Security does not provide.
// Its team and hash are those of the requesting process.
var missingColumns = []string{"path", "version", "team_id", "cdhash", "cmdline"}

// newEvent returns the event of a record, and false if the record is not about a
// kernel extension. The boot must have been read at the time now.
func newEvent(r *record, line []byte, boot host.Boot, now time.Time) (kmodquery.Event, bool) {
	var name string
	var kext recordKext
	switch event := r.Event.value; {
	case event != nil && event.Kextload.isPresent:
		name, kext = kmodquery.EventKextload, event.Kextload
	case event != nil && event.Kextunload.isPresent:
		name, kext = kmodquery.EventKextunload, event.Kextunload
	default:
		return kmodquery.Event{}, false
	}
	at, known := r.at()
	if !known {
		at = now
	}
	e := boot.StampAt(at, now)
	if !known {
		e.Missing.Add("time", "time_nanos")
	}
	e.EventName, e.Source = name, kmodquery.SourceEndpointSecurity
	e.Name = kext.identifier
	e.LoadID = newLoadID(&e, r)
	if name == kmodquery.EventKextload {
		e.Missing.Add(missingColumns...)
	}
	setResult(&e, r.Action.value)
	setProcess(&e, &r.Process)
	missUnless(&e, "name", e.Name != "")
	if len(line) <= maxRaw {
		e.Raw = string(line)
	} else {
		e.Missing.Add("raw")
	}
	return e, true
}

// setResult sets whether the request was allowed. eslogger prints the record before
// the extension is linked or started, so an allowed load can still fail.
func setResult(e *kmodquery.Event, action *recordAction) {
	if action == nil {
		action = &recordAction{}
	}
	switch auth := action.Result.Result.Auth.value; {
	case auth != nil && *auth == 0:
		e.Result = new(int64(0))
	case auth != nil && *auth == 1:
		e.Result, e.Error = new(int64(-eperm)), "EPERM"
	default:
		e.Missing.Add("result")
	}
}

func setProcess(e *kmodquery.Event, p *recordProcess) {
	t := p.AuditToken
	e.Pid, e.Parent = t.pid, p.Ppid.value
	e.UID, e.EUID, e.GID, e.EGID, e.AUID, e.SessionID = t.ruid, t.euid, t.rgid, t.egid, t.auid, t.asid
	e.ProcessSigningID, e.ProcessTeamID = p.SigningID, p.TeamID
	e.ProcessPath = p.Executable.Path
	if e.ProcessPath != "" {
		e.ProcessName = path.Base(e.ProcessPath)
	}
	missUnless(e, "process_path", e.ProcessPath != "" && !p.Executable.PathTruncated)
	missUnless(e, "process_name", e.ProcessPath != "" && !p.Executable.PathTruncated)
	for _, id := range []struct {
		column string
		value  *int64
	}{
		{"pid", e.Pid}, {"parent", e.Parent},
		{"uid", e.UID}, {"euid", e.EUID}, {"gid", e.GID}, {"egid", e.EGID}, {"auid", e.AUID}, {"session_id", e.SessionID},
	} {
		missUnless(e, id.column, id.value != nil)
	}
}

func missUnless(e *kmodquery.Event, column string, isKnown bool) {
	if !isKnown {
		e.Missing.Add(column)
	}
}

// newLoadID returns the load_id of the attempt that a record reports. The same
// record always has the same one.
func newLoadID(e *kmodquery.Event, r *record) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s\x00%s\x00%d", e.BootID, e.Source, e.EventName, e.Name, r.Time, r.MachTime))
	return hex.EncodeToString(sum[:8])
}
