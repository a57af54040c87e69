package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/kmodquery/kmodquery"
)

// statusEvery is how often the service manager's line is looked at.
const statusEvery = 5 * time.Second

// A recording is what record needs of a recorder.
type recording interface {
	Sync(ctx context.Context) error
	Sensors(ctx context.Context) []kmodquery.Sensor
}

// record records into the event store until ctx ends, which is the normal end.
// While another process records it waits to take over. It needs no osquery.
func record(ctx context.Context, c *config, report *log.Logger) error {
	n, err := newNotifier(report)
	if err != nil {
		return err
	}
	return inTurn(ctx, c, report, func(role context.Context, a *app) error {
		if c.verbose {
			a.describe(report)
		}
		if a.recorder != nil {
			attend(role, n, a.recorder)
		} else {
			report.Printf("another process records into %s; waiting to take over", c.stateDir)
			attend(role, n, nil)
		}
		if ctx.Err() != nil {
			n.stopping()
		}
		return nil
	})
}

// attend keeps the service manager informed until ctx ends: of a recorder, or
// of waiting for one to end where r is nil. A recorder that does not answer
// gives no sign of life.
func attend(ctx context.Context, n *notifier, r recording) {
	tell := func() {
		if r != nil {
			n.tell("recording: " + summary(r.Sensors(ctx)))
		} else {
			n.tell("waiting: another process records")
		}
	}
	tell()
	n.ready()
	status := time.NewTicker(statusEvery)
	defer status.Stop()
	var watchdog <-chan time.Time // nil where nobody asks
	if n.watchdog > 0 {
		ticker := time.NewTicker(n.watchdog / 2)
		defer ticker.Stop()
		watchdog = ticker.C
	}
	p := pulse{recording: r}
	for {
		select {
		case <-ctx.Done():
			return
		case <-status.C:
			tell()
		case <-watchdog:
			if r == nil || p.beats(ctx, n.watchdog/4) {
				n.alive()
			}
		}
	}
}

// A pulse asks a recorder for signs of life, one at a time.
type pulse struct {
	recording
	asked chan error // of the Sync under way; nil where there is none
}

// beats reports whether the recorder has brought to the store within the time
// what it had seen, or knows why it cannot.
func (p *pulse) beats(ctx context.Context, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	select {
	case <-p.asked: //nolint:errcheck // too late: it says nothing of now
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

// summary is the sensors' states in a line: those that watch first, and why one
// failed.
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
		watching = []string{"nothing watches"}
	}
	return strings.Join(append(watching, others...), ", ")
}
