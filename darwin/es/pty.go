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

const (
	// pipesPatience is how long a program that has ended is waited for whose
	// stderr something else holds.
	pipesPatience = time.Second
	// killPatience is how long one that was killed is waited for. The kernel may
	// not be done with it for a while.
	killPatience = 5 * time.Second
)

// A ptyProgram is a running program that prints to a terminal of its own, because
// programs keep what they print to a pipe until a block of it is full. It is the
// leader of a session that has this terminal: when this process dies, however
// that comes, the terminal hangs up and the program gets SIGHUP.
type ptyProgram struct {
	out    *os.File      // what it prints; reading fails when it has ended
	ended  chan struct{} // closed when it was reaped
	err    error         // how it ended; valid once ended is closed
	said   *cmdout.Head
	cancel context.CancelFunc
	cmd    *exec.Cmd
}

// startOnPty runs a program, an absolute path, until it ends or ctx does. Then
// its process group is killed. The caller must call close.
func startOnPty(ctx context.Context, path string, arguments ...string) (*ptyProgram, error) {
	// Reads of it block a thread: poll and kqueue cannot be trusted with
	// terminals on macOS.
	out, terminal, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	defer terminal.Close()
	ctx, cancel := context.WithCancel(ctx)
	p := &ptyProgram{out: out, ended: make(chan struct{}), said: cmdout.NewHead(host.MaxStderr, nil), cancel: cancel}
	cmd := exec.CommandContext(ctx, path, arguments...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = terminal, p.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = pipesPatience
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

// resume has the program go on where somebody stopped it.
func (p *ptyProgram) resume() {
	select {
	case <-p.ended: // its id may be another's
	default:
		_ = p.cmd.Process.Signal(syscall.SIGCONT) // it may end at this moment
	}
}

// close kills what is left of the program and lets go of its terminal. A read of
// out that is under way fails when nothing has the terminal open any more.
func (p *ptyProgram) close() {
	p.cancel()
	select {
	case <-p.ended:
	case <-time.After(killPatience):
	}
	p.out.Close()
}
