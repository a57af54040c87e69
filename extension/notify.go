package main

import (
	"fmt"
	"log"
	"runtime"
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

	// threadTime returns a clock of the processor time that the calling thread uses; nil
	// if there is none.
	threadTime func() func() time.Duration
	every      time.Duration // signEvery, except in tests
}

const (
	// signEvery is how often during looks for progress.
	signEvery = 10 * time.Second
	// signBusy is the processor time that is progress. A thread that waits for a disk or
	// a lock uses less.
	signBusy = 10 * time.Millisecond
	// signExtends is by how much a sign of life extends the time to start.
	signExtends = time.Minute
)

func newNotifier(p *platform, report *log.Logger) (*notifier, error) {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("read the service manager's watchdog time: %w", err)
	}
	var once sync.Once
	return &notifier{
		report:   func(err error) { once.Do(func() { report.Printf("notify the service manager: %v", err) }) },
		watchdog: watchdog, threadTime: p.threadTime, every: signEvery,
	}, nil
}

// during calls f, which may take minutes. While f makes progress, it sends signs of life, for
// which the manager waits longer than its time to start and its watchdog's time: f works on
// the calling thread, and a thread that hangs uses no processor time. n may be nil.
func (n *notifier) during(f func() error) error {
	if n == nil || n.threadTime == nil {
		return f()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used, done := n.threadTime(), make(chan struct{})
	defer close(done)
	go func() {
		ticker := time.NewTicker(n.every)
		defer ticker.Stop()
		for last := used(); ; {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			if now := used(); now-last >= signBusy {
				last = now
				n.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d\n%s", signExtends.Microseconds(), daemon.SdNotifyWatchdog))
			}
		}
	}()
	return f()
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
