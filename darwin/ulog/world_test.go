package ulog

import (
	"context"
	"encoding/json"
	"os"
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

// someKexts describes all extensions alike.
type someKexts struct{}

func (someKexts) Collection(context.Context, string) string { return kmodquery.CollectionAuxiliary }
func (someKexts) AuthenticatedRoot(context.Context) *int64  { return nil }

// restart replaces the source, as a new process does. Only the position is kept.
func (w *world) restart() {
	program, err := filepath.Abs("../testdata/standins/log")
	require.NoError(w.t, err)
	w.source = New(Options{
		Programs: host.Programs{Log: program},
		Boot:     func() host.Boot { return host.Boot{ID: testBoot} },
		Kexts:    someKexts{},
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
		w.ended <- w.source.Run(ctx, func() { close(ready) }, func(d kmodquery.Delivery) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, d.Event)
			if d.Position != "" {
				w.position = d.Position
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
