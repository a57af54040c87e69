package ulog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
	"github.com/kmodquery/kmodquery/darwin/kextlog"
	"github.com/kmodquery/kmodquery/test/race"
)

const (
	testKext = "com.example.driver.probe"
	testTeam = "ABCDE12345"
	testBoot = "3F6A41E6-9C27-4C11-9E0C-6E5B1B5A7F10"
)

// within bounds what a test waits for.
const within = 20 * time.Second

// testTime is the time from which the times of records count.
var testTime = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)

// A world is a source with the folder of the files that direct its stand-in for
// log(1).
type world struct {
	t      *testing.T
	dir    string
	source *Source

	mu       sync.Mutex
	events   []kmodquery.Event
	position string
	cancel   context.CancelFunc
	ended    chan error
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir()}
	t.Setenv("KMODQUERY_STANDINS", w.dir)
	w.write("stream", "")
	w.restart()
	return w
}

// restart replaces the source, as a new process does. Only the position is kept.
func (w *world) restart() {
	program, err := filepath.Abs("../testdata/standins/log")
	require.NoError(w.t, err)
	w.source = New(Options{
		Programs: host.Programs{Log: program},
		Position: func(context.Context) (string, error) { return w.position, nil },
	})
	w.source.timeouts.retry, w.source.timeouts.grace = 10*time.Millisecond, 20*time.Millisecond
}

func (w *world) write(name string, lines ...string) {
	w.t.Helper()
	text := strings.Join(lines, "\n")
	if text != "" {
		text += "\n"
	}
	require.NoError(w.t, os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600))
}

