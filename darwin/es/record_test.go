package es

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
)

// Records as releases of macOS print them, one of each format.
const (
	// macOS 13: version 6, slashes escaped.
	ventura = `{"schema_version":1,"version":6,"event_type":17,"event":{"kextload":{"identifier":"com.example.driver"}},` +
		`"time":"2026-11-20T09:30:01.123456789Z","mach_time":88123456789,"seq_num":4,"global_seq_num":9,"action_type":1,` +
		`"action":{"result":{"result_type":0,"result":{"auth":0}}},"thread":{"thread_id":5511},` +
		`"process":{"audit_token":{"pid":212,"euid":0,"ruid":501,"egid":20,"rgid":80,"auid":501,"asid":100007,"pidversion":441},` +
		`"parent_audit_token":{"pid":1,"euid":0,"ruid":0,"egid":0,"rgid":0,"auid":4294967295,"asid":1,"pidversion":2},` +
		`"ppid":1,"original_ppid":1,"group_id":212,"session_id":212,"is_platform_binary":true,"is_es_client":false,` +
		`"signing_id":"com.apple.kernelmanagerd","team_id":"ABCDE12345","tty":null,"cdhash":"0123456789ABCDEF0123456789ABCDEF01234567",` +
		`"codesigning_flags":570522385,"start_time":"2026-11-20T08:00:00.000000000Z",` +
		`"executable":{"path":"\/usr\/libexec\/kernelmanagerd","path_truncated":false,"stat":{"st_ino":1152921500312}}}}`
	// macOS 26: version 10, tokens as numbers, other order, unknown keys.
	tahoe = `{"future":{"of":["anything"]},"process":{"team_id":null,"executable":{"stat":{},"path_truncated":false,"path":"/usr/libexec/kernelmanagerd"},` +
		`"audit_token":[4294967295,0,0,0,0,212,100000,441],"signing_id":"com.apple.kernelmanagerd","ppid":1},` +
		`"action":{"result":{"result":{"auth":1},"result_type":0}},"action_type":1,"global_seq_num":10,"mach_time":88123456790,` +
		`"time":"2026-11-20T09:30:02.000000001Z","event":{"kextunload":{"identifier":"com.example.driver"}},"event_type":18,"version":10,"schema_version":1}`
)

// esBoot and esNow are the boot and the time at which these tests read a record.
var (
	esBoot = host.Boot{ID: "6C9B7F0E-51B4-4B5E-9E5B-0C1D2E3F4A5B", Uptime: time.Hour}
	esNow  = time.Date(2026, 11, 20, 9, 30, 11, 0, time.UTC)
)

func event(t *testing.T, line string) kmodquery.Event {
	t.Helper()
	r, err := parseRecord([]byte(line))
	require.NoError(t, err)
	e, ok := newEvent(&r, []byte(line), esBoot, esNow)
	require.True(t, ok)
	return e
}

func TestTheEventOfAnAllowedLoad(t *testing.T) {
	require.Equal(t, kmodquery.Event{
		Time: 1795167001, TimeNanos: 1795167001123456789, Uptime: new(int64(3590)), BootID: esBoot.ID,
		EventName: "kextload", Source: "endpoint_security", LoadID: event(t, ventura).LoadID, Name: "com.example.driver",
		Type: "kernel-module", Count: new(int64(1)),
		Verdict: "allow", Pid: new(int64(212)), Parent: new(int64(1)), ProcessName: "kernelmanagerd", ProcessPath: "/usr/libexec/kernelmanagerd",
		UID: new(int64(501)), EUID: new(int64(0)), GID: new(int64(80)), EGID: new(int64(20)), AUID: new(int64(501)), SessionID: new(int64(100007)),
		// The signature is that of the process.
		ProcessSigningID: "com.apple.kernelmanagerd", ProcessTeamID: "ABCDE12345",
		Missing: "path,version,team_id,cdhash,cmdline,sha256,signature_status,result", Raw: ventura,
	}, event(t, ventura))
}

