package es

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/creack/pty"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/darwin/host"
	"github.com/kmodquery/kmodquery/internal/cmdout"
)

// killTimeout bounds the wait for an eslogger that was killed, which the kernel may
// not end at once.
const killTimeout = 5 * time.Second

// An eslogger is a running eslogger(1). Its standard output is a terminal, because it
// buffers its output to a pipe in blocks. It leads a session with this terminal: when
// this process dies for any reason, the terminal hangs up and eslogger gets SIGHUP. It
// does not report the events of its own process group, which is that of the session.
type eslogger struct {
	cmd    *exec.Cmd
	out    *os.File // its output; reads fail when it has ended
	stderr *cmdout.Head
	kill   context.CancelFunc
	ended  chan struct{} // closed when it was reaped
	err    error         // how it ended; valid once ended is closed
}

// startEslogger starts the program with this absolute path. It kills the program's
// process group when ctx ends. The caller must call close.
func startEslogger(ctx context.Context, path string) (*eslogger, error) {
	// Reads of the terminal block a thread, because poll and kqueue do not work
	// reliably with terminals on macOS.
	out, terminal, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	defer terminal.Close()
	ctx, kill := context.WithCancel(ctx)
	p := &eslogger{
		cmd:    host.Command(ctx, path, esloggerEvents...),
		out:    out,
		stderr: cmdout.NewHead(host.MaxStderr, nil),
		kill:   kill,
		ended:  make(chan struct{}),
	}
	p.cmd.Stdout, p.cmd.Stderr = terminal, p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	if err := host.Start(p.cmd); err != nil {
		kill()
		out.Close()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &kmodquery.NotSupportedError{
				Missing: "there is no " + path + " on this host",
				Need:    "macOS 13 or later",
			}
		}
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// resume continues eslogger if it was stopped by a signal.
func (p *eslogger) resume() {
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // it fails if eslogger has ended
}

// close kills eslogger's process group and closes the terminal. A blocked read of out
// fails once no process has the terminal open.
func (p *eslogger) close() {
	p.kill()
	select {
	case <-p.ended:
	case <-time.After(killTimeout):
	}
	p.out.Close()
}
