package shell

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/peterh/liner"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery/extension/virtualtable"
	"github.com/kmodquery/kmodquery/test/leak"
)

const historyVariable = "SHELL_TEST_HISTORY"

// TestMain runs the shell if a test started this binary on a terminal.
func TestMain(m *testing.M) {
	history, ok := os.LookupEnv(historyVariable)
	if !ok {
		leak.Main(m)
	}
	ctx := context.Background()
	slow := events{began: func() { fmt.Println("waiting for rows") }}
	db, err := virtualtable.Open(ctx, slow)
	if err == nil {
		err = Run(ctx, db, Options{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, HistoryFile: history})
	}
	fmt.Println("ended:", err)
}

// terminal is the user's side of a pseudo-terminal.
type terminal struct {
	t    *testing.T
	file *os.File
	seen string
}

// openTerminal returns both sides of a new pseudo-terminal.
func openTerminal(t *testing.T) (*terminal, *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
	program, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	return &terminal{t: t, file: person}, program
}

// await reads until the text appears and discards the output up to its end.
func (x *terminal) await(text string) {
	x.t.Helper()
	buffer := make([]byte, 4096)
	for {
		if _, rest, found := strings.Cut(x.seen, text); found {
			x.seen = rest
			return
		}
		n, err := x.file.Read(buffer)
		require.NoError(x.t, err, "waiting for %q, saw %q", text, x.seen)
		x.seen += string(buffer[:n])
	}
}

// awaitPrompt waits until the editor reads keys. Before that, Ctrl-C sends a signal.
func (x *terminal) awaitPrompt(prompt string) {
	x.t.Helper()
	x.await(prompt)
	for {
		mode, err := unix.IoctlGetTermios(int(x.file.Fd()), unix.TCGETS)
		require.NoError(x.t, err)
		if mode.Lflag&unix.ISIG == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (x *terminal) enter(keys string) {
	x.t.Helper()
	_, err := x.file.WriteString(keys)
	require.NoError(x.t, err)
}

func start(t *testing.T, history string) (*terminal, *exec.Cmd) {
	t.Helper()
	leak.Check(t)
	person, program := openTerminal(t)
	shell := exec.CommandContext(t.Context(), os.Args[0])
	shell.Env = append(os.Environ(), historyVariable+"="+history, "TERM=xterm")
	shell.Stdin, shell.Stdout, shell.Stderr = program, program, program
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, shell.Start())
	require.NoError(t, program.Close())
	return person, shell
}

func TestShellOnTerminal(t *testing.T) {
	history := filepath.Join(t.TempDir(), "history")

	person, shell := start(t, history)
	person.awaitPrompt(promptFirst)
	person.enter("SELECT 40 + 2\r")
	person.awaitPrompt(promptNext)
	person.enter("AS answer;\r")
	person.await("| answer |\r\n+--------+\r\n| 42     |\r\n")

	person.awaitPrompt(promptFirst)
	person.enter("SELECT 'given up\r")
	person.awaitPrompt(promptNext)
	person.enter("\x03")
	person.awaitPrompt(promptFirst)

	person.enter("SELECT time FROM events;\r")
	person.await("waiting for rows")
	person.enter("\x03")
	person.await("error: interrupted")

	person.awaitPrompt(promptFirst)
	person.enter("\x04")
	person.await("ended: <nil>")
	require.NoError(t, shell.Wait())

	kept, err := os.ReadFile(history)
	require.NoError(t, err)
	require.Equal(t, "SELECT 40 + 2\nAS answer;\nSELECT 40 + 2 AS answer;\nSELECT 'given up\nSELECT time FROM events;\n", string(kept))
	info, err := os.Stat(history)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	person, shell = start(t, history)
	person.awaitPrompt(promptFirst)
	person.enter("\x10\x10\x10") // up, to the statement as a whole
	person.await("SELECT 40 + 2 AS answer;")
	person.enter("\x15.quit\r")
	person.await("ended: <nil>")
	require.NoError(t, shell.Wait())
}

// A terminal that is closed ends the shell by SIGHUP, unless it reads the end first.
func TestHistorySurvivesTheEndOfTheTerminal(t *testing.T) {
	history := filepath.Join(t.TempDir(), "history")
	require.NoError(t, os.WriteFile(history, []byte("SELECT 'before';\n"), 0o600))
	person, shell := start(t, history)
	person.awaitPrompt(promptFirst)
	person.enter("SELECT 40 + 2 AS answer;\r")
	person.await("| 42 ")
	person.awaitPrompt(promptFirst)
	require.NoError(t, person.file.Close())
	if err := shell.Wait(); err != nil {
		require.ErrorContains(t, err, "signal: hangup")
	}
	kept, err := os.ReadFile(history)
	require.NoError(t, err)
	require.Equal(t, "SELECT 'before';\nSELECT 40 + 2 AS answer;\n", string(kept))
}

func TestShellsShareAHistory(t *testing.T) {
	history := filepath.Join(t.TempDir(), "history")
	first, firstShell := start(t, history)
	second, secondShell := start(t, history)
	for i, person := range []*terminal{first, second, first} {
		person.awaitPrompt(promptFirst)
		person.enter(fmt.Sprintf("SELECT %d AS n;\r", i))
		person.await("| n |")
	}
	for _, person := range []*terminal{second, first} {
		person.awaitPrompt(promptFirst)
		person.enter("\x04")
		person.await("ended: <nil>")
	}
	require.NoError(t, firstShell.Wait())
	require.NoError(t, secondShell.Wait())
	kept, err := os.ReadFile(history)
	require.NoError(t, err)
	require.Equal(t, "SELECT 0 AS n;\nSELECT 1 AS n;\nSELECT 2 AS n;\n", string(kept))
}

func TestHistoryIsBounded(t *testing.T) {
	h := history{path: filepath.Join(t.TempDir(), "history")}
	long := strings.Repeat("x", 1<<16)
	require.NoError(t, h.add(long))
	require.NoError(t, h.add("not UTF-8: \xff"))
	lines, err := h.load()
	require.NoError(t, err)
	require.Equal(t, []string{long, "not UTF-8: \xff"}, lines)
	for i := range 2 * liner.HistoryLimit {
		require.NoError(t, h.add(fmt.Sprint(i)))
		require.NoError(t, h.add(fmt.Sprint(i)), "only once")
	}
	lines, err = h.load()
	require.NoError(t, err)
	require.Len(t, lines, liner.HistoryLimit)
	content, err := os.ReadFile(h.path)
	require.NoError(t, err)
	require.Equal(t, strings.Join(lines, "\n")+"\n", string(content))
	require.Equal(t, fmt.Sprint(2*liner.HistoryLimit-1), lines[len(lines)-1])
}

func TestHistoryThatCannotBeUsed(t *testing.T) {
	person, shell := start(t, t.TempDir())
	person.await("error: read history: ")
	person.awaitPrompt(promptFirst)
	person.enter(".mode\r")
	person.awaitPrompt(promptFirst)
	require.NotContains(t, person.seen, "history", "it is reported once")
	person.enter("\x04")
	person.await("ended: <nil>")
	require.NoError(t, shell.Wait())
}
