//go:build linux

package audit

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/linux/audit/record"
)

// testTranslator has the boot of the records in these tests.
var testTranslator = translator{bootID: "5f3e", bootTime: time.Unix(1795529430, 0)}

// The lines that Debian's 6.1 and its audit daemon log for an insmod, the load of a
// loaded module from memory, an rmmod and a denied call, with
// $ID for time and serial number.
const (
	insmodLines = `type=SYSCALL msg=audit($ID): arch=c000003e syscall=313 success=yes exit=0 a0=3 a1=55efa71282a0 a2=4 a3=0 items=0 ppid=99 pid=101 auid=1000 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=3 comm="insmod" exe="/usr/bin/kmod" subj=unconfined key="kmodquery"
type=KERN_MODULE msg=audit($ID): name="dummy"
type=PROCTITLE msg=audit($ID): proctitle=696E736D6F640064756D6D792E6B6F006E756D64756D6D6965733D32
`
	memoryLines = `type=SYSCALL msg=audit($ID): arch=c000003e syscall=175 success=no exit=-17 a0=20e247040000 a1=4459 a2=20e246f1701d a3=0 items=0 ppid=92 pid=116 auid=4294967295 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=4294967295 comm="init" exe="/init" subj=unconfined key="kmodquery"
type=KERN_MODULE msg=audit($ID): name="dummy"
type=PROCTITLE msg=audit($ID): proctitle="/init"
`
	rmmodLines = `type=SYSCALL msg=audit($ID): arch=c000003e syscall=176 success=yes exit=0 a0=5562b270d7b0 a1=800 a2=3 a3=0 items=0 ppid=99 pid=102 auid=4294967295 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=4294967295 comm="rmmod" exe="/usr/bin/kmod" subj=unconfined key="kmodquery"
type=KERN_MODULE msg=audit($ID): name="dummy"
type=PROCTITLE msg=audit($ID): proctitle=726D6D6F640064756D6D79
`
	deniedLines = `type=SYSCALL msg=audit($ID): arch=c000003e syscall=175 success=no exit=-1 a0=1fb803c93daf a1=1 a2=1fb803bd106d a3=0 items=0 ppid=92 pid=122 auid=4294967295 uid=1000 gid=1000 euid=1000 suid=1000 fsuid=1000 egid=1000 sgid=1000 fsgid=1000 tty=(none) ses=4294967295 comm="init" exe="/init" subj=unconfined key="kmodquery"
type=PROCTITLE msg=audit($ID): proctitle=2F696E697400666C6F6F64
`
)

// withSerial puts an id into records.
func withSerial(text string, serial int) string {
	return strings.ReplaceAll(text, "$ID", fmt.Sprintf("1795529435.180:%d", serial))
}

// The records of loads that IMA and SELinux deny, which come before the call's.
const (
	deniedByIMA = `type=INTEGRITY_DATA msg=audit($ID): pid=3131 uid=0 auid=1000 ses=2 subj=unconfined op=appraise_data cause=IMA-signature-required comm="insmod" name="/root/evil.ko" dev="dm-0" ino=1234 res=0 errno=0
`
	deniedBySELinux = `type=AVC msg=audit($ID): avc:  denied  { module_load } for  pid=3200 comm="insmod" path="/tmp/evil.ko" dev="tmpfs" ino=77 scontext=user_u:user_r:user_t:s0 tcontext=user_u:object_r:user_tmp_t:s0 tclass=system permissive=0
`
	deniedSyscall = `type=SYSCALL msg=audit($ID): arch=c000003e syscall=313 success=no exit=-13 a0=3 a1=55d0c3a0b2c0 a2=0 a3=0 items=0 ppid=3100 pid=3200 auid=1001 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts2 ses=5 comm="insmod" exe="/usr/bin/kmod" subj=user_u:user_r:user_t:s0 key="modules"
type=PROCTITLE msg=audit($ID): proctitle=696E736D6F64006576696C2E6B6F
`
)

