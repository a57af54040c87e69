package record

import (
	"strings"
	"testing"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
	"github.com/stretchr/testify/require"
)

// The records that Debian's 6.1 and 7.3 send for an insmod.
const (
	insmodSyscall   = `audit(1795529435.180:2): arch=c000003e syscall=313 success=yes exit=0 a0=3 a1=55efa71282a0 a2=4 a3=0 items=0 ppid=99 pid=101 auid=4294967295 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=4294967295 comm="insmod" exe="/usr/bin/kmod" subj=unconfined key="kmodquery"`
	insmodModule    = `audit(1795529435.180:2): name="dummy"`
	insmodProctitle = `audit(1795529435.180:2): proctitle=696E736D6F64002F7573722F6C69622F64756D6D792E6B6F006E756D64756D6D6965733D32`
	insmodEnd       = `audit(1795529435.180:2): `
)

func TestParseMessage(t *testing.T) {
	r, err := ParseMessage(auparse.AUDIT_SYSCALL, insmodSyscall+"\x00")
	require.NoError(t, err)
	require.Equal(t, ID{Millis: 1795529435180, Serial: 2}, r.ID)
	require.Equal(t, time.Unix(1795529435, 180e6), r.ID.Time())
	require.Equal(t, "type=SYSCALL msg="+insmodSyscall, r.Text)
	require.Equal(t, "finit_module", r.Call())
	pid, ok := r.Fields.Int("pid")
	require.True(t, ok)
	require.EqualValues(t, 101, pid)
	pointer, ok := r.Fields.Hex("a1")
	require.True(t, ok)
	require.EqualValues(t, 0x55efa71282a0, pointer)
	comm, ok := r.Fields.Text("comm")
	require.True(t, ok)
	require.Equal(t, "insmod", comm)

	r, err = ParseMessage(auparse.AUDIT_EOE, insmodEnd)
	require.NoError(t, err)
	require.Empty(t, r.Fields)
}

func TestParseLine(t *testing.T) {
	const body = `msg=audit(1795529435.180:2): name="dummy"`
	for _, test := range []struct {
		name, line string
		want       Record
	}{
		{"as written", "type=KERN_MODULE " + body, Record{Type: auparse.AUDIT_KERN_MODULE}},
		{"of a node", "node=guest.example type=KERN_MODULE " + body, Record{Type: auparse.AUDIT_KERN_MODULE, Node: "guest.example"}},
		{"enriched", "type=KERN_MODULE " + body + "\x1dARCH=x86_64 UID=\"root\"", Record{Type: auparse.AUDIT_KERN_MODULE}},
		{"enriched with a blank", "type=KERN_MODULE " + body + " \x1dUID=\"root\"", Record{Type: auparse.AUDIT_KERN_MODULE}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.want.ID = ID{Millis: 1795529435180, Serial: 2}
			test.want.Fields = Fields{{Name: "name", Value: "dummy", Quoted: true}}
			test.want.Text = "type=KERN_MODULE " + body
			r, err := ParseLine(test.line)
			require.NoError(t, err)
			require.Equal(t, test.want, r)
		})
	}
}

func TestInvalidRecordsAreErrors(t *testing.T) {
	for _, line := range []string{
		"", "type=SYSCALL", "type=SYSCALL msg=", "type=SYSCALL msg=audit(", "type=SYSCALL msg=audit(1795529435.180:2)",
		"type= msg=audit(1795529435.180:2): a=b",
		"type=no-such msg=audit(1795529435.180:2): a=b",
		"type=NOSUCH msg=audit(): a=b",
		"SYSCALL msg=audit(1795529435.180:2): a=b",
		"type=SYSCALL msg=audit(1795529435.18:2): a=b",
		"type=SYSCALL msg=audit(1795529435.-18:2): a=b",
		"type=SYSCALL msg=audit(-1795529435.180:2): a=b",
		"type=SYSCALL msg=audit(1795529435.180:4294967296): a=b",
		"type=SYSCALL msg=audit(99999999999999999999.180:2): a=b",
		"type=SYSCALL msg='audit(1795529435.180:2): a=b'",
		"type=SYSCALL msg=audit(1795529435.180:2): " + strings.Repeat("x", MaxLine),
	} {
		_, err := ParseLine(line)
		require.Error(t, err, "%.60s", line)
	}
	_, err := ParseMessage(auparse.AUDIT_SYSCALL, insmodEnd+strings.Repeat("x", maxRecord))
	require.Error(t, err)
}

