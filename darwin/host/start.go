package host

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// MaxStderr bounds how much of a program's standard error is kept, in bytes.
const MaxStderr = 2 << 10

// Command returns a command that runs a program in a process group of its own. The
// group is killed when ctx ends. Once the program has exited, Wait waits for the end of
// its output for a second at most, because another process may hold it open.
func Command(ctx context.Context, path string, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, arguments...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// starting guards the time in which this process temporarily does not ignore
// SIGHUP.
var starting sync.Mutex

// Start starts a command with the default action for SIGHUP, so that it ends when
// its terminal hangs up. Without it the command would inherit an ignored SIGHUP,
// which every process under nohup has; a caught signal is not inherited.
func Start(cmd *exec.Cmd) error {
	starting.Lock()
	defer starting.Unlock()
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
		defer signal.Ignore(syscall.SIGHUP)
	}
	return cmd.Start()
}
