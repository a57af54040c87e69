package main

import (
	"context"
	"errors"
	"io/fs"
	"log"
	"os"
	"sync"
	"time"

	"github.com/kmodquery/kmodquery/tables/sqlite"
)

// inTurn opens the event store and runs f, in the recorder, or in a reader while another
// process records. When that process ends, inTurn ends the context of f, opens the store
// as the recorder and runs f again. If another process has become the recorder, inTurn runs
// f again as a reader. It returns when f returns for another reason.
func inTurn(ctx context.Context, c *config, report *log.Logger, f func(context.Context, *app) error) error {
	for ctx.Err() == nil {
		again, err := inRole(ctx, c, report, f)
		if err != nil || !again {
			return err
		}
	}
	return nil
}

// inRole runs f once. It reports whether f must run again because the recorder has
// ended or is another process.
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
	role, end := context.WithCancel(ctx)
	var change string // what ended the role
	var watching sync.WaitGroup
	watching.Go(func() {
		defer end()
		if a.recorder == nil {
			awaitUnrecorded(role, c, report)
			change = "the process that recorded has ended; taking over"
		} else if awaitSuperseded(role, c, a.store) {
			change = "another process records into the event store since the lock was removed; this one reads it"
		}
	})
	err = f(role, a)
	again = role.Err() != nil && ctx.Err() == nil
	end()
	watching.Wait()
	closing := a.Close()
	if again {
		report.Print(change)
	}
	if again && a.recorder != nil && closing != nil {
		report.Print(closing) // what could not be stored does not keep the process from reading
		closing = nil
	}
	return again, errors.Join(err, closing)
}

// awaitSuperseded returns true once another process records into the store that this one
// recorded into, and does so for some time: a query that records ends soon. It returns false
// when ctx ends.
func awaitSuperseded(ctx context.Context, c *config, store *sqlite.Store) bool {
	for checks := 0; checks < absences; {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(min(time.Duration(c.interval)*time.Second, folderInterval)):
		}
		if checks++; !store.IsSuperseded() {
			checks = 0
		}
	}
	return true
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
