package es

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
	"github.com/kmodquery/kmodquery/test/standin"
)

// within bounds what a test waits for.
const within = 20 * time.Second

// A watched is a source that runs against a stand-in for eslogger.
type watched struct {
	*Source
	program string
	stop    context.CancelFunc
	ready   chan struct{}
	ended   chan error

	mu   sync.Mutex
	seen []kmodquery.Event
}

// watch runs a source with a stand-in that follows the play.
func watch(t *testing.T, play string, change ...func(*timeouts)) *watched {
	t.Helper()
	program := standin.Install(t, t.TempDir(), "eslogger")
	standin.Direct(t, program, play)
	w := &watched{
		Source:  New(Options{Eslogger: program, Boot: func() host.Boot { return esBoot }}),
		program: program,
	}
	for _, c := range change {
		c(&w.timeouts)
	}
	w.run(t)
	return w
}

func (w *watched) run(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	w.stop, w.ready, w.ended = stop, make(chan struct{}), make(chan error, 1)
	go func() {
		w.ended <- w.Run(ctx, func() { close(w.ready) }, func(e kmodquery.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.seen = append(w.seen, e)
		})
	}()
	t.Cleanup(stop)
}

// names returns the names of the emitted events.
func (w *watched) names() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for _, e := range w.seen {
		names = append(names, e.Name)
	}
	return names
}

func (w *watched) awaitReady(t *testing.T) {
	t.Helper()
	select {
	case <-w.ready:
	case err := <-w.ended:
		require.Fail(t, "the source ended", "%v", err)
	case <-time.After(within):
		require.Fail(t, "the source is not ready")
	}
}

// end waits for Run to end.
func (w *watched) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-w.ended:
		return err
	case <-time.After(within):
		require.Fail(t, "the source does not end")
		return nil
	}
}

// let creates the file that the stand-in awaits.
func (w *watched) let(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(w.program), name), nil, 0o600))
}

// has reports whether the stand-in has created a mark.
func (w *watched) has(name string) bool {
	_, err := os.Stat(filepath.Join(filepath.Dir(w.program), name))
	return err == nil
}

func esRecord(identifier string, number int) string {
	return "print " + standin.EsloggerRecord(identifier, number) + "\n"
}

// The stand-in, like eslogger, writes to a pipe in blocks and prints no event of its
// own process group.
func TestEventsAreEmittedAsSoonAsTheyArePrinted(t *testing.T) {
	w := watch(t, esRecord("a", 0)+"await more\n"+esRecord("b", 1))
	w.awaitReady(t)
	require.NoError(t, w.Sync(t.Context()))
	require.Equal(t, []string{"a"}, w.names())
	sensor := w.Sensor()
	require.Equal(t, kmodquery.StateActive, sensor.State)
	require.Equal(t, `["kextload (eslogger)","kextunload (eslogger)"]`, sensor.Hooks)

	w.let(t, "more")
	require.Eventually(t, func() bool { return len(w.names()) == 2 }, within, time.Millisecond)
	w.stop()
	require.NoError(t, w.end(t))
	sensor = w.Sensor()
	require.Equal(t, kmodquery.StateStandby, sensor.State)
	require.Empty(t, sensor.Hooks)
	require.EqualValues(t, 2, sensor.Received)
	require.Zero(t, sensor.Lost+sensor.DecodeErrors)
	require.EqualValues(t, 2, sensor.EnrichErrors)
	require.NotZero(t, sensor.LastEventTime)
}

func TestTheSourceIsReadyWithoutEvents(t *testing.T) {
	began := time.Now()
	w := watch(t, "", func(o *timeouts) { o.alive = 100 * time.Millisecond })
	w.awaitReady(t)
	require.GreaterOrEqual(t, time.Since(began), w.timeouts.alive, "eslogger may still exit")
	require.NoError(t, w.Sync(t.Context()))
	w.stop()
	require.NoError(t, w.end(t))
	require.NoError(t, w.Sync(t.Context()), "a source that does not run has nothing to wait for")
}

