package ulog

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/test/race"
)

func TestALoadIsOneAttempt(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.start())
	require.Equal(t, "show --info --last boot", strings.Split(strings.Split(w.read("log.arguments"), "\n")[1], " --style")[0])
	cdhash := strings.Repeat("0123456789", 4)
	w.stream(
		logRecord(-0.5, "/usr/libexec/kernelmanager_helper", "Handling loadOrRebuildRequest: \npaths: [\"/Library/Extensions/probe.kext\"],\nidentifiers: []", field("userID", 266)),
		logRecord(0, "/usr/libexec/kernelmanager_helper", "Checking unstaged bundle path /Library/Extensions/probe.kext for Kext "+testKext+" v1.2.3 in executable kext bundle "+testKext+" at /Library/StagedExtensions/Library/Extensions/probe.kext", field("userID", 266)),
		logRecord(0.5, "/usr/libexec/syspolicyd", "Kernel Extension ALLOWED: Kext ("+testTeam+", "+testKext+") version: "+cdhash),
		loaded(2, testKext),
	)
	events := w.take(2)
	w.stop()
	allowed, load := events[0], events[1]
	require.Equal(t, kmodquery.EventKextAllowed, allowed.EventName)
	require.Equal(t, kmodquery.EventKextload, load.EventName)
	require.Equal(t, allowed.LoadID, load.LoadID)
	require.Len(t, load.LoadID, 16)
	require.Equal(t, testTeam+" "+cdhash, allowed.TeamID+" "+allowed.CDHash)
	require.Equal(t, kmodquery.Event{
		Time: testTime.Unix() + 2, TimeNanos: testTime.UnixNano() + 2e9, BootID: testBoot,
		EventName: "kextload", Source: "unified_log", LoadID: load.LoadID, Name: testKext,
		Path: "/Library/Extensions/probe.kext", Type: "kernel-module", Origin: "file", Version: "1.2.3",
		Result: new(int64(0)), Collection: "auxiliary", Count: new(int64(1)),
		Missing: "team_id,cdhash,sha256,signature_status,pid,process_path,uid",
		Raw:     loaded(2, testKext),
	}, load)
}

func TestFailedLoadsAreEvents(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.start())
	w.stream(
		logRecord(0, "/usr/libexec/syspolicyd", "Kernel Extension BLOCKED: Kext ((null), "+testKext+")"),
		logRecord(1, "/usr/libexec/kernelmanagerd", "failed to load/rebuild extensions: Extension with identifiers "+testKext+",com.example.other not approved to load. Please approve using System Settings.", field("messageType", "Error")),
		logRecord(20, "/kernel", "Kext com.example.third start failed (result 0x5)."),
		logRecord(20.1, "/kernel", "Kext com.example.third failed to load (0xdc008017)."),
		logRecord(20.2, "/kernel", "Failed to load kext com.example.third (error 0xdc008017)."),
		logRecord(30, "/kernel", "Kext com.example.third failed to load (0xdc008017)."),
	)
	// The last record belongs to another attempt and is folded.
	events := w.take(5)
	w.stop()
	require.Equal(t, []string{testKext, testKext, "com.example.other", "com.example.third", "com.example.third"}, names(events))
	require.Equal(t, "kext_blocked blocked by the system policy", events[0].EventName+" "+events[0].Error)
	require.Equal(t, events[0].LoadID, events[1].LoadID)
	require.Equal(t, "kextload not approved to load", events[1].EventName+" "+events[1].Error)
	require.EqualValues(t, -1, *events[1].Result)
	require.NotEqual(t, events[1].LoadID, events[2].LoadID)
	require.EqualValues(t, -5, *events[3].Result)
	require.Equal(t, "0x5", events[3].Error)
	require.EqualValues(t, -603946985, *events[4].Result)
	require.Equal(t, "kOSKextReturnStartStopError", events[4].Error)
	require.NotEqual(t, events[3].LoadID, events[4].LoadID)
}