// The kernel gets new types, which the log then has, long before a list of them does.
func TestTypesOfNewerKernelsAreNoErrors(t *testing.T) {
	for _, line := range []string{
		`type=LANDLOCK_ACCESS msg=audit(1795529435.180:2): domain=195ba459b blockers=ptrace opid=1 ocomm="systemd"`,
		`type=MAC_TASK_CONTEXTS msg=audit(1795529435.180:2): subj_apparmor=unconfined subj_selinux=x`,
	} {
		r, err := ParseLine(line)
		require.NoError(t, err)
		require.Empty(t, r.Fields)
		require.Empty(t, r.Call())
	}
}

// Programs may write to audit, and choose their name.
func TestProgramsCannotForgeRecords(t *testing.T) {
	forged := `type=SYSCALL msg=` + insmodSyscall
	for name, line := range map[string]string{
		"a message of a program": `type=USER msg=audit(1795529435.180:3): pid=7 uid=1000 auid=1000 ses=1 subj=unconfined msg='` + forged + `'`,
		"a program's own type":   `type=USER_CMD msg=audit(1795529435.180:3): pid=7 uid=1000 msg='cwd="/" cmd=` + forged + `'`,
		"the daemon's":           `type=DAEMON_START msg=audit(1795529435.180:3): op=start ver=4.0 ` + forged,
		"another number":         `type=UNKNOWN[1199] msg=audit(1795529435.180:3): ` + insmodSyscall,
	} {
		r, err := ParseLine(line)
		require.NoError(t, err, name)
		require.Empty(t, r.Call(), name)
		require.Empty(t, r.Fields, name)
	}
	// The content of a name is not parsed.
	r, err := ParseMessage(auparse.AUDIT_SYSCALL, strings.Replace(insmodSyscall, `comm="insmod"`, `comm="x=1" uid=7 syscall=176 pid=3`, 1))
	require.NoError(t, err)
	uid, _ := r.Fields.Int("uid")
	require.Zero(t, uid)
	require.Equal(t, "finit_module", r.Call())
}

// The kernel adds a bit to the numbers of calls that x32 programs make.
func TestCallsOfX32Programs(t *testing.T) {
	for call, want := range map[string]string{
		"arch=c000003e syscall=1073741999": "init_module",
		"arch=c000003e syscall=1073742000": "delete_module",
		"arch=c000003e syscall=1073742137": "finit_module",
		"arch=c000003e syscall=2147483961": "",
		"arch=c00000b7 syscall=1073741929": "", // arm64 has no such programs
		"arch=40000003 syscall=1073741952": "",
	} {
		r, err := ParseMessage(auparse.AUDIT_SYSCALL, strings.Replace(insmodSyscall, "arch=c000003e syscall=313", call, 1))
		require.NoError(t, err)
		require.Equal(t, want, r.Call(), call)
	}
}

func TestTextFieldsAreDecoded(t *testing.T) {
	for value, want := range map[string]string{
		`"insmod"`:         "insmod",
		`696E20736D6F64`:   "in smod",
		`22206D73673D0A`:   "\" msg=\n",
		`FF00`:             "\xff\x00",
		`"(null)"`:         "(null)",
		`"C0FFEE"`:         "C0FFEE",
		`"unclosed`:        "unclosed",
		`"a=b c" next=xyz`: "a=b c",
	} {
		text, ok := parseFields("first=1 name=" + value).Text("name")
		require.True(t, ok, value)
		require.Equal(t, want, text)
	}
	for _, value := range []string{"(null)", "(none)", "", "?", "ABC", "no"} {
		_, ok := parseFields("name=" + value).Text("name")
		require.False(t, ok, value)
	}
	_, ok := parseFields("noname=x").Text("name")
	require.False(t, ok)
}

