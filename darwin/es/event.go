package es

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
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
var missingColumns = []string{"path", "version", "team_id", "cdhash", "cmdline", "sha256", "signature_status"}

// newEvent returns the event of a record, and false if the record is not about a
// kernel extension. The boot must have been read at the time now.
func newEvent(r *record, line []byte, boot host.Boot, now time.Time) (kmodquery.Event, bool) {
	// The key alone names the event, unless its value is null.
	i := slices.IndexFunc(esloggerEvents, func(name string) bool {
		return len(r.Event[name]) > 0 && string(r.Event[name]) != "null"
	})
	if i < 0 {
		return kmodquery.Event{}, false
	}
	var kext struct{ Identifier string }                  // the bundle id
	_ = json.Unmarshal(r.Event[esloggerEvents[i]], &kext) // a value that is no object has none
	at, known := r.at()
	if !known {
		at = now
	}
	e := boot.StampAt(at, now)
	if !known {
		e.Missing.Add("time", "time_nanos")
	}
	e.EventName, e.Source = esloggerEvents[i], kmodquery.SourceEndpointSecurity
	e.Name, e.Type, e.Count = kext.Identifier, kmodquery.TypeKernelModule, new(int64(1))
	e.LoadID = newLoadID(&e, r)
	if e.EventName == kmodquery.EventKextload {
		e.Missing.Add(missingColumns...)
		setVerdict(&e, r.Action.Result.Result.Auth.value)
	}
	setProcess(&e, &r.Process)
	if e.Name == "" {
		e.Missing.Add("name")
	}
	if len(line) <= maxRaw {
		e.Raw = string(line)
	} else {
		e.Missing.Add("raw")
	}
	return e, true
}

// setVerdict sets what a verdict says of a load. eslogger prints the record before the
// extension is linked or started, so an allowed load can still fail. An unload has no
// verdict: Endpoint Security prints a number that means nothing.
func setVerdict(e *kmodquery.Event, auth *int64) {
	switch {
	case auth != nil && *auth == 0:
		e.Verdict = kmodquery.VerdictAllow
	case auth != nil && *auth == 1:
		e.Verdict, e.Result, e.Error = kmodquery.VerdictDeny, new(int64(-eperm)), "EPERM"
		return
	default:
		e.Missing.Add("verdict")
	}
	e.Missing.Add("result")
}

// setProcess sets what is known about the requesting process.
func setProcess(e *kmodquery.Event, p *recordProcess) {
	e.ProcessSigningID, e.ProcessTeamID = p.SigningID, p.TeamID
	e.ProcessPath = p.Executable.Path
	if e.ProcessPath != "" {
		e.ProcessName = path.Base(e.ProcessPath)
	}
	if e.ProcessPath == "" || p.Executable.PathTruncated {
		e.Missing.Add("process_path", "process_name")
	}
	t := p.AuditToken
	for _, id := range []struct {
		column string
		to     **int64
		value  maybe[int64]
	}{
		{"pid", &e.Pid, t["pid"]},
		{"parent", &e.Parent, p.Ppid},
		{"uid", &e.UID, t["ruid"]},
		{"euid", &e.EUID, t["euid"]},
		{"gid", &e.GID, t["rgid"]},
		{"egid", &e.EGID, t["egid"]},
		{"auid", &e.AUID, t["auid"]},
		{"session_id", &e.SessionID, t["asid"]},
	} {
		if *id.to = id.value.value; *id.to == nil {
			e.Missing.Add(id.column)
		}
	}
}

// newLoadID returns the load_id of the attempt that a record reports. The same
// record always has the same one.
func newLoadID(e *kmodquery.Event, r *record) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s\x00%s\x00%d", e.BootID, e.Source, e.EventName, e.Name, r.Time, r.MachTime))
	return hex.EncodeToString(sum[:8])
}