func TestTheErrorSaysWhatEsloggerLacks(t *testing.T) {
	for _, test := range []struct {
		name, stderr string
		isSupported  bool
		want         string
	}{
		{"Full Disk Access", "Failed to create ES client: Not permitted to create an ES Client, responsible process needs TCC Full Disk Access authorization (ES_NEW_CLIENT_RESULT_ERR_NOT_PERMITTED)", true,
			"eslogger is not permitted to watch: give Full Disk Access to the responsible process, which is osqueryd or the program that starts this one, in System Settings > Privacy & Security or by a PPPC profile (Failed to create ES client: Not permitted to create an ES Client, responsible process needs TCC Full Disk Access authorization (ES_NEW_CLIENT_RESULT_ERR_NOT_PERMITTED))"},
		{"root", "Failed to create ES client: Not privileged to create an ES client, need to be superuser (ES_NEW_CLIENT_RESULT_ERR_NOT_PRIVILEGED)", false,
			"not supported: eslogger may not watch for this user; needs root"},
		{"other text", "anything (ES_NEW_CLIENT_RESULT_ERR_NOT_ENTITLED)", false,
			"not supported: eslogger lacks its entitlement; needs the eslogger that comes with macOS"},
		{"too many clients", "anything (ES_NEW_CLIENT_RESULT_ERR_TOO_MANY_CLIENTS)", true,
			"too many Endpoint Security clients run on this host: end one of them (anything (ES_NEW_CLIENT_RESULT_ERR_TOO_MANY_CLIENTS))"},
		{"the event types", "Failed to parse event types: Unsupported event kextload", false,
			"not supported: eslogger does not know kextload or kextunload here (Failed to parse event types: Unsupported event kextload); needs macOS 13 or later"},
		{"unknown", "a surprise", true, "eslogger exited unexpectedly: exit status 1: a surprise"},
		{"a long error", strings.Repeat("word ", 10_000), true, "eslogger exited unexpectedly: exit status 1: " + strings.TrimSpace(strings.Repeat("word ", 10_000)[:host.MaxStderr])},
	} {
		t.Run(test.name, func(t *testing.T) {
			// The source must not become ready before the stand-in has run.
			w := watch(t, "say "+test.stderr+"\nexit 1\n", func(o *timeouts) { o.alive = within })
			err := w.end(t)
			require.EqualError(t, err, test.want)
			require.Equal(t, !test.isSupported, errors.Is(err, kmodquery.ErrNotSupported))
			state := kmodquery.StateUnavailable
			if test.isSupported {
				state = kmodquery.StateFailed
			}
			require.Equal(t, state, w.Sensor().State)
			require.Equal(t, test.want, w.Sensor().Reason)
			require.Empty(t, w.Sensor().Hooks)
			select {
			case <-w.ready:
				require.Fail(t, "the source never watched")
			default:
			}
		})
	}
}

func TestASourceWithoutEsloggerIsNotSupported(t *testing.T) {
	s := New(Options{Eslogger: "/nonexistent/eslogger"})
	err := s.Run(t.Context(), func() {}, func(kmodquery.Event) {})
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.EqualError(t, err, "not supported: there is no /nonexistent/eslogger on this host; needs macOS 13 or later")
}

func TestTheErrorSaysHowEsloggerEnded(t *testing.T) {
	for _, test := range []struct{ name, play, want string }{
		{"by itself", "exit 0\n", "eslogger exited unexpectedly: exit status 0"},
		{"killed", "die\n", "eslogger exited unexpectedly: signal: killed"},
		{"killed after an event", esRecord("a", 0) + "die\n", "eslogger exited unexpectedly: signal: killed"},
		{"without a terminal", "close\n", "eslogger closed its output and still runs; it is started again"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := watch(t, test.play, func(o *timeouts) {
				if test.play == "close\n" {
					o.drain = 10 * time.Millisecond
				}
			})
			require.EqualError(t, w.end(t), test.want)
			require.Equal(t, kmodquery.StateFailed, w.Sensor().State)
			require.Equal(t, strings.Contains(test.play, "print"), len(w.names()) == 1, "an event that was printed is emitted")
		})
	}
}