func TestAnUnloadHasNoVerdict(t *testing.T) {
	e := event(t, tahoe)
	require.Equal(t, kmodquery.Event{
		Time: 1795167002, TimeNanos: 1795167002000000001, Uptime: new(int64(3591)), BootID: esBoot.ID,
		EventName: "kextunload", Source: "endpoint_security", LoadID: e.LoadID, Name: "com.example.driver",
		Type: "kernel-module", Count: new(int64(1)),
		Pid: new(int64(212)), Parent: new(int64(1)), ProcessName: "kernelmanagerd", ProcessPath: "/usr/libexec/kernelmanagerd",
		UID: new(int64(0)), EUID: new(int64(0)), GID: new(int64(0)), EGID: new(int64(0)), AUID: new(int64(4294967295)), SessionID: new(int64(100000)),
		ProcessSigningID: "com.apple.kernelmanagerd", Raw: tahoe,
	}, e)
}

func TestTheEventOfADeniedLoad(t *testing.T) {
	e := event(t, strings.Replace(ventura, `"auth":0`, `"auth":1`, 1))
	require.Equal(t, "deny EPERM", e.Verdict+" "+e.Error)
	require.EqualValues(t, -1, *e.Result)
	require.False(t, e.Missing.Has("result"))
}

func TestALoadIDIdentifiesARecord(t *testing.T) {
	first := event(t, ventura)
	require.Regexp(t, "^[0-9a-f]{16}$", first.LoadID)
	require.Equal(t, first.LoadID, event(t, ventura).LoadID, "the same record")
	for _, change := range [][2]string{
		{"09:30:01.123456789", "09:30:01.123456790"}, {"88123456789", "88123456790"}, {"com.example.driver", "com.example.other"}, {"kextload", "kextunload"},
	} {
		require.NotEqual(t, first.LoadID, event(t, strings.ReplaceAll(ventura, change[0], change[1])).LoadID, change)
	}
}

func TestUnknownValuesAreNamedInMissing(t *testing.T) {
	tests := []struct {
		name, line string
		missing    string // including the columns that every load lacks
		check      func(*testing.T, kmodquery.Event)
	}{
		{"only the extension", `{"event":{"kextload":{"identifier":"a.b"}}}`,
			"time,time_nanos,path,version,team_id,cdhash,cmdline,sha256,signature_status,verdict,result,process_path,process_name,pid,parent,uid,euid,gid,egid,auid,session_id",
			func(t *testing.T, e kmodquery.Event) { require.Equal(t, esNow.Unix(), e.Time) }},
		{"no name", strings.Replace(ventura, `"com.example.driver"`, "null", 1), "path,version,team_id,cdhash,cmdline,sha256,signature_status,result,name", nil},
		{"a name of another type", strings.Replace(ventura, `"com.example.driver"`, "7", 1), "path,version,team_id,cdhash,cmdline,sha256,signature_status,result,name", nil},
		{"an extension of another type", strings.Replace(ventura, `{"identifier":"com.example.driver"}`, `"com.example.driver"`, 1), "path,version,team_id,cdhash,cmdline,sha256,signature_status,result,name", nil},
		{"a parent of another type", strings.Replace(tahoe, `"ppid":1`, `"ppid":"launchd"`, 1), "parent", nil},
		{"an action of another type", strings.Replace(ventura, `{"result":{"result_type":0,"result":{"auth":0}}}`, `[0]`, 1), "path,version,team_id,cdhash,cmdline,sha256,signature_status,verdict,result", nil},
		{"an unknown verdict", strings.Replace(ventura, `"auth":0`, `"auth":7`, 1), "path,version,team_id,cdhash,cmdline,sha256,signature_status,verdict,result", nil},
		{"flags instead of a verdict", strings.Replace(ventura, `"auth":0`, `"flags":0`, 1), "path,version,team_id,cdhash,cmdline,sha256,signature_status,verdict,result", nil},
		{"a verdict as text", strings.Replace(ventura, `"auth":0`, `"auth":"allow"`, 1), "path,version,team_id,cdhash,cmdline,sha256,signature_status,verdict,result",
			func(t *testing.T, e kmodquery.Event) { require.Equal(t, "/usr/libexec/kernelmanagerd", e.ProcessPath) }},
		{"a truncated path", strings.Replace(ventura, `"path_truncated":false`, `"path_truncated":true`, 1),
			"path,version,team_id,cdhash,cmdline,sha256,signature_status,result,process_path,process_name", nil},
		{"a short token", strings.Replace(tahoe, ",441]", "]", 1), "pid,uid,euid,gid,egid,auid,session_id", nil},
		{"a token of texts", strings.Replace(tahoe, "[4294967295,0,0,0,0,212,100000,441]", `["a"]`, 1), "pid,uid,euid,gid,egid,auid,session_id", nil},
		{"no token", strings.Replace(tahoe, "[4294967295,0,0,0,0,212,100000,441]", `null`, 1), "pid,uid,euid,gid,egid,auid,session_id", nil},
		{"a token that is a number", strings.Replace(tahoe, "[4294967295,0,0,0,0,212,100000,441]", `7`, 1), "pid,uid,euid,gid,egid,auid,session_id", nil},
		{"negative user IDs", strings.NewReplacer(`"auid":501`, `"auid":-1`, `"ruid":501`, `"ruid":-2`).Replace(ventura), "path,version,team_id,cdhash,cmdline,sha256,signature_status,result",
			func(t *testing.T, e kmodquery.Event) {
				require.EqualValues(t, 4294967295, *e.AUID)
				require.EqualValues(t, 4294967294, *e.UID)
			}},
		{"an invalid time", strings.Replace(ventura, "2026-11-20T09", "yesterday", 1), "time,time_nanos,path,version,team_id,cdhash,cmdline,sha256,signature_status,result",
			func(t *testing.T, e kmodquery.Event) { require.Equal(t, esNow.UnixNano(), e.TimeNanos) }},
		{"a record that is too long for the raw column", strings.Replace(ventura, `"tty":null`, `"tty":"`+strings.Repeat("t", maxRaw)+`"`, 1),
			"path,version,team_id,cdhash,cmdline,sha256,signature_status,result,raw", func(t *testing.T, e kmodquery.Event) { require.Empty(t, e.Raw) }},
		{"text before the object", "^[[0m notice " + ventura, "path,version,team_id,cdhash,cmdline,sha256,signature_status,result",
			func(t *testing.T, e kmodquery.Event) { require.Equal(t, "com.example.driver", e.Name) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := event(t, test.line)
			require.Equal(t, test.missing, e.Missing.String())
			if test.check != nil {
				test.check(t, e)
			}
		})
	}
}

