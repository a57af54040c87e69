package es

import (
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/test/standin"
)

func TestEsloggerIsKilledWhateverItDoes(t *testing.T) {
	for _, play := range []string{"stubborn\n", "stop\n", "leave\n", "stubborn\nflood 1000000000\n", "leave\nstubborn\nfill 100\n"} {
		t.Run(strings.ReplaceAll(strings.TrimSpace(play), "\n", ", "), func(t *testing.T) {
			first, rest, _ := strings.Cut(play, "\n")
			marked := first + "\nmark begun\n" + rest
			if first == "stop" {
				marked = "mark begun\n" + play
			}
			w := watch(t, marked, func(o *timeouts) {
				o.alive, o.drain = 10*time.Millisecond, 10*time.Millisecond
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
		require.Fail(t, "eslogger still runs")
	}
	require.ErrorContains(t, p.err, "hangup")
	p.close()
}