// stream appends lines to the output of log stream.
func (w *world) stream(lines ...string) {
	w.t.Helper()
	file, err := os.OpenFile(filepath.Join(w.dir, "stream"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(w.t, err)
	defer file.Close()
	_, err = file.WriteString(strings.Join(lines, "\n") + "\n")
	require.NoError(w.t, err)
}

func (w *world) read(name string) string {
	text, err := os.ReadFile(filepath.Join(w.dir, name))
	if !os.IsNotExist(err) {
		require.NoError(w.t, err)
	}
	return string(text)
}

// start runs the source. It returns when the source is ready or has ended.
func (w *world) start() error {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.ended = cancel, make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		w.ended <- w.source.Run(ctx, func() { close(ready) }, func(e kmodquery.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
			if e.Position != "" {
				w.position = e.Position
			}
		})
	}()
	w.t.Cleanup(cancel)
	select {
	case <-ready:
		return nil
	case err := <-w.ended:
		cancel()
		return err
	}
}

// stop ends the source and checks that every log that it started has ended.
func (w *world) stop() {
	w.t.Helper()
	w.cancel()
	require.NoError(w.t, <-w.ended)
	for pid := range strings.FieldsSeq(w.read("log.pids")) {
		n, err := strconv.Atoi(pid)
		require.NoError(w.t, err)
		require.ErrorIs(w.t, syscall.Kill(n, 0), syscall.ESRCH, "log must end with the source")
	}
}

// await waits for n events, as long as records keep coming.
func (w *world) await(n int) {
	w.t.Helper()
	received, since := int64(-1), time.Now()
	for {
		w.mu.Lock()
		events := len(w.events)
		w.mu.Unlock()
		if events >= n {
			return
		}
		if now := w.source.Sensor().Received; now != received {
			received, since = now, time.Now()
		}
		require.Less(w.t, time.Since(since), time.Minute, "there are %d events of %d, and no more records are received", events, n)
		time.Sleep(5 * time.Millisecond)
	}
}

// take waits for n events and returns all events so far, which must be n.
func (w *world) take(n int) []kmodquery.Event {
	w.t.Helper()
	w.await(n)
	require.NoError(w.t, w.source.Sync(w.t.Context()))
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.events
	w.events = nil
	require.Len(w.t, events, n)
	return events
}

// timeOutAfterARecord is a withTimeout that ends each log show when one more record
// was received.
func (w *world) timeOutAfterARecord(ctx context.Context, _ time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	received := w.source.Sensor().Received
	go func() {
		for ctx.Err() == nil && w.source.Sensor().Received == received {
			time.Sleep(time.Millisecond)
		}
		cancel(context.DeadlineExceeded)
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// names returns the names of the events' extensions.
func names(events []kmodquery.Event) []string {
	var all []string
	for _, e := range events {
		all = append(all, e.Name)
	}
	return all
}

// logRecord returns a line as log prints it, some seconds after testTime. Like log it
// escapes slashes.
func logRecord(seconds float64, process, message string, with ...func(map[string]any)) string {
	fields := map[string]any{
		"traceID": uint64(1<<63 + 5), "eventType": "logEvent", "messageType": "Default", "source": nil,
		"timestamp":     testTime.Add(time.Duration(seconds * float64(time.Second))).In(time.FixedZone("", -8*3600)).Format("2006-01-02 15:04:05.000000-0700"),
		"machTimestamp": uint64(1_000_000_000 + seconds*24_000_000), "threadID": 0x184f, "processID": 104, "userID": 0,
		"processImagePath": process, "senderImagePath": process, "subsystem": "com.apple.kernelmanagerd.logging", "category": "",
		"bootUUID": testBoot, "eventMessage": message, "timezoneName": "",
	}
	if process == "/kernel" {
		fields["processID"] = 0
	}
	for _, change := range with {
		change(fields)
	}
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return strings.ReplaceAll(string(text), "/", `\/`)
}

func loaded(seconds float64, name string) string {
	return logRecord(seconds, "/usr/libexec/kernelmanagerd", "Received kext load notification: "+name)
}

func field(name string, value any) func(map[string]any) {
	return func(fields map[string]any) { fields[name] = value }
}

func TestALoadIsOneAttemptWithAllItsDetails(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.start())
	require.Equal(t, "show --info --last boot", strings.Split(strings.Split(w.read("log.arguments"), "\n")[1], " --style")[0])
	cdhash := strings.Repeat("0123456789", 4)
	w.stream(
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
	require.Equal(t, kmodquery.Event{
		Time: testTime.Unix() + 2, TimeNanos: testTime.UnixNano() + 2e9, BootID: testBoot,
		EventName: "kextload", Source: "unified_log", LoadID: load.LoadID, Name: testKext,
		Path: "/Library/Extensions/probe.kext", Type: "kernel-module", Origin: "file", Version: "1.2.3",
		Result: new(int64(0)), TeamID: testTeam, CDHash: cdhash, Count: new(int64(1)),
		Missing: "sha256,signature_status,pid,process_path,uid",
		Raw:     loaded(2, testKext), Position: load.Position,
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
		logRecord(0, "/usr/libexec/kernelmanagerd", message+" com.other"),
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
	require.EqualValues(t, 14, w.source.Sensor().Received)
	require.Zero(t, w.source.Sensor().DecodeErrors)
}

func TestReadingContinuesAtThePosition(t *testing.T) {
	w := newWorld(t)
	w.write("show", loaded(0, "com.example.a"), loaded(20, "com.example.b"))
	require.NoError(t, w.start())
	require.Equal(t, []string{"com.example.a", "com.example.b"}, names(w.take(2)))
	require.Equal(t, testTime.Add(15*time.Second).UnixNano(), parsePosition(w.position).Since)
	require.Len(t, parsePosition(w.position).Emitted, 1)
	w.stream(loaded(20, "com.example.b"), loaded(40, "com.example.c"))
	first := w.take(1)
	require.Equal(t, []string{"com.example.c"}, names(first))
	w.stop()

	// Another process. Meanwhile d was logged, and e, late, before c.
	w.restart()
	w.write("stream", loaded(41, "com.example.d"))
	w.write("show", loaded(20, "com.example.b"), loaded(38, "com.example.e"), loaded(40, "com.example.c"), loaded(41, "com.example.d"))
	require.NoError(t, w.start())
	events := w.take(2)
	require.ElementsMatch(t, []string{"com.example.d", "com.example.e"}, names(events))
	w.stop()
	// Thirty seconds before the position, which is five seconds before c.
	require.Contains(t, w.read("log.arguments"), "show --info --start "+testTime.Add(5*time.Second).Format("2006-01-02 15:04:05")+"+0000 --style ndjson --predicate eventMessage contains \"kextload\" OR ")

	// The same process. Its last events may not be stored yet.
	w.position = ""
	require.NoError(t, w.start())
	w.take(0)
	w.stop()
}

func TestALoadIDIsTheSameWheneverTheLogIsRead(t *testing.T) {
	w := newWorld(t)
	allowed := logRecord(0, "/usr/libexec/syspolicyd", "Kernel Extension ALLOWED: Kext ("+testTeam+", "+testKext+")")
	w.write("show", allowed)
	require.NoError(t, w.start())
	before := w.take(1)[0]
	w.stop()
	// The load was logged while no process ran.
	w.restart()
	w.write("show", allowed, loaded(3, testKext))
	require.NoError(t, w.start())
	after := w.take(1)[0]
	w.stop()
	require.Equal(t, before.LoadID, after.LoadID)
	require.Equal(t, testTeam, after.TeamID)

	// The load is live, the permission is backfilled.
	w.restart()
	w.position = ""
	w.write("show", allowed)
	require.NoError(t, w.start())
	w.take(1)
	w.stream(loaded(3, testKext))
	require.Equal(t, before.LoadID, w.take(1)[0].LoadID)

	// A second load is another attempt.
	w.stream(loaded(3.5, testKext))
	require.NotEqual(t, before.LoadID, w.take(1)[0].LoadID)
	w.stop()
}

func TestDroppedMessagesAreBackfilled(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.start())
	w.stream(loaded(0, "com.example.a"))
	w.take(1)
	w.write("show", loaded(0, "com.example.a"), loaded(1, "com.example.b"), loaded(2, "com.example.c"))
	w.stream("=== Messages dropped during live streaming (use `log show` to see what they were)", loaded(2, "com.example.c"))
	require.ElementsMatch(t, []string{"com.example.b", "com.example.c"}, names(w.take(2)))
	w.stop()
	require.Zero(t, w.source.Sensor().Lost)
	require.Contains(t, w.read("log.arguments"), "show --info --start ")
}

func TestAFailedBackfillIsRetriedAndThenCountsAsLost(t *testing.T) {
	for _, test := range []struct{ how, reason string }{
		{"show_fails", "exit status 65: log: Could not open local log store"},
		{"show_hangs", "log show did not end within 5m0s"},
	} {
		t.Run(test.how, func(t *testing.T) {
			w := newWorld(t)
			w.write("show", loaded(0, "com.example.a"))
			w.write(test.how, "log: Could not open local log store")
			if test.how == "show_hangs" {
				w.source.withTimeout = w.timeOutAfterARecord
			}
			require.NoError(t, w.start())
			require.Equal(t, []string{"com.example.a"}, names(w.take(1)), "each try printed this record")
			w.stream(loaded(1, "com.example.b"))
			require.Equal(t, []string{"com.example.b"}, names(w.take(1)))
			sensor := w.source.Sensor()
			require.Equal(t, kmodquery.StateActive, sensor.State)
			require.EqualValues(t, 1, sensor.Lost)
			require.Contains(t, sensor.Reason, "the log from 2026-11-24T09:59:55Z to ")
			require.Contains(t, sensor.Reason, test.reason)
			require.NotContains(t, sensor.Reason, "\n")
			w.stop()
			require.Equal(t, showTries, strings.Count(w.read("log.arguments"), "show --info"))
		})
	}
}

func TestAPositionDuringABackfillIsThatOfTheBackfill(t *testing.T) {
	w := newWorld(t)
	w.write("show", loaded(0, "com.example.a"))
	w.write("show_hangs", "")
	w.write("stream", loaded(9, "com.example.live"))
	ended := make(chan error, 1)
	go func() { ended <- w.start() }() // the source is not ready before the backfill ends
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.events) == 2
	}, time.Minute, 5*time.Millisecond)
	w.cancel()
	require.NoError(t, <-ended)

	// The next process emits the missing event only.
	w.events = nil
	w.restart()
	require.NoError(t, os.Remove(filepath.Join(w.dir, "show_hangs")))
	w.write("show", loaded(0, "com.example.a"), loaded(5, "com.example.b"), loaded(9, "com.example.live"))
	require.NoError(t, w.start())
	require.Equal(t, []string{"com.example.b"}, names(w.take(1)))
	w.stop()
}

func TestASourceWithoutPermissionOrProgramIsNotSupported(t *testing.T) {
	w := newWorld(t)
	w.write("not_admin", "")
	err := w.start()
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.EqualError(t, err, "not supported: permission to read the unified log: log: Must be admin to run 'stream' command; needs root")
	require.Equal(t, kmodquery.StateUnavailable, w.source.Sensor().State)

	w.source = New(Options{Programs: host.Programs{Log: filepath.Join(w.dir, "log")}})
	err = w.start()
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.ErrorContains(t, err, "there is no "+w.dir)
}

func TestTheErrorSaysHowTheStreamEnded(t *testing.T) {
	w := newWorld(t)
	w.write("stream", loaded(0, "com.example.a"), `{"eventMessage":"Received kext lo`)
	w.write("stream_ends", "log: lost connection to logd")
	err := w.start()
	if err == nil { // the source was ready before the stream ended
		err = <-w.ended
	}
	require.ErrorContains(t, err, "exit status 65: log: lost connection to logd")
	require.NotErrorIs(t, err, kmodquery.ErrNotSupported)
	sensor := w.source.Sensor()
	require.Equal(t, kmodquery.StateFailed, sensor.State)
	require.EqualValues(t, 1, sensor.DecodeErrors, "the incomplete object")

	// Another process kills it.
	w = newWorld(t)
	require.NoError(t, w.start())
	pid, err := strconv.Atoi(strings.Fields(w.read("log.pids"))[0])
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.ErrorContains(t, <-w.ended, "log stream exited unexpectedly: ")
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

func TestALongBackfillDoesNotDelayReady(t *testing.T) {
	w := newWorld(t)
	w.source.timeouts.backfill = 100 * time.Millisecond
	w.write("show_hangs", "")
	require.NoError(t, w.start())
	w.stream(loaded(0, "com.example.a"))
	w.take(1)
	w.stop()
}

func TestSyncReturnsDuringAFlood(t *testing.T) {
	w := newWorld(t)
	w.write("stream_floods", logRecord(0, "/usr/bin/logger", "kextload"))
	require.NoError(t, w.start())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, w.source.Sync(ctx))
	require.NotZero(t, w.source.Sensor().Received)
	w.stop()
	require.NoError(t, w.source.Sync(t.Context()), "a source that does not run has nothing to wait for")
}

func TestBackfillIsLimited(t *testing.T) {
	w := newWorld(t)
	w.write("show", loaded(0, "com.example.a"), loaded(9, "com.example.b"))
	w.source.Backfill(testTime.Add(5 * time.Second))
	require.NoError(t, w.start())
	require.Equal(t, []string{"com.example.b"}, names(w.take(1)))
	w.stop()
	require.Contains(t, w.read("log.arguments"), "show --info --start "+testTime.Add(-25*time.Second).Format("2006-01-02 15:04:05")+"+0000 ")
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

func TestRepeatedRefusalsAreFolded(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.start())
	var lines []string
	for n := range 500 {
		for _, name := range []string{"com.example.a", fmt.Sprintf("com.example.n%d", n)} {
			lines = append(lines, logRecord(float64(20*n), "/usr/libexec/syspolicyd", "Kernel Extension BLOCKED: Kext ((null), "+name+")"))
		}
	}
	w.stream(append(lines, loaded(1, testKext))...)
	w.await(maxRefused + 1)
	require.NoError(t, w.source.Sync(t.Context()))
	events := w.take(maxRefused + 3)
	w.stop()
	counts := map[string]int64{}
	for _, e := range events {
		if e.EventName == kmodquery.EventKextBlocked {
			counts[e.Name] += *e.Count
		}
	}
	require.EqualValues(t, 500, counts["com.example.a"])
	total := int64(0)
	for _, n := range counts {
		total += n
	}
	require.EqualValues(t, 1000, total)
	require.EqualValues(t, 1000-maxRefused-2, w.source.Sensor().Denied)
}

// Repeated attempts that follow each other within attemptTime are separate attempts.
func TestRepeatedRefusalsAreSeparateAttempts(t *testing.T) {
	for _, message := range []struct{ process, text string }{
		{"/usr/libexec/syspolicyd", "Kernel Extension BLOCKED: Kext ((null), com.example.a)"},
		{"/kernel", "Kext com.example.a start failed (result 0x5)."},
	} {
		j, events := newJoiner(), 0
		loadIDs := map[string]bool{}
		for n := range 100 {
			for _, again := range []float64{0, 0.1} { // two messages about one refusal
				line, err := kextlog.ParseLine([]byte(logRecord(1.9*float64(n)+again, message.process, message.text)))
				require.NoError(t, err)
				for _, e := range j.add(&line.Record, "") {
					events++
					loadIDs[e.LoadID] = true
				}
			}
		}
		require.Greater(t, events, 40, message.text)
		require.Len(t, loadIDs, events)
	}
}

func TestInvalidPositionsAreIgnored(t *testing.T) {
	for _, text := range []string{"", "{", "[]x", `{"mark":5,"told":["x"]}`, `{"mark":-1}`, `{"mark":"x"}`, strings.Repeat(" ", maxPosition+1)} {
		require.Nil(t, parsePosition(text), text)
	}
	p := parsePosition(`{"mark":5,"told":[{"key":"0011223344556677","at":9},{"key":"x"},{}]}`)
	require.True(t, newEmittedRecords(p).has(recordKey{0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77}))
}

func TestAfterTheClockIsSetBackNothingIsLost(t *testing.T) {
	emitted := newEmittedRecords(nil)
	since := func() time.Time { return time.Unix(0, parsePosition(emitted.position(nil)).Since).UTC() }
	emitted.add(recordKey{1}, testTime.Add(time.Hour), true)
	emitted.add(recordKey{2}, testTime.Add(time.Hour-time.Second), true)
	emitted.add(recordKey{3}, testTime, false)
	require.Equal(t, testTime.Add(time.Hour-overlap), since())
	emitted.add(recordKey{4}, testTime, true)
	require.Equal(t, testTime.Add(-overlap), since())
	require.Len(t, parsePosition(emitted.position(nil)).Emitted, 4)

	// A position in the future hides no records.
	w := newWorld(t)
	w.position = fmt.Sprintf(`{"mark":%d}`, time.Now().Add(time.Hour).UnixNano())
	w.write("show", loaded(0, "com.example.a"))
	began := time.Now()
	require.NoError(t, w.start())
	w.take(1)
	w.stop()
	_, start, _ := strings.Cut(w.read("log.arguments"), "--start ")
	at, err := time.Parse("2006-01-02 15:04:05-0700", start[:24])
	require.NoError(t, err)
	require.WithinRange(t, at, began.Add(-margin-2*time.Second), time.Now().Add(-margin))
}

// Otherwise each killed process would leave a log stream that runs until it prints the
// next message.
func TestLogEndsWithAKilledProcess(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "stream"), nil, 0o600))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KMODQUERY_STANDINS="+dir, watchesTheLog+"=1")
	require.NoError(t, cmd.Start())
	var pid int
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "log.ready"))
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	}, within, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }, within, 10*time.Millisecond)
}

