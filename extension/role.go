package main

import (
	"context"
	"errors"
	"log"
	"time"

	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// inTurn runs f with the event store open until f returns: as the recorder, or,
// while another process records, as a reader. When that one ends f's context
// does, and f runs again as the recorder.
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

// inRole runs f once, and reports whether to do so again because the recorder
// has ended.
func inRole(ctx context.Context, c *config, report *log.Logger, f func(context.Context, *app) error) (again bool, err error) {
	a, err := open(ctx, c, report)
	if err != nil {
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

// awaitUnrecorded returns when nobody records into the event store. It reports what
// keeps it from seeing that, and goes on.
func awaitUnrecorded(ctx context.Context, c *config, report *log.Logger) {
	told := ""
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
		if err != nil && err.Error() != told {
			told = err.Error()
			report.Printf("this process cannot take over: look whether another one records: %v", err)
		}
	}
}