func TestMessageNumbersStartAgainWithEachRun(t *testing.T) {
	w := watch(t, esRecord("a", 0)+esRecord("b", 7)+"die\n---\n"+esRecord("c", 0)+esRecord("d", 1))
	require.Error(t, w.end(t))
	require.EqualValues(t, 6, w.Sensor().Lost)
	w.run(t)
	w.awaitReady(t)
	require.Eventually(t, func() bool { return len(w.names()) == 4 }, within, time.Millisecond)
	require.EqualValues(t, 6, w.Sensor().Lost, "the numbers start again")
	require.Equal(t, 2, standin.Runs(w.program))
}

func TestGapsInTheMessageNumbersAreLosses(t *testing.T) {
	for _, test := range []struct {
		name, play   string
		lost, errors int64
	}{
		{"none", esRecord("a", 3) + esRecord("b", 4), 0, 0},
		{"one", esRecord("a", 0) + esRecord("b", 2), 1, 0},
		{"of a line that cannot be parsed", esRecord("a", 0) + "print {half\n" + esRecord("b", 2), 0, 1},
		{"of such a line and more", esRecord("a", 0) + "print {half\n" + esRecord("b", 5), 3, 1},
		{"of another event", esRecord("a", 0) + "print {\"global_seq_num\":1,\"event\":{\"exec\":{}}}\n" + esRecord("b", 2), 0, 0},
		{"of a record without a number", esRecord("a", 0) + "print {\"event\":{\"exec\":{}}}\n" + esRecord("b", 2), 0, 0},
		{"backwards", esRecord("a", 9) + esRecord("b", 2) + esRecord("c", 3), 0, 0},
		{"enormous", esRecord("a", 0) + "print {\"global_seq_num\":18446744073709551615,\"event\":{}}\n" + esRecord("b", 0), 1 << 40, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := watch(t, test.play+"exit 0\n")
			require.Error(t, w.end(t))
			require.Equal(t, test.lost, w.Sensor().Lost)
			require.Equal(t, test.errors, w.Sensor().DecodeErrors)
			require.Equal(t, strings.Count(test.play, "kextload"), len(w.names()))
		})
	}
}

func TestLinesThatCannotBeParsedAreDecodeErrors(t *testing.T) {
	w := watch(t, "print Some notice\n"+esRecord("a", 0)+"begin {\"event\":{\"kextload\":\n"+"fill 10485760\nprint \n"+esRecord("b", 2)+"begin {\"event\":\nexit 0\n")
	require.Error(t, w.end(t))
	require.Equal(t, []string{"a", "b"}, w.names())
	sensor := w.Sensor()
	require.EqualValues(t, 5, sensor.Received)
	require.EqualValues(t, 3, sensor.DecodeErrors, "a notice, a line that is too long, and an incomplete object")
	require.Zero(t, sensor.Lost, "the long line accounts for one message")
}

func TestAnIncompleteRecordEndsTheRun(t *testing.T) {
	w := watch(t, esRecord("a", 0)+"begin {\"event\":\n", func(o *timeouts) {
		o.half, o.look = 50*time.Millisecond, 10*time.Millisecond
	})
	require.EqualError(t, w.end(t), "eslogger left a record incomplete for 50ms; it is started again")
	require.EqualValues(t, 1, w.Sensor().DecodeErrors)
}

