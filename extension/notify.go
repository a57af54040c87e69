package main

import (
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// A notifier sends the state of the service to the service manager, by sd_notify(3).
// It does nothing if there is no service manager.
type notifier struct {
	report func(error) // called with the first failure only
	// watchdog is the time within which the manager expects a message; 0 if it
	// expects none.
	watchdog time.Duration
	status   string // last status line
}

func newNotifier(report *log.Logger) (*notifier, error) {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("read the service manager's watchdog time: %w", err)
	}
	var once sync.Once
	return &notifier{
		report:   func(err error) { once.Do(func() { report.Printf("notify the service manager: %v", err) }) },
		watchdog: watchdog,
	}, nil
}

func (n *notifier) send(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.report(err)
	}
}

// sendStatus sends a status line if it differs from the last one. It escapes text of the
// host in the line: a line feed would begin another message, and the manager shows status
// lines on terminals.
func (n *notifier) sendStatus(line string) {
	line = harmless(line)
	if line != n.status {
		n.status = line
		n.send("STATUS=" + line)
	}
}
