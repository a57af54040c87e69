package klog

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const testBoot = "c08282dcfb7b43bbac9debb5549f6011"

// kernelEntry is an entry of the kernel's as journalctl 257 prints it.
const kernelEntry = `{"__MONOTONIC_TIMESTAMP":"13892852","_TRANSPORT":"kernel","SYSLOG_FACILITY":"0","_SOURCE_MONOTONIC_TIMESTAMP":"13882852",` +
	`"__SEQNUM_ID":"265d12fbcfdd418e9e1537f480989d78","_BOOT_ID":"c08282dcfb7b43bbac9debb5549f6011","__SEQNUM":"367",` +
	`"__REALTIME_TIMESTAMP":"1795530181674262","__CURSOR":"s=265d12fbcfdd418e9e1537f480989d78;i=16f;b=c08282dcfb7b43bbac9debb5549f6011;m=d3fcf4;t=65ff1;x=1",` +
	`"MESSAGE":"brd: module loaded"}`

// entryWith returns kernelEntry with other fields; "" removes one.
func entryWith(t testing.TB, fields map[string]any) []byte {
	t.Helper()
	var entry map[string]any
	require.NoError(t, json.Unmarshal([]byte(kernelEntry), &entry))
	maps.Copy(entry, fields)
	for name, value := range fields {
		if value == "" {
			delete(entry, name)
		}
	}
	text, err := json.Marshal(entry)
	require.NoError(t, err)
	return text
}

func TestParseJournalEntry(t *testing.T) {
	e, err := parseJournalEntry([]byte(kernelEntry))
	require.NoError(t, err)
	require.Equal(t, testBoot, e.bootID)
	require.Equal(t, 13892852*time.Microsecond, e.monotonic)
	require.Equal(t, time.UnixMicro(1795530181674262-10000), e.time())
	require.Nil(t, e.loader())
	statement, ok := e.statement()
	require.True(t, ok)
	require.Equal(t, "brd", statement.Name)
	require.Equal(t, "c08282dc-fb7b-43bb-ac9d-ebb5549f6011", dashed(e.bootID))

	p := parseJournalPosition(e.String())
	require.NotNil(t, p)
	require.Equal(t, &e.journalPosition, p)
	require.Less(t, len(e.String()), 1024)

	for _, text := range []string{
		"", "{", "[]", "null", "{}", `{"__CURSOR":"x"}`,
		string(entryWith(t, map[string]any{"__CURSOR": ""})),
		string(entryWith(t, map[string]any{"__CURSOR": "a b"})),
		string(entryWith(t, map[string]any{"__CURSOR": strings.Repeat("x", 600)})),
		string(entryWith(t, map[string]any{"_BOOT_ID": "x"})),
		string(entryWith(t, map[string]any{"__REALTIME_TIMESTAMP": "-1"})),
		string(entryWith(t, map[string]any{"__MONOTONIC_TIMESTAMP": "99999999999999999999"})),
	} {
		_, err := parseJournalEntry([]byte(text))
		require.ErrorIs(t, err, errEntry, text)
	}
	for _, text := range []string{"", "a b c d", testBoot + " 1 2", testBoot + " 1 2 ", testBoot + " -1 2 c", testBoot + " 1 2 " + strings.Repeat("x", 600)} {
		require.Nil(t, parseJournalPosition(text), text)
	}
}

// modulesLoadEntry is an entry of systemd's own loader.
var modulesLoadEntry = map[string]any{
	"_TRANSPORT": "journal", "SYSLOG_FACILITY": "3", "MESSAGE": "Inserted module 'brd'", "_PID": "181", "_UID": "0", "_GID": "0",
	"_EXE": "/usr/lib/systemd/systemd-modules-load", "_COMM": "systemd-modules", "_CMDLINE": "/usr/lib/systemd/systemd-modules-load x.conf",
	"_SYSTEMD_UNIT": "systemd-modules-load.service", "_SYSTEMD_CGROUP": "/system.slice/systemd-modules-load.service",
}

