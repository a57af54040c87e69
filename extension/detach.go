package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	"github.com/kmodquery/kmodquery"
)

// drainPatience bounds the reading of records that wait in the kernel.
const drainPatience = time.Minute

// detach stores what the pinned programs saw while no recorder ran, and removes them. It
// fails while another process records. If a signal ends it before all is stored, the
// programs stay.
func detach(ctx context.Context, c *config, stdout io.Writer, report *log.Logger) error {
	if c.pinDir == "" || !c.platform.hasPins(c.pinDir) {
		// A process that was killed while it pinned or removed programs left some.
		if err := c.platform.removePins(c.pinDir); err != nil {
			return err
		}
		fmt.Fprintln(stdout, "nothing is pinned")
		return nil
	}
	err := drain(ctx, c, report)
	if errors.Is(err, errRecorded) {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("ended by a signal; what is pinned stays")
	}
	if err != nil {
		// The programs are removed even if the store cannot be used.
		report.Printf("what waits in the kernel is not stored: %v", err)
	}
	if err := c.platform.removePins(c.pinDir); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "detached what was pinned in", c.pinDir)
	if err != nil {
		return errReported
	}
	return nil
}

var errRecorded = errors.New("another process records into the event store; end it first")

func drain(ctx context.Context, c *config, report *log.Logger) (err error) {
	only := *c // the only source with pins, whatever the settings want
	only.sources = []string{kmodquery.SourceEBPF}
	a, err := open(ctx, &only, report)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if a.recorder == nil {
		return errRecorded
	}
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	if err := a.recorder.Sync(ctx); err != nil {
		return err
	}
	for _, sensor := range a.recorder.Sensors(ctx) {
		// It does not run, so the Sync did not wait for it.
		if sensor.Source == kmodquery.SourceEBPF && sensor.Hooks == "" {
			return fmt.Errorf("%s is %s: %s", sensor.Source, sensor.State, sensor.Reason)
		}
	}
	return nil
}