func TestDenialsKeepThePathOfTheirRecord(t *testing.T) {
	for text, want := range map[string]string{
		deniedByIMA + deniedSyscall:     "/root/evil.ko",
		deniedBySELinux + deniedSyscall: "/tmp/evil.ko",
		strings.Replace(deniedBySELinux, "tclass=system", "tclass=file", 1) + deniedSyscall:                               "", // of a file that the call's process reads
		strings.Replace(deniedByIMA, "/root/evil.ko", "evil.ko", 1) + deniedSyscall:                                       "",
		strings.Replace(deniedByIMA, "/root/evil.ko", "/lib/firmware/evil.bin", 1) + deniedSyscall:                        "", // of a file that its init reads
		strings.Replace(deniedByIMA, "$ID", "1795529435.180:99", 1) + deniedSyscall:                                       "",
		strings.Repeat(strings.Replace(deniedByIMA, "$ID", "1795529435.180:99", 1), 63) + deniedBySELinux + deniedSyscall: "/tmp/evil.ko",
		deniedBySELinux + strings.Repeat(strings.Replace(deniedByIMA, "$ID", "1795529435.180:99", 1), 64) + deniedSyscall: "", // bounded
	} {
		e := eventOf(t, withSerial(text, 711))
		require.Equal(t, want, e.Path)
		require.Equal(t, want == "", e.Missing.Has("path"))
		require.EqualValues(t, -13, *e.Result)
		require.Equal(t, "EACCES", e.Error)
		require.Equal(t, strings.Contains(e.Raw, "evil.ko"), want != "")
	}
}

// eventOf returns the event of a log.
func eventOf(t *testing.T, text string) kmodquery.Event {
	t.Helper()
	var events []kmodquery.Event
	a := record.NewAssembler(func(e record.Event) { events = append(events, testTranslator.event(e)) })
	for line := range strings.Lines(text) {
		r, err := record.ParseLine(strings.TrimSuffix(line, "\n"))
		require.NoError(t, err)
		a.Add(r, 0, time.Unix(0, 0))
	}
	a.Flush()
	require.Len(t, events, 1)
	return events[0]
}

// withCommon sets the fields that all events of the lines above share.
func withCommon(e kmodquery.Event, serial int, text string) kmodquery.Event {
	e.Time, e.TimeNanos, e.Uptime = 1795529435, 1795529435180e6, new(int64(5))
	e.BootID, e.Source, e.Count = "5f3e", "audit", new(int64(1))
	e.LoadID = testTranslator.loadID(record.ID{Millis: 1795529435180, Serial: uint32(serial)}, "5f3e")
	e.Raw = strings.TrimSuffix(withSerial(text, serial), "\n")
	return e
}

const (
	wantMissing      = "tid,capabilities,ancestors,cgroup,container_id,mnt_ns,pid_ns,user_ns,cwd"
	wantMissingFile  = ",path,origin,filesystem,device,inode,size,mtime,ctime"
	wantMissingImage = ",sha256,image_sha256,vermagic,license,intree,signer,signature_key_id,signature_hash,version,srcversion,first_seen,taints"
)

