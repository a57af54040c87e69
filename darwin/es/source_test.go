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

// A watched source is one that runs against a stand-in.
type watched struct {
	*Source
	program string
	stop    context.CancelFunc
	ready   chan struct{}
	ended   chan error

	mu   sync.Mutex
	seen []kmodquery.Event
}

// watch runs the source with an eslogger that plays a text.
func watch(t *testing.T, play string, change ...func(*patience)) *watched {
	t.Helper()
	program := standin.Install(t, t.TempDir(), "eslogger")
	standin.Direct(t, program, play)
	w := &watched{
		Source:  New(Options{Eslogger: program, Boot: func() host.Boot { return esBoot }}),
		program: program,
	}
	for _, c := range change {
		c(&w.patience)
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

// names are those of the events that were emitted.
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
		require.Fail(t, "it ended", "%v", err)
	case <-time.After(within):
		require.Fail(t, "it is not ready")
	}
}

// end waits for Run to end.
func (w *watched) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-w.ended:
		return err
	case <-time.After(within):
		require.Fail(t, "it does not end")
		return nil
	}
}

// let has a stand-in go on that awaits a file.
func (w *watched) let(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(w.program), name), nil, 0o600))
}

// has reports whether a stand-in has marked something.
func (w *watched) has(name string) bool {
	_, err := os.Stat(filepath.Join(filepath.Dir(w.program), name))
	return err == nil
}

func esRecord(identifier string, number int) string {
	return "print " + standin.EsloggerRecord(identifier, number) + "\n"
}

// The stand-in, as the real one, prints to a pipe only when a block is full, and
// nothing at all of its own process group.
func TestWhatIsPrintedComesAtOnce(t *testing.T) {
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

func TestItIsReadyThoughNothingHappens(t *testing.T) {
	w := watch(t, "")
	began := time.Now()
	w.awaitReady(t)
	require.GreaterOrEqual(t, time.Since(began), time.Second/2, "eslogger may still give up")
	require.NoError(t, w.Sync(t.Context()))
	w.stop()
	require.NoError(t, w.end(t))
	require.NoError(t, w.Sync(t.Context()), "when it does not run it returns at once")
}

func TestWhatEsloggerLacks(t *testing.T) {
	for _, test := range []struct {
		name, said  string
		isSupported bool
		want        string
	}{
		{"Full Disk Access", "Failed to create ES client: Not permitted to create an ES Client, responsible process needs TCC Full Disk Access authorization (ES_NEW_CLIENT_RESULT_ERR_NOT_PERMITTED)", true,
			"eslogger is not permitted to watch: give Full Disk Access to the responsible process, which is osqueryd or whatever else starts this program, in System Settings > Privacy & Security or by a PPPC profile (Failed to create ES client: Not permitted to create an ES Client, responsible process needs TCC Full Disk Access authorization (ES_NEW_CLIENT_RESULT_ERR_NOT_PERMITTED))"},
		{"root", "Failed to create ES client: Not privileged to create an ES client, need to be superuser (ES_NEW_CLIENT_RESULT_ERR_NOT_PRIVILEGED)", false,
			"not supported: eslogger may not watch for this user; needs root"},
		{"other words", "anything (ES_NEW_CLIENT_RESULT_ERR_NOT_ENTITLED)", false,
			"not supported: eslogger lacks its entitlement; needs the eslogger that comes with macOS"},
		{"too many clients", "anything (ES_NEW_CLIENT_RESULT_ERR_TOO_MANY_CLIENTS)", true,
			"too many Endpoint Security clients run on this host: end one of them (anything (ES_NEW_CLIENT_RESULT_ERR_TOO_MANY_CLIENTS))"},
		{"an event", "Failed to parse event types: Unsupported event kextload", false,
			"not supported: eslogger does not know kextload or kextunload here (Failed to parse event types: Unsupported event kextload); needs macOS 13 or later"},
		{"anything", "a surprise", true, "eslogger ended: exit status 1: a surprise"},
		{"a flood of words", strings.Repeat("word ", 10_000), true, "eslogger ended: exit status 1: " + strings.TrimSpace(strings.Repeat("word ", 10_000)[:host.MaxStderr])},
	} {
		t.Run(test.name, func(t *testing.T) {
			// A busy machine may take a second to start it.
			w := watch(t, "say "+test.said+"\nexit 1\n", func(p *patience) { p.alive = within })
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
				require.Fail(t, "it never watched")
			default:
			}
		})
	}
}

func TestNoEslogger(t *testing.T) {
	s := New(Options{Eslogger: "/nonexistent/eslogger"})
	err := s.Run(t.Context(), func() {}, func(kmodquery.Event) {})
	require.ErrorIs(t, err, kmodquery.ErrNotSupported)
	require.EqualError(t, err, "not supported: there is no /nonexistent/eslogger on this host; needs macOS 13 or later")
}

func TestItEnds(t *testing.T) {
	for _, test := range []struct{ name, play, want string }{
		{"by itself", "exit 0\n", "eslogger ended: it should have gone on"},
		{"killed", "die\n", "eslogger ended: signal: killed"},
		{"killed after it told", esRecord("a", 0) + "die\n", "eslogger ended: signal: killed"},
		{"without a terminal", "close\n", "eslogger closed its output and went on; it is started again"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := watch(t, test.play)
			require.EqualError(t, w.end(t), test.want)
			require.Equal(t, kmodquery.StateFailed, w.Sensor().State)
			require.Equal(t, strings.Contains(test.play, "print"), len(w.names()) == 1, "what it had printed is told of")
		})
	}
}