func TestAFloodDoesNotTakeMemoryOrBlockASync(t *testing.T) {
	w := watch(t, "flood 1000000000\n", func(o *timeouts) { o.sync = 200 * time.Millisecond })
	w.mu.Lock() // the events must not accumulate anywhere
	w.awaitReady(t)
	w.mu.Unlock()
	for range 3 {
		began := time.Now()
		require.NoError(t, w.Sync(t.Context()))
		require.Less(t, time.Since(began), within)
	}
	w.mu.Lock()
	w.seen = nil
	w.mu.Unlock()
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	require.Less(t, memory.HeapInuse, uint64(64<<20))
	require.Zero(t, w.Sensor().Lost)
	w.stop()
	require.NoError(t, w.end(t))
}

func TestSyncWaitsForPrintedEvents(t *testing.T) {
	w := watch(t, "flood 2000\nmark printed\n")
	w.awaitReady(t)
	require.Eventually(t, func() bool { return w.has("printed") }, within, time.Millisecond)
	require.NoError(t, w.Sync(t.Context()))
	require.Len(t, w.names(), 2000)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, w.Sync(ctx), context.Canceled)
}

func TestEsloggerIsKilledWhateverItDoes(t *testing.T) {
	for _, play := range []string{"stubborn\n", "stop\n", "leave\n", "stubborn\nflood 1000000000\n", "leave\nstubborn\nfill 100\n"} {
		t.Run(strings.ReplaceAll(strings.TrimSpace(play), "\n", ", "), func(t *testing.T) {
			first, rest, _ := strings.Cut(play, "\n")
			marked := first + "\nmark begun\n" + rest
			if first == "stop" {
				marked = "mark begun\n" + play
			}
			w := watch(t, marked, func(o *timeouts) {
				o.alive, o.drain, o.stderr = 10*time.Millisecond, 10*time.Millisecond, 10*time.Millisecond
			})
			require.Eventually(t, func() bool { return w.has("begun") }, within, time.Millisecond)
			w.awaitReady(t)
			w.stop()
			require.NoError(t, w.end(t))
			require.Empty(t, running(t, w.program))
		})
	}
}

func TestAStoppedEsloggerIsContinued(t *testing.T) {
	w := watch(t, esRecord("a", 0)+"stop\n"+esRecord("b", 1), func(o *timeouts) { o.look = 10 * time.Millisecond })
	require.Eventually(t, func() bool { return len(w.names()) == 2 }, within, time.Millisecond)
}

// running returns the processes of a program.
func running(t *testing.T, program string) []string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the test needs /proc")
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	return slices.DeleteFunc(lines, func(path string) bool {
		text, _ := os.ReadFile(path) // the process may have ended
		return !strings.HasPrefix(string(text), program+"\x00")
	})
}

// When this process is killed it cannot kill eslogger.
func TestEsloggerDiesWithTheTerminal(t *testing.T) {
	diesWithTheTerminal(t)
}

func TestEsloggerDiesWithTheTerminalUnderNohup(t *testing.T) {
	wasIgnored := signal.Ignored(unix.SIGHUP)
	signal.Ignore(unix.SIGHUP)
	if !wasIgnored {
		defer signal.Reset(unix.SIGHUP)
	}
	for range 2 {
		diesWithTheTerminal(t)
		require.True(t, signal.Ignored(unix.SIGHUP), "this process still ignores SIGHUP")
	}
}

func diesWithTheTerminal(t *testing.T) {
	t.Helper()
	program := standin.Install(t, t.TempDir(), "eslogger")
	standin.Direct(t, program, "")
	p, err := startEslogger(t.Context(), program, time.Second)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return standin.Runs(program) == 1 }, within, time.Millisecond)
	session, err := unix.Getsid(p.cmd.Process.Pid)
	require.NoError(t, err)
	require.Equal(t, p.cmd.Process.Pid, session)
	require.NoError(t, p.out.Close())
	select {
	case <-p.ended:
	case <-time.After(within):
		require.Fail(t, "eslogger still runs")
	}
	require.ErrorContains(t, p.err, "hangup")
	p.close()
}