func TestEventsHaveTheRecordsFields(t *testing.T) {
	root := kmodquery.Event{
		UID: new(int64(0)), GID: new(int64(0)), EUID: new(int64(0)), EGID: new(int64(0)),
		AUID: new(int64(4294967295)), SessionID: new(int64(4294967295)),
	}
	insmod := root
	insmod.EventName, insmod.Type, insmod.Name, insmod.Flags = "finit_module", "kernel-module", "dummy", new(int64(4))
	insmod.Result, insmod.Pid, insmod.Parent, insmod.AUID, insmod.SessionID = new(int64(0)), new(int64(101)), new(int64(99)), new(int64(1000)), new(int64(3))
	insmod.ProcessName, insmod.ProcessPath, insmod.Cmdline = "insmod", "/usr/bin/kmod", "insmod dummy.ko numdummies=2"
	insmod.SignatureStatus, insmod.Missing = "unknown", wantMissing+",params,requested_by"+wantMissingFile+wantMissingImage
	require.Equal(t, withCommon(insmod, 2, insmodLines), eventOf(t, withSerial(insmodLines, 2)))

	memory := root
	memory.EventName, memory.Type, memory.Origin, memory.Name, memory.Size = "init_module", "kernel-module", "memory", "dummy", new(int64(0x4459))
	memory.Result, memory.Error, memory.Pid, memory.Parent = new(int64(-17)), "EEXIST", new(int64(116)), new(int64(92))
	memory.ProcessName, memory.ProcessPath, memory.Cmdline = "init", "/init", "/init"
	memory.SignatureStatus, memory.Missing = "unknown", wantMissing+",params,requested_by"+wantMissingImage
	require.Equal(t, withCommon(memory, 3, memoryLines), eventOf(t, withSerial(memoryLines, 3)))

	rmmod := root
	rmmod.EventName, rmmod.Name, rmmod.Flags = "delete_module", "dummy", new(int64(0x800))
	rmmod.Result, rmmod.Pid, rmmod.Parent = new(int64(0)), new(int64(102)), new(int64(99))
	rmmod.ProcessName, rmmod.ProcessPath, rmmod.Cmdline = "rmmod", "/usr/bin/kmod", "rmmod dummy"
	rmmod.Missing = wantMissing
	require.Equal(t, withCommon(rmmod, 4, rmmodLines), eventOf(t, withSerial(rmmodLines, 4)))

	denied := eventOf(t, withSerial(deniedLines, 5))
	require.Equal(t, "EPERM", denied.Error)
	require.Equal(t, "/init flood", denied.Cmdline)
	require.True(t, denied.IsUnprivileged())
	require.Equal(t, strings.Replace(wantMissing, ",cwd", ",name,cwd", 1)+",params,requested_by", denied.Missing.String())
}