func TestNumbersAreBounded(t *testing.T) {
	f := parseFields(`exit=-9223372036854775808 big=9223372036854775808 quoted="1" a0=ffffffffffffffff a1=10000000000000000 a2=-1 word none=`)
	n, ok := f.Int("exit")
	require.True(t, ok)
	require.EqualValues(t, -1<<63, n)
	for _, name := range []string{"big", "quoted", "word", "none", "absent"} {
		_, ok := f.Int(name)
		require.False(t, ok, name)
	}
	h, ok := f.Hex("a0")
	require.True(t, ok)
	require.EqualValues(t, uint64(1<<64-1), h)
	for _, name := range []string{"a1", "a2", "quoted", "absent"} {
		_, ok := f.Hex(name)
		require.False(t, ok, name)
	}
}

func TestModuleCallsAreRecognizedByArchitecture(t *testing.T) {
	for body, want := range map[string]string{
		"arch=c000003e syscall=175":             "init_module",
		"arch=c000003e syscall=313":             "finit_module",
		"arch=c000003e syscall=176":             "delete_module",
		"arch=40000003 syscall=128":             "init_module", // i386
		"arch=40000003 syscall=350":             "finit_module",
		"arch=40000003 syscall=129":             "delete_module",
		"arch=c00000b7 syscall=105":             "init_module", // aarch64
		"arch=c00000b7 syscall=273":             "finit_module",
		"arch=c00000b7 syscall=106":             "delete_module",
		"arch=40000028 syscall=128":             "init_module", // arm
		"arch=40000028 syscall=379":             "finit_module",
		"arch=40000028 syscall=129":             "delete_module",
		"arch=c000003e syscall=59":              "",
		"arch=c000003e syscall=-175":            "",
		"arch=c000003e syscall=4294967471":      "",
		"arch=40000003 syscall=175":             "",
		"arch=1c000003e syscall=175":            "",
		"arch=0 syscall=175":                    "",
		"syscall=175":                           "",
		"arch=c000003e":                         "",
		`arch=c000003e syscall="175"`:           "",
		"x=1 arch=c000003e syscall=init_module": "",
	} {
		r, err := ParseMessage(auparse.AUDIT_SYSCALL, "audit(1795529435.180:2): "+body)
		require.NoError(t, err)
		require.Equal(t, want, r.Call(), body)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add("type=SYSCALL msg=" + insmodSyscall)
	f.Add("node=guest type=KERN_MODULE msg=" + insmodModule + "\x1dARCH=x86_64")
	f.Add("type=PROCTITLE msg=" + insmodProctitle)
	f.Add("type=EOE msg=" + insmodEnd)
	f.Add(`type=USER_CMD msg=audit(1795529435.180:3): pid=7 uid=0 msg='cmd="x"'`)
	f.Fuzz(func(t *testing.T, line string) {
		r, err := ParseLine(line)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(r.Fields), maxFields)
		require.LessOrEqual(t, len(r.Text), len(line))
		if call := r.Call(); call != "" {
			require.Contains(t, calls, call)
			require.True(t, strings.HasPrefix(r.Text, "type="))
		}
		for _, field := range r.Fields {
			text, _ := r.Fields.Text(field.Name)
			require.LessOrEqual(t, len(text), len(line))
			require.NotContains(t, field.Name, " ")
		}
		// The text can be parsed again, except for what the daemon added.
		if r.Text != "" {
			again, err := ParseLine(r.Text)
			require.NoError(t, err)
			again.Node = r.Node
			require.Equal(t, r, again)
		}
	})
}
