package main

import (
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// A notifier tells the service manager how the service is, by sd_notify(3).
// Where none asked to be told, it does nothing.
type notifier struct {
	report func(error) // called with the first failure only
	// watchdog is within what time the manager wants a sign of life; 0 where
	// it does not.
	watchdog time.Duration
	status   string // that it was told last
}

func newNotifier(report *log.Logger) (*notifier, error) {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("read the service manager's watchdog time: %w", err)
	}
	var once sync.Once
	return &notifier{
		report:   func(err error) { once.Do(func() { report.Printf("tell the service manager: %v", err) }) },
		watchdog: watchdog,
	}, nil
}

func (n *notifier) send(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.report(err)
	}
}

// ready says that the service does what it is for.
func (n *notifier) ready() { n.send(daemon.SdNotifyReady) }

// alive is the sign of life.
func (n *notifier) alive() {
	if n.watchdog > 0 {
		n.send(daemon.SdNotifyWatchdog)
	}
}

// stopping says that the service ends.
func (n *notifier) stopping() { n.send(daemon.SdNotifyStopping) }

// tell sends a line for people, if it is another one than before. The line may
// hold what the host said: a line feed in it would be a message of its own, and
// the manager shows what it was told on terminals.
func (n *notifier) tell(line string) {
	line = harmless(line)
	if line != n.status {
		n.status = line
		n.send("STATUS=" + line)
	}
}