func TestUnusualFieldsAreTranslated(t *testing.T) {
	for _, test := range []struct {
		name     string
		old, new string
		check    func(t *testing.T, e kmodquery.Event)
	}{
		{"a name in hexadecimal", `name="dummy"`, `name=612022783D`, func(t *testing.T, e kmodquery.Event) {
			require.Equal(t, `a "x=`, e.Name)
		}},
		{"a name of another program", `comm="insmod"`, `comm=782220657865`, func(t *testing.T, e kmodquery.Event) {
			require.Equal(t, `x" exe`, e.ProcessName)
			require.Equal(t, "/usr/bin/kmod", e.ProcessPath)
		}},
		{"a thread of the kernel's", `exe="/usr/bin/kmod"`, `exe=(null)`, func(t *testing.T, e kmodquery.Event) {
			require.Empty(t, e.ProcessPath)
			require.NotContains(t, e.Missing, "process_path")
		}},
		{"no executable", ` exe="/usr/bin/kmod"`, ``, func(t *testing.T, e kmodquery.Event) {
			require.Contains(t, e.Missing, ",process_path")
		}},
		{"a signature that was refused", `success=yes exit=0`, `success=no exit=-129`, func(t *testing.T, e kmodquery.Event) {
			require.Equal(t, "EKEYREJECTED", e.Error)
			require.Equal(t, kmodquery.SignatureRejected, e.SignatureStatus)
		}},
		{"denied after the kernel had the module", `success=yes exit=0`, `success=no exit=-1`, func(t *testing.T, e kmodquery.Event) {
			require.Equal(t, "EPERM", e.Error)
			require.False(t, e.IsUnprivileged())
		}},
		{"a result that has no name", `success=yes exit=0`, `success=no exit=-512`, func(t *testing.T, e kmodquery.Event) {
			require.EqualValues(t, -512, *e.Result)
			require.Equal(t, "errno 512", e.Error)
		}},
		{"a title that was cut", `proctitle=696E736D6F640064756D6D792E6B6F006E756D64756D6D6965733D32`, "proctitle=" + strings.Repeat("00", 128), func(t *testing.T, e kmodquery.Event) {
			require.Contains(t, e.Missing, ",cmdline")
		}},
		{"no title", `proctitle=696E736D6F640064756D6D792E6B6F006E756D64756D6D6965733D32`, `proctitle=(null)`, func(t *testing.T, e kmodquery.Event) {
			require.Empty(t, e.Cmdline)
			require.NotContains(t, e.Missing, ",cmdline")
		}},
		{"an argument of 64 bits", `a2=4`, `a2=ffffffff00000004`, func(t *testing.T, e kmodquery.Event) {
			require.Nil(t, e.Flags)
			require.Contains(t, e.Missing, ",flags")
		}},
		{"fields that are absent", `ppid=99 pid=101 auid=1000 `, ``, func(t *testing.T, e kmodquery.Event) {
			require.Nil(t, e.Pid)
			require.Contains(t, e.Missing, ",pid,parent,auid,")
		}},
		{"an earlier boot", `1795529435.180`, `1795529000.180`, func(t *testing.T, e kmodquery.Event) {
			require.Empty(t, e.BootID)
			require.Nil(t, e.Uptime)
			require.Contains(t, e.Missing, "boot_id,uptime")
		}},
		{"a folder", `type=PROCTITLE`, `type=CWD msg=audit($ID): cwd="/root"
type=PATH msg=audit($ID): item=0 name="/sys/kernel/debug/x.ko" inode=5 dev=00:06 mode=0100400 ouid=0 ogid=0 rdev=00:00 nametype=CREATE
type=PATH msg=audit($ID): item=1 name="/lib/modules" inode=5 dev=00:06 mode=040755 nametype=NORMAL
type=PROCTITLE`, func(t *testing.T, e kmodquery.Event) {
			require.Equal(t, "/root", e.Cwd)
			require.Empty(t, e.Path, "a file that the module creates is not its own")
			require.NotContains(t, e.Missing, ",cwd")
		}},
		{"a path", `type=PROCTITLE`, `type=PATH msg=audit($ID): item=0 name=2F6D792064756D6D792E6B6F2E787A inode=5 dev=00:06 mode=0100644 nametype=NORMAL
type=PROCTITLE`, func(t *testing.T, e kmodquery.Event) {
			require.Equal(t, "/my dummy.ko.xz", e.Path)
			require.Equal(t, kmodquery.OriginFile, e.Origin)
			require.NotContains(t, e.Missing, ",path,")
		}},
		{"arguments", `type=PROCTITLE msg=audit($ID): proctitle=696E736D6F640064756D6D792E6B6F006E756D64756D6D6965733D32`,
			`type=EXECVE msg=audit($ID): argc=3 a0="insmod" a1=6120622E6B6F a2="x=1"`, func(t *testing.T, e kmodquery.Event) {
				require.Equal(t, "insmod a b.ko x=1", e.Cmdline)
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := strings.Replace(withSerial(insmodLines, 2), withSerial(test.old, 2), withSerial(test.new, 2), 1)
			if test.name == "an earlier boot" {
				text = strings.ReplaceAll(withSerial(insmodLines, 2), test.old, test.new)
			}
			require.NotEqual(t, withSerial(insmodLines, 2), text)
			test.check(t, eventOf(t, text))
		})
	}
}

func TestLoadIDsAreStablePerRecord(t *testing.T) {
	first := eventOf(t, withSerial(insmodLines, 2))
	require.Equal(t, first.LoadID, eventOf(t, withSerial(insmodLines, 2)).LoadID)
	require.NotEqual(t, first.LoadID, eventOf(t, withSerial(insmodLines, 3)).LoadID)
	require.Regexp(t, "^[0-9a-f]{16}$", first.LoadID)
}

func TestRawTextIsBounded(t *testing.T) {
	var records []record.Record
	for range 100 {
		r, err := record.ParseMessage(auparse.AUDIT_PATH, "audit(1795529435.180:2): name=\"a\nb\" "+strings.Repeat("x", 8000))
		require.NoError(t, err)
		records = append(records, r)
	}
	raw := rawText(&record.Event{Records: records})
	require.LessOrEqual(t, len(raw), maxRaw)
	require.Equal(t, 1, strings.Count(raw, "\n"))
}
