package main

import (
	"context"
	"errors"
	"io/fs"
	"log"
	"os"
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

// absences is how many checks in a row must find no state folder until no process is taken
// to record. A recorder whose folder was removed creates it again within folderInterval.
const absences = 4

// A vacancy checks whether a process records into the event store.
type vacancy struct {
	stateDir string
	absent   int // checks in a row that found no folder
}

// check reports whether no process records. If no process creates a removed folder again, it
// creates the folder, and the next check finds it free.
func (v *vacancy) check() (free bool, err error) {
	free, err = sqlite.IsFree(v.stateDir)
	if !errors.Is(err, fs.ErrNotExist) {
		v.absent = 0
	} else if v.absent++; v.absent >= absences {
		err = os.MkdirAll(v.stateDir, 0o700)
	}
	return free, err
}

// awaitUnrecorded returns when no process records into the event store. It reports
// errors of that check and continues.
func awaitUnrecorded(ctx context.Context, c *config, report *log.Logger) {
	v := vacancy{stateDir: c.stateDir}
	reported := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(c.interval) * time.Second):
		}
		free, err := v.check()
		if free {
			return
		}
		if err != nil && err.Error() != reported {
			reported = err.Error()
			report.Printf("this process cannot take over: check whether another process records: %v", err)
		}
	}
}