// Users must not be able to forge messages of the kernel or of a loader.
func TestOnlyTrustedSendersAreUsed(t *testing.T) {
	loads := func(changes map[string]any) map[string]any {
		fields := maps.Clone(modulesLoadEntry)
		maps.Copy(fields, changes)
		return fields
	}
	for _, test := range []struct {
		name   string
		fields map[string]any
		want   bool
	}{
		{"the kernel", nil, true},
		{"user space through /dev/kmsg", map[string]any{"SYSLOG_FACILITY": "1"}, false},
		{"no facility", map[string]any{"SYSLOG_FACILITY": ""}, false},
		{"the kernel's facility twice", map[string]any{"SYSLOG_FACILITY": []string{"0", "0"}}, false},
		{"two messages", map[string]any{"MESSAGE": []string{"brd: module loaded", "x"}}, false},
		{"no message", map[string]any{"MESSAGE": nil}, false},
		{"a message in bytes", map[string]any{"MESSAGE": []int{'b', 'r', 'd', ':', ' ', 'm', 'o', 'd', 'u', 'l', 'e', ' ', 'l', 'o', 'a', 'd', 'e', 'd'}}, true},
		{"logger(1)", map[string]any{"_TRANSPORT": "syslog", "SYSLOG_IDENTIFIER": "kernel", "_UID": "0"}, false},
		{"a service's output", map[string]any{"_TRANSPORT": "stdout", "_UID": "0"}, false},
		{"another transport", map[string]any{"_TRANSPORT": "audit"}, false},
		{"systemd-modules-load", loads(nil), true},
		{"in the kernel's words", loads(map[string]any{"MESSAGE": "brd: module loaded"}), false},
		{"of another user", loads(map[string]any{"_UID": "1000"}), false},
		{"of no user", loads(map[string]any{"_UID": ""}), false},
		{"in another unit", loads(map[string]any{"_SYSTEMD_UNIT": "evil.service"}), false},
		{"of another program", loads(map[string]any{"_EXE": "/tmp/systemd-modules-load"}), false},
		{"of a program that had exited", loads(map[string]any{"_EXE": ""}), false},
		{"through /dev/kmsg as well", loads(map[string]any{"_TRANSPORT": "kernel"}), false},
		{"modprobe", loads(map[string]any{"_TRANSPORT": "stdout", "_EXE": "/usr/bin/kmod", "_SYSTEMD_UNIT": "x.service", "MESSAGE": "modprobe: ERROR: could not insert 'x': File exists"}), true},
		{"Debian's script", loads(map[string]any{"_TRANSPORT": "stdout", "_EXE": "/usr/bin/dash", "_SYSTEMD_UNIT": "kmod.service", "MESSAGE": "Loading kernel module loop."}), true},
		{"modprobe of another user", loads(map[string]any{"_EXE": "/usr/bin/kmod", "_UID": "1000"}), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, err := parseJournalEntry(entryWith(t, test.fields))
			require.NoError(t, err)
			_, ok := e.statement()
			require.Equal(t, test.want, ok)
		})
	}
}

func TestLoaderIsTheSendingProcess(t *testing.T) {
	e, err := parseJournalEntry(entryWith(t, modulesLoadEntry))
	require.NoError(t, err)
	require.Equal(t, &loader{
		pid: new(int64(181)), uid: new(int64(0)), gid: new(int64(0)), name: "systemd-modules",
		path: "/usr/lib/systemd/systemd-modules-load", cmdline: "/usr/lib/systemd/systemd-modules-load x.conf",
		cgroup: "/system.slice/systemd-modules-load.service",
	}, e.loader())
	require.Equal(t, time.UnixMicro(1795530181674262), e.time(), "when journald received it")
	statement, _ := e.statement()
	require.True(t, statement.IsLast)
}

func TestPositionCoversEntriesUpToIt(t *testing.T) {
	p := journalPosition{bootID: testBoot, monotonic: 5, realtime: 50, cursor: "c"}
	other := strings.Repeat("0", 32)
	for _, test := range []struct {
		e    journalPosition
		want bool
	}{
		{journalPosition{cursor: "c", bootID: other, monotonic: 9, realtime: 99}, true},
		{journalPosition{cursor: "x", bootID: testBoot, monotonic: 4, realtime: 99}, true},
		{journalPosition{cursor: "x", bootID: testBoot, monotonic: 5, realtime: 50}, false},
		{journalPosition{cursor: "x", bootID: testBoot, monotonic: 6, realtime: 1}, false},
		{journalPosition{cursor: "x", bootID: other, monotonic: 1, realtime: 49}, true},
		{journalPosition{cursor: "x", bootID: other, monotonic: 1, realtime: 51}, false},
	} {
		require.Equal(t, test.want, p.covers(&test.e), "%+v", test.e)
	}
}

func FuzzParseJournalEntry(f *testing.F) {
	f.Add([]byte(kernelEntry))
	f.Add(entryWith(f, modulesLoadEntry))
	f.Add(entryWith(f, map[string]any{"MESSAGE": []int{0, 255, 10}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseJournalEntry(b)
		if err != nil {
			return
		}
		require.NotNil(t, parseJournalPosition(e.String()))
		require.Less(t, len(e.String()), 1024)
		require.Len(t, dashed(e.bootID), 36)
		if _, ok := e.statement(); ok && e.fields["_TRANSPORT"] != "kernel" {
			require.Equal(t, "0", e.fields["_UID"])
		}
		e.loader()
		e.time()
	})
}
