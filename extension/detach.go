package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"time"
)

// drainPatience bounds the reading of what waits in the kernel.
const drainPatience = time.Minute

// detach stores what the pinned programs saw while nothing recorded, and removes
// them. It fails while another process records.
func detach(ctx context.Context, c *config, stdout io.Writer, report *log.Logger) error {
	if c.pinDir == "" || !hasPins(c.pinDir) {
		fmt.Fprintln(stdout, "nothing is pinned")
		return nil
	}
	err := drain(ctx, c, report)
	if errors.Is(err, errRecorded) {
		return err
	}
	if err != nil {
		// The programs are to go whether the store can be had or not.
		report.Printf("what waits in the kernel is not stored: %s", oneLine(err))
	}
	if err := removePins(c.pinDir); err != nil {
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
	a, err := open(ctx, c, report)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if a.recorder == nil {
		return errRecorded
	}
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	return a.recorder.Sync(ctx)
}
