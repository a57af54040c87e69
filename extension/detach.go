package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"time"

	"github.com/kmodquery/kmodquery"
)

// drainPatience bounds the opening of the pinned programs, on a slow host that has to replace
// them first, and the reading of records that wait in the kernel.
const drainPatience = time.Minute

// detach stores the events that the pinned programs recorded while no recorder ran. Then
// it removes the programs. It returns an error if another process records. If a signal
// arrives before all events are stored, it does not remove the programs.
func detach(ctx context.Context, c *config, stdout io.Writer, report *log.Logger) error {
	if _, err := os.ReadDir(c.pinDir); errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("look for pinned programs: %w; run it as root", err)
	}
	if c.pinDir == "" || !c.platform.hasPins(c.pinDir) {
		// A process that was killed while it pinned or removed programs may have left
		// some.
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
		return errors.New("ended by a signal; the programs stay pinned")
	}
	if err != nil {
		// The programs are removed even if the store cannot be used.
		report.Printf("events that wait in the kernel are not stored: %v", err)
	}
	if err := c.platform.removePins(c.pinDir); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "removed the programs that were pinned in", c.pinDir)
	if err != nil {
		return errReported
	}
	return nil
}

var errRecorded = errors.New("another process records into the event store; end it first")

func drain(ctx context.Context, c *config, report *log.Logger) (err error) {
	only := *c // runs the source with pins, whatever the settings say
	only.sources = []string{kmodquery.SourceEBPF}
	a, err := open(ctx, &only, report)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if a.recorder == nil {
		return errRecorded
	}
	<-a.started
	opening, opened := context.WithTimeout(ctx, drainPatience)
	a.recorder.AwaitComplete(opening)
	opened()
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	if err := a.recorder.Sync(ctx); err != nil {
		return err
	}
	for _, sensor := range a.recorder.Sensors(ctx) {
		// A source that does not run is not part of the Sync.
		if sensor.Source == kmodquery.SourceEBPF && sensor.Hooks == "" {
			return fmt.Errorf("%s is %s: %s", sensor.Source, sensor.State, sensor.Reason)
		}
	}
	return nil
}
