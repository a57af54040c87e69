package ulog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/creack/pty"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
	"github.com/kmodquery/kmodquery/darwin/kextlog"
	"github.com/kmodquery/kmodquery/internal/cmdout"
)

const (
	// maxLine bounds a line that log prints, in bytes. A message of the unified log
	// has at most 32 KiB.
	maxLine = 256 << 10
	// maxLines bounds the lines that wait to be handled.
	maxLines = 16
)

// predicate returns the predicate for log. It selects the text of ATT&CK's detection
// for T1547.006, and the messages that the programs that handle kernel extensions
// actually log.
func predicate() string {
	var processes, phrases []string
	for _, name := range kextlog.Processes() {
		processes = append(processes, fmt.Sprintf("process == %q", name))
	}
	for _, phrase := range kextlog.Phrases() {
		phrases = append(phrases, fmt.Sprintf("eventMessage CONTAINS %q", phrase))
	}
	return `eventMessage contains "kextload" OR ((` + strings.Join(processes, " OR ") + `) AND (` + strings.Join(phrases, " OR ") + `))`
}

// A command is a running log(1).
type command struct {
	cmd     *exec.Cmd
	cancel  context.CancelFunc
	stderr  *cmdout.Head
	lines   chan []byte // closed at the end of the output
	skipped func()
}

// startLog starts log. log is killed when ctx ends, and its terminal hangs up when
// this process dies: otherwise log would run until it prints the next message. Another
// goroutine calls skipped for each line that is too long or incomplete.
func startLog(ctx context.Context, program string, skipped func(), arguments ...string) (*command, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &command{cancel: cancel, stderr: cmdout.NewHead(host.MaxStderr, nil), lines: make(chan []byte, maxLines), skipped: skipped}
	c.cmd = exec.CommandContext(ctx, program, append(arguments, "--style", "ndjson", "--predicate", predicate())...)
	c.cmd.Env = append(os.Environ(), "LC_ALL=C")
	// The processes that log starts end with it.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// The terminal carries no data; it hangs up when this end is closed. Without a
	// terminal the log can still be read.
	if hold, terminal, err := pty.Open(); err == nil {
		defer terminal.Close()
		context.AfterFunc(ctx, func() { hold.Close() })
		c.cmd.Stdin = terminal
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // a session has a process group of its own
	}
	c.cmd.Cancel = func() error { return syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) }
	c.cmd.WaitDelay = time.Second
	c.cmd.Stderr = c.stderr
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, fmt.Errorf("create a pipe: %w", err)
	}
	if err := host.Start(c.cmd); err != nil {
		cancel()
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
			return nil, &kmodquery.NotSupportedError{Missing: "there is no " + program, Need: "macOS 10.12 or later"}
		}
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	context.AfterFunc(ctx, func() { stdout.Close() }) // another process may hold the other end open
	go c.read(ctx, stdout)
	return c, nil
}

// read passes lines on until the end of the output.
func (c *command) read(ctx context.Context, from io.Reader) {
	defer close(c.lines)
	if isHalf := cmdout.Lines(ctx, from, maxLine, c.lines, c.skipped); isHalf && ctx.Err() == nil {
		c.skipped()
	}
}

// wait returns how log ended. It must be called after lines was closed. If log closed
// its output and still runs, wait kills it after a second.
func (c *command) wait() error {
	kill := time.AfterFunc(time.Second, c.cancel)
	defer kill.Stop()
	defer c.cancel()
	err := c.cmd.Wait()
	stderr := c.stderr.Said()
	if strings.Contains(stderr, "Must be admin") {
		return &kmodquery.NotSupportedError{Missing: "permission to read the unified log" + stderr, Need: "root"}
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w%s", c.cmd.Path, c.cmd.Args[1], err, stderr)
	}
	return nil
}

// stop kills log and waits for its end.
func (c *command) stop() {
	c.cancel()
	for range c.lines { // until read has returned
		continue
	}
	_ = c.cmd.Wait() // log was killed
}
