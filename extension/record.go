package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/kmodquery/kmodquery"
)

// statusEvery is how often the service's status line is updated.
const statusEvery = 5 * time.Second

// A recording has the methods of a recorder that record uses.
type recording interface {
	Sync(ctx context.Context) error
	Sensors(ctx context.Context) []kmodquery.Sensor
}

// record records into the event store until ctx ends, or until a mistake in the
// configuration file is corrected, and then returns nil. While
// another process records, it waits to take over. It needs no osquery.
func record(ctx context.Context, c *config, report *log.Logger) error {
	n, err := newNotifier(c.platform, report)
	if err != nil {
		return err
	}
	c.notifier = n
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	endWhenCorrected(ctx, c, report, stop)
	return inTurn(ctx, c, report, func(role context.Context, a *app) error {
		a.awaitStart(c, report)
		role, end := context.WithCancel(role)
		defer end()
		lost := make(chan error, 1)
		go func() {
			defer end()
			lost <- keepFolder(role, c, a)
		}()
		if a.recorder != nil {
			notifyLoop(role, n, a.recorder)
		} else {
			report.Printf("another process records into %s; waiting to take over", c.stateDir)
			notifyLoop(role, n, nil)
		}
		if ctx.Err() != nil {
			n.send(daemon.SdNotifyStopping)
		}
		return <-lost
	})
}

// folderInterval is the most time between two checks of a recorder's state folder.
const folderInterval = 3 * time.Second

// keepFolder lets a recorder create its state folder again if it was removed, until ctx ends,
// and then returns nil. It returns an error if the folder was removed and this process may
// not create it again. In the unit the folder is a mount, which is removed with it, and the
// file system below is read-only. systemd creates the folder when it starts the service again.
func keepFolder(ctx context.Context, c *config, a *app) error {
	v := vacancy{stateDir: c.stateDir}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(time.Duration(c.interval)*time.Second, folderInterval)):
		}
		var err error
		if a.recorder != nil {
			err = a.store.Check(ctx)
		} else {
			_, err = v.check()
		}
		var path *fs.PathError
		if errors.As(err, &path) && (errors.Is(path, unix.EROFS) || errors.Is(path, fs.ErrPermission)) && !a.store.IsRecorder() {
			return fmt.Errorf("the state folder was removed, and this process may not create it again: %w; start it again", path)
		}
	}
}

// notifyLoop notifies the service manager until ctx ends: it sends the status of the
// recorder and, while the recorder answers, the watchdog's messages. r is nil while
// another process records.
func notifyLoop(ctx context.Context, n *notifier, r recording) {
	sendStatus := func() {
		if r != nil {
			n.sendStatus("recording: " + summary(r.Sensors(ctx)))
		} else {
			n.sendStatus("waiting: another process records")
		}
	}
	sendStatus()
	n.send(daemon.SdNotifyReady)
	status := time.NewTicker(statusEvery)
	defer status.Stop()
	var watchdog <-chan time.Time // nil if the manager has no watchdog
	if n.watchdog > 0 {
		ticker := time.NewTicker(n.watchdog / 2)
		defer ticker.Stop()
		watchdog = ticker.C
	}
	p := probe{recording: r}
	for {
		select {
		case <-ctx.Done():
			return
		case <-status.C:
			sendStatus()
		case <-watchdog:
			if r == nil || p.answers(ctx, n.watchdog/4) {
				n.send(daemon.SdNotifyWatchdog)
			}
		}
	}
}

// A probe checks whether a recorder answers, with one call at a time.
type probe struct {
	recording
	asked chan error // result of the Sync that was called; nil if none was
}

// answers reports whether the recorder, within the given time, stored every event that
// it had observed, or returned an error that says why it could not.
func (p *probe) answers(ctx context.Context, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	select {
	case <-p.asked: //nolint:errcheck // the result of an earlier check
		p.asked = nil
	default:
	}
	if p.asked == nil {
		asked := make(chan error, 1)
		p.asked = asked
		go func() { asked <- p.Sync(ctx) }()
	}
	select {
	case err := <-p.asked:
		p.asked = nil
		return !errors.Is(err, context.DeadlineExceeded)
	case <-ctx.Done():
		return false
	}
}

// summary returns the states of the sensors as one line: active ones first, failed ones
// with their reason.
func summary(sensors []kmodquery.Sensor) string {
	var watching, others []string
	for _, sensor := range sensors {
		switch sensor.State {
		case kmodquery.StateActive:
			watching = append(watching, sensor.Source+" is active")
		case kmodquery.StateFailed:
			others = append(others, fmt.Sprintf("%s failed (%s)", sensor.Source, sensor.Reason))
		default:
			others = append(others, sensor.Source+" "+sensor.State)
		}
	}
	if watching == nil {
		watching = []string{"no source is active"}
	}
	return strings.Join(append(watching, others...), ", ")
}
