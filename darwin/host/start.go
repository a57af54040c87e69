package host

import (
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
)

// MaxStderr bounds how much of a program's standard error is kept, in bytes.
const MaxStderr = 2 << 10

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