func TestMessagesOfOtherProgramsAreIgnored(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.start())
	message := "Received kext load notification: com.evil.kext"
	w.stream(
		logRecord(0, "/usr/bin/logger", message),
		logRecord(0, "/tmp/kernelmanagerd", message),
		logRecord(0, "/usr/libexec/../../tmp/kernelmanagerd", message),
		logRecord(0, "/usr/libexec/kernelmanagerd", message, field("userID", 501)),
		logRecord(0, "/usr/libexec/kernelmanagerd", message, field("userID", 201)),
		logRecord(0, "/usr/libexec/kernelmanagerd", message, field("processID", 0)),
		logRecord(0, "/usr/libexec/kernelmanagerd", "x"+message),
		logRecord(0, "/usr/libexec/syspolicyd", message),
		logRecord(0, "/kernel", "Kext com.evil.kext failed to load (0x5).", field("processID", 9)),
		logRecord(0, "/kernel", "Kext com.evil.kext failed to load (0x5).", field("senderImagePath", "/Library/Extensions/evil.kext/Contents/MacOS/evil")),
		logRecord(0, "/private/kernel", "Kext com.evil.kext failed to load (0x5)."),
		// A requested path must not set the path of another extension.
		logRecord(0, "/usr/libexec/kernelmanagerd", "checking bundle path /tmp/x for Kext "+testKext+" v9 in executable kext bundle "+testKext+" at /x.kext for Kext com.evil.kext v1 in executable kext bundle com.evil.kext at /x.kext"),
		loaded(1, testKext),
	)
	event := w.take(1)[0]
	w.stop()
	require.Equal(t, testKext, event.Name)
	require.Empty(t, event.Path)
	require.EqualValues(t, 13, w.source.Sensor().Received)
	require.Zero(t, w.source.Sensor().DecodeErrors)
}

func TestARecordShowsThatTheStreamHasStarted(t *testing.T) {
	w := newWorld(t)
	w.write("no_header", "")
	w.write("stream", loaded(0, "com.example.a"))
	require.NoError(t, w.start())
	w.take(1)
	require.Empty(t, w.source.Sensor().Reason)
	w.stop()
}

func TestASilentStreamIsReportedUntilItsFirstRecord(t *testing.T) {
	w := newWorld(t)
	w.source.timeouts.header = 100 * time.Millisecond
	w.write("no_header", "")
	require.NoError(t, w.start())
	require.Equal(t, "log stream has not printed its header within 100ms", w.source.Sensor().Reason)
	w.stream(loaded(0, "com.example.a"))
	w.take(1)
	require.Empty(t, w.source.Sensor().Reason)
	w.stop()
}

func TestSyncReturnsDuringAFlood(t *testing.T) {
	w := newWorld(t)
	w.write("stream_floods", logRecord(0, "/usr/bin/logger", "kextload"))
	require.NoError(t, w.start())
	require.Eventually(t, func() bool { return w.source.Sensor().Received > 0 }, within, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, w.source.Sync(ctx))
	w.stop()
	require.NoError(t, w.source.Sync(t.Context()), "a source that does not run has nothing to wait for")
}

func TestFloodsLongLinesAndInvalidLinesAreCounted(t *testing.T) {
	w := newWorld(t)
	long := logRecord(0, "/usr/bin/logger", strings.Repeat("kextload ", 10<<20/9))
	lines := []string{long, `{"timestamp":`, "null", "[]", `{"timestamp":"2026-11-24 10:00:00.000000+0000"}`, long[:1<<20]}
	flood := race.Scale(10_000)
	for n := range flood {
		lines = append(lines, logRecord(float64(n), "/usr/bin/logger", "kextload "+strconv.Itoa(n)))
	}
	w.write("stream", append(lines, loaded(1, testKext))...)
	require.NoError(t, w.start())
	require.Equal(t, []string{testKext}, names(w.take(1)))
	sensor := w.source.Sensor()
	w.stop()
	require.EqualValues(t, 4, sensor.DecodeErrors)
	require.EqualValues(t, flood+3, sensor.Received)
}