func TestItIsRunAgain(t *testing.T) {
	w := watch(t, esRecord("a", 0)+esRecord("b", 7)+"die\n---\n"+esRecord("c", 0)+esRecord("d", 1))
	require.Error(t, w.end(t))
	require.EqualValues(t, 6, w.Sensor().Lost)
	w.run(t)
	w.awaitReady(t)
	require.Eventually(t, func() bool { return len(w.names()) == 4 }, within, time.Millisecond)
	require.EqualValues(t, 6, w.Sensor().Lost, "its numbers begin again")
	require.Equal(t, 2, standin.Runs(w.program))
}

func TestGaps(t *testing.T) {
	for _, test := range []struct {
		name, play   string
		lost, errors int64
	}{
		{"none", esRecord("a", 3) + esRecord("b", 4), 0, 0},
		{"one", esRecord("a", 0) + esRecord("b", 2), 1, 0},
		{"of what could not be read", esRecord("a", 0) + "print {half\n" + esRecord("b", 2), 0, 1},
		{"of that and more", esRecord("a", 0) + "print {half\n" + esRecord("b", 5), 3, 1},
		{"of what is about something else", esRecord("a", 0) + "print {\"global_seq_num\":1,\"event\":{\"exec\":{}}}\n" + esRecord("b", 2), 0, 0},
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

func TestWhatCannotBeRead(t *testing.T) {
	w := watch(t, "print Some notice\n"+esRecord("a", 0)+"begin {\"event\":{\"kextload\":\n"+"fill 10485760\nprint \n"+esRecord("b", 2)+"begin {\"event\":\nexit 0\n")
	require.Error(t, w.end(t))
	require.Equal(t, []string{"a", "b"}, w.names())
	sensor := w.Sensor()
	require.EqualValues(t, 5, sensor.Received)
	require.EqualValues(t, 3, sensor.DecodeErrors, "a notice, a line that is too long, and half an object")
	require.Zero(t, sensor.Lost, "the long line was one of the messages")
}

func TestHalfARecordAndThenNothing(t *testing.T) {
	w := watch(t, esRecord("a", 0)+"begin {\"event\":\n", func(p *patience) {
		p.half, p.look = 50*time.Millisecond, 10*time.Millisecond
	})
	require.EqualError(t, w.end(t), "eslogger began a record and did not end it within 50ms; it is started again")
	require.EqualValues(t, 1, w.Sensor().DecodeErrors)
}

// Memory stays where it is, a Sync returns, and so does Run.
func TestFlood(t *testing.T) {
	w := watch(t, "flood 1000000000\n")
	w.mu.Lock() // events pile up nowhere
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

func TestSyncWaitsForWhatWasPrinted(t *testing.T) {
	w := watch(t, "flood 2000\nmark printed\n")
	w.awaitReady(t)
	require.Eventually(t, func() bool { return w.has("printed") }, within, time.Millisecond)
	require.NoError(t, w.Sync(t.Context()))
	require.Len(t, w.names(), 2000)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, w.Sync(ctx), context.Canceled)
}

func TestItIsEndedWhateverItDoes(t *testing.T) {
	for _, play := range []string{"stubborn\n", "stop\n", "leave\n", "stubborn\nflood 1000000000\n", "leave\nstubborn\nfill 100\n"} {
		t.Run(strings.ReplaceAll(strings.TrimSpace(play), "\n", ", "), func(t *testing.T) {
			w := watch(t, play)
			require.Eventually(t, func() bool { return standin.Runs(w.program) == 1 }, within, time.Millisecond)
			w.awaitReady(t)
			w.stop()
			require.NoError(t, w.end(t))
			require.Empty(t, running(t, w.program))
		})
	}
}

// Who may stop it blinds nobody for long.
func TestWhatWasStoppedGoesOn(t *testing.T) {
	w := watch(t, esRecord("a", 0)+"stop\n"+esRecord("b", 1), func(p *patience) { p.look = 10 * time.Millisecond })
	require.Eventually(t, func() bool { return len(w.names()) == 2 }, within, time.Millisecond)
}

// running are the processes of a program.
func running(t *testing.T, program string) []string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("processes are counted in /proc")
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	return slices.DeleteFunc(lines, func(path string) bool {
		text, _ := os.ReadFile(path) // it may have ended
		return !strings.HasPrefix(string(text), program+"\x00")
	})
}

// When this process dies nobody is there to kill eslogger.
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
		require.True(t, signal.Ignored(unix.SIGHUP), "this process goes on")
	}
}

func diesWithTheTerminal(t *testing.T) {
	t.Helper()
	program := standin.Install(t, t.TempDir(), "eslogger")
	standin.Direct(t, program, "")
	p, err := startEslogger(t.Context(), program)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return standin.Runs(program) == 1 }, within, time.Millisecond)
	session, err := unix.Getsid(p.cmd.Process.Pid)
	require.NoError(t, err)
	require.Equal(t, p.cmd.Process.Pid, session)
	require.NoError(t, p.out.Close())
	select {
	case <-p.ended:
	case <-time.After(within):
		require.Fail(t, "it goes on")
	}
	require.ErrorContains(t, p.err, "hangup")
	p.close()
}