// If the environment variable watchesTheLog is set, the test binary runs a source until
// it is killed, and writes log.ready when the source is ready.
const watchesTheLog = "KMODQUERY_TEST_WATCHES_THE_LOG"

func watchTheLog() {
	program, err := filepath.Abs("../testdata/standins/log")
	if err != nil {
		panic(err)
	}
	dir := os.Getenv("KMODQUERY_STANDINS")
	source := New(Options{
		Programs: host.Programs{Log: program},
		Position: func(context.Context) (string, error) { return "", nil },
	})
	panic(source.Run(context.Background(), func() {
		pids, err := os.ReadFile(filepath.Join(dir, "log.pids"))
		if err != nil {
			panic(err)
		}
		stream, _, _ := strings.Cut(string(pids), "\n")
		if err := os.WriteFile(filepath.Join(dir, "log.ready"), []byte(stream), 0o600); err != nil {
			panic(err)
		}
	}, func(kmodquery.Event) {}))
}

// The last record is in the future, and the stream drops messages after the clock was
// set back.
func TestABackfillNeverBeginsInTheFuture(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.start())
	ahead := time.Since(testTime).Seconds() + 3600
	w.stream(loaded(ahead, "com.example.a"))
	w.take(1)
	began := time.Now()
	w.write("show", loaded(0, "com.example.b"))
	w.stream("=== Messages dropped during live streaming (use `log show` to see what they were)")
	w.take(1)
	w.stop()
	arguments := w.read("log.arguments")
	_, start, _ := strings.Cut(arguments[strings.LastIndex(arguments, "--start "):], "--start ")
	at, err := time.Parse("2006-01-02 15:04:05-0700", start[:24])
	require.NoError(t, err)
	require.False(t, at.After(began), "it begins at %v and ran at %v", at, began)
}

func TestRememberedRecordsAndPositionsAreBounded(t *testing.T) {
	emitted := newEmittedRecords(nil)
	zero := time.Time{}
	for n := range 3 * maxEmitted {
		emitted.add(recordKey{byte(n), byte(n >> 8), byte(n >> 16)}, testTime.Add(time.Duration(n)*time.Millisecond), true)
	}
	require.Len(t, emitted.list, maxEmitted)
	require.Len(t, emitted.keys, maxEmitted)
	p := parsePosition(emitted.position(&zero))
	require.Zero(t, p.Since)
	require.Len(t, p.Emitted, maxPositionRecords)
	require.Less(t, len(emitted.position(&zero)), maxPosition)
}

func TestThePredicateBeginsWithThatOfTheDetection(t *testing.T) {
	require.True(t, strings.HasPrefix(predicate(), `eventMessage contains "kextload" OR ((process == "kernel" OR process == "kernelmanagerd" OR `), predicate())
	require.Contains(t, predicate(), ` AND (eventMessage CONTAINS "load notification: " OR `)
}
