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
	// maxLine bounds a line of log's in bytes. A message of the unified log has
	// at most 32 KiB.
	maxLine = 256 << 10
	// maxLines bounds the lines that were read and not looked at.
	maxLines = 16
)

// predicate selects what the sources look for: the text that ATT&CK's
// detection for T1547.006 names, and what the programs that handle kernel
// extensions write in fact.
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

// A command is one call of log(1) that runs.
type command struct {
	cmd       *exec.Cmd
	cancel    context.CancelFunc
	complaint *cmdout.Head
	lines     chan []byte // closed at the end of its output
	skipped   func()
}

// startLog calls log. It is killed when ctx ends, and hung up on when this process
// dies without an end of its own: one that nobody reads would go on until it has
// something to say. skipped is called, from another goroutine, for each line that is
// too long to be one.
func startLog(ctx context.Context, program string, skipped func(), arguments ...string) (*command, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &command{cancel: cancel, complaint: cmdout.NewHead(host.MaxStderr, nil), lines: make(chan []byte, maxLines), skipped: skipped}
	c.cmd = exec.CommandContext(ctx, program, append(arguments, "--style", "ndjson", "--predicate", predicate())...)
	c.cmd.Env = append(os.Environ(), "LC_ALL=C")
	// Whatever it starts ends with it.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Nobody prints to the terminal or reads it: it hangs up when this end is closed.
	// Where none can be had, the log can still be read.
	if hold, terminal, err := pty.Open(); err == nil {
		defer terminal.Close()
		context.AfterFunc(ctx, func() { hold.Close() })
		c.cmd.Stdin = terminal
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // which makes a group, too
	}
	c.cmd.Cancel = func() error { return syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) }
	c.cmd.WaitDelay = time.Second
	c.cmd.Stderr = c.complaint
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	if err := host.Start(c.cmd); err != nil {
		cancel()
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
			return nil, &kmodquery.NotSupportedError{Missing: "there is no " + program, Need: "macOS 10.12 or later"}
		}
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	context.AfterFunc(ctx, func() { stdout.Close() }) // another process may hold its other end
	go c.read(ctx, stdout)
	return c, nil
}

// read passes lines on until there are no more.
func (c *command) read(ctx context.Context, from io.Reader) {
	defer close(c.lines)
	if isHalf := cmdout.Lines(ctx, from, maxLine, c.lines, c.skipped); isHalf && ctx.Err() == nil {
		c.skipped()
	}
}

// wait returns how it ended, once lines was closed; a program that closed its
// output and lives on is killed a second later.
func (c *command) wait() error {
	kill := time.AfterFunc(time.Second, c.cancel)
	defer kill.Stop()
	defer c.cancel()
	err := c.cmd.Wait()
	said := c.complaint.Said()
	if strings.Contains(said, "Must be admin") {
		return &kmodquery.NotSupportedError{Missing: "permission to read the unified log" + said, Need: "root"}
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w%s", c.cmd.Path, c.cmd.Args[1], err, said)
	}
	return nil
}

// stop kills it and waits for its end.
func (c *command) stop() {
	c.cancel()
	for range c.lines { // until its reader has ended
		continue
	}
	_ = c.cmd.Wait() // it was killed
}
