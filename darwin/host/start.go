package host

import (
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
)

// MaxComplaint bounds what is kept of a program's errors: the first of them.
const MaxComplaint = 2 << 10

// starting is held while this process does not ignore SIGHUP that otherwise does.
var starting sync.Mutex

// Start starts a program that ends by SIGHUP unless it chooses not to. It
// would inherit that this process ignores it, as everything under nohup does; what
// is caught is not inherited.
func Start(cmd *exec.Cmd) error {
	starting.Lock()
	defer starting.Unlock()
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
		defer signal.Ignore(syscall.SIGHUP)
	}
	return cmd.Start()
}