func TestOtherRecordsMakeNoEvent(t *testing.T) {
	for _, line := range []string{
		`{"event":{}}`,
		`{"event":{"exec":{"target":{}}},"event_type":9}`,
		`{"event":{"kextload":null}}`,
	} {
		r, err := parseRecord([]byte(line))
		require.NoError(t, err)
		_, ok := newEvent(&r, []byte(line), esBoot, esNow)
		require.False(t, ok, line)
	}
	for _, line := range []string{"", "notice", "{", `{}`, `{"event":[]}`, `{"event":null}`, `{"event":`, ventura[:len(ventura)-1], ventura + ventura, `{"event":{"kextload":{"identifier":"a"}}} x`} {
		_, err := parseRecord([]byte(line))
		require.Error(t, err, line)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(ventura))
	f.Add([]byte(tahoe))
	f.Add([]byte(`{"event":{"kextload":{"identifier":"a\u0000\ud800"}},"process":{"audit_token":[-1,-1,-1,-1,-1,-1,-1,-1]}}`))
	f.Add([]byte(`text {"event":{"kextunload":{}},"time":"0000-01-01T00:00:00Z","global_seq_num":18446744073709551615}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseRecord(line)
		if err != nil {
			return
		}
		e, ok := newEvent(&r, line, esBoot, esNow)
		if !ok {
			return
		}
		require.Contains(t, []string{"kextload", "kextunload"}, e.EventName)
		require.Equal(t, "endpoint_security", e.Source)
		require.Len(t, e.LoadID, 16)
		require.Positive(t, e.Time)
		require.Equal(t, e.Time, time.Unix(0, e.TimeNanos).Unix())
		require.Empty(t, e.TeamID)
		require.Empty(t, e.CDHash)
		require.LessOrEqual(t, len(e.Raw), maxRaw)
		for _, id := range []*int64{e.UID, e.EUID, e.GID, e.EGID, e.AUID} {
			require.True(t, id == nil || *id >= 0)
		}
		_, err = json.Marshal(e)
		require.NoError(t, err)
	})
}
