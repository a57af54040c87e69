package es

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/creack/pty"

	"github.com/kmodquery/kmodquery/darwin/host"
	"github.com/kmodquery/kmodquery/internal/cmdout"
)

// killTimeout bounds the wait for a program that was killed, which the kernel may
// not end at once.
const killTimeout = 5 * time.Second

// A ptyProgram is a running program whose standard output is a terminal of its own,
// because programs buffer their output to a pipe in blocks. It leads a session with
// this terminal: when this process dies for any reason, the terminal hangs up and
// the program gets SIGHUP.
type ptyProgram struct {
	out    *os.File      // its output; reads fail when it has ended
	ended  chan struct{} // closed when it was reaped
	err    error         // how it ended; valid once ended is closed
	stderr *cmdout.Head
	cancel context.CancelFunc
	cmd    *exec.Cmd
}

// startOnPty starts the program with this absolute path. It kills the program's
// process group when ctx ends. After the program has exited it waits for the end of
// standard error no longer than stderrTimeout, because another process may hold it
// open. The caller must call close.
func startOnPty(ctx context.Context, stderrTimeout time.Duration, path string, arguments ...string) (*ptyProgram, error) {
	// Reads of the terminal block a thread, because poll and kqueue do not work
	// reliably with terminals on macOS.
	out, terminal, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	defer terminal.Close()
	ctx, cancel := context.WithCancel(ctx)
	p := &ptyProgram{out: out, ended: make(chan struct{}), stderr: cmdout.NewHead(host.MaxStderr, nil), cancel: cancel}
	cmd := exec.CommandContext(ctx, path, arguments...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = terminal, p.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = stderrTimeout
	if err := host.Start(cmd); err != nil {
		cancel()
		out.Close()
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	p.cmd = cmd
	go func() {
		defer close(p.ended)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// resume continues the program if it was stopped by a signal.
func (p *ptyProgram) resume() {
	select {
	case <-p.ended: // another process may have its ID
	default:
		_ = p.cmd.Process.Signal(syscall.SIGCONT) // it fails if the program ends at this moment
	}
}

// close kills the program's process group and closes the terminal. A blocked read of
// out fails once no process has the terminal open.
func (p *ptyProgram) close() {
	p.cancel()
	select {
	case <-p.ended:
	case <-time.After(killTimeout):
	}
	p.out.Close()
}
