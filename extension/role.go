package main

import (
	"context"
	"errors"
	"log"
	"time"

	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// inTurn opens the event store and runs f, in the recorder, or in a reader while another
// process records. When that process ends, inTurn ends the context of f, opens the store
// as the recorder and runs f again. It returns when f returns for another reason.
func inTurn(ctx context.Context, c *config, report *log.Logger, f func(context.Context, *app) error) error {
	for ctx.Err() == nil {
		again, err := inRole(ctx, c, report, f)
		if err != nil || !again {
			return err
		}
		report.Print("the process that recorded has ended; taking over")
	}
	return nil
}

// inRole runs f once. It reports whether f must run again because the recorder has
// ended.
func inRole(ctx context.Context, c *config, report *log.Logger, f func(context.Context, *app) error) (again bool, err error) {
	var a *app
	err = c.notifier.during(func() (err error) {
		a, err = open(ctx, c, report)
		return err
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return false, nil //nolint:nilerr // the end of ctx ends the opening, too
	case err != nil:
		return false, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	role, end := context.WithCancel(ctx)
	defer end()
	if a.recorder == nil {
		go func() {
			defer end()
			awaitUnrecorded(role, c, report)
		}()
	}
	err = f(role, a)
	return role.Err() != nil && ctx.Err() == nil, err
}

// awaitUnrecorded returns when no process records into the event store. It reports
// errors of that check and continues.
func awaitUnrecorded(ctx context.Context, c *config, report *log.Logger) {
	reported := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(c.interval) * time.Second):
		}
		free, err := sqlite.IsFree(c.stateDir)
		if free {
			return
		}
		if err != nil && err.Error() != reported {
			reported = err.Error()
			report.Printf("this process cannot take over: check whether another process records: %v", err)
		}
	}
}
