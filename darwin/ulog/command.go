package ulog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	cmd    *exec.Cmd
	cancel context.CancelFunc
	stderr *cmdout.Head
	lines  chan []byte // closed at the end of the output
}

// startLog starts log. log is killed when ctx ends, and its terminal hangs up when
// this process dies: otherwise log would run until it prints the next message. The
// command calls cancel, which must end ctx, when log has ended or cannot be started.
func (s *Source) startLog(ctx context.Context, cancel context.CancelFunc, arguments ...string) (*command, error) {
	program := s.options.Programs.Log
	c := &command{cancel: cancel, stderr: cmdout.NewHead(host.MaxStderr, nil), lines: make(chan []byte, maxLines)}
	c.cmd = host.Command(ctx, program, append(arguments, "--style", "ndjson", "--predicate", predicate())...)
	c.cmd.Stderr = c.stderr
	// The terminal carries no data; it hangs up when this end is closed. Without a
	// terminal the log can still be read.
	if hold, terminal, err := pty.Open(); err == nil {
		defer terminal.Close()
		context.AfterFunc(ctx, func() { hold.Close() })
		c.cmd.Stdin = terminal
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // a session has a process group of its own
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, fmt.Errorf("create a pipe: %w", err)
	}
	if err := host.Start(c.cmd); err != nil {
		cancel()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &kmodquery.NotSupportedError{Missing: "there is no " + program, Need: "macOS 12 or later"}
		}
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	context.AfterFunc(ctx, func() { stdout.Close() }) // another process may hold the other end open
	go func() {
		defer close(c.lines)
		skipped := func() { s.health.DecodeErrors.Add(1) }
		if isHalf := cmdout.Lines(ctx, stdout, maxLine, c.lines, skipped); isHalf && ctx.Err() == nil {
			skipped()
		}
	}()
	return c, nil
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
	for range c.lines { // until the end of the output
		continue
	}
	_ = c.cmd.Wait() // log was killed
}
