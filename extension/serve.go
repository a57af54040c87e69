package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"sync"
	"time"
)

// serve serves the tables to osquery until ctx ends, or until osquery and the process
// that started this one have both ended, or until a mistake in the configuration file is
// corrected. It returns nil in all cases. If only osquery has ended, serve waits for the
// next osquery.
//
// The tables are registered first: osquery asks only at its start, and then once an hour,
// whether they exist. Until the event store is open, calls of the tables wait for it.
func serve(ctx context.Context, c *config, report *log.Logger) error {
	parent := os.Getppid()
	// This comes first, so that a wrong socket is reported before the store is created
	// and the sources are started.
	if err := reach(ctx, c); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		if awaitOrphaned(ctx, parent, c.socket) {
			report.Print("osquery has gone away, and so has the process that started this one")
			stop()
		}
	}()
	endWhenCorrected(ctx, c, report, stop)
	offered := newOfferedTables(ctx, c)
	tried, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		defer stop()
		ended <- offer(ctx, c, offered, report, sync.OnceFunc(func() { close(tried) }))
	}()
	// An osquery that does not answer must not keep the sources from watching.
	select {
	case <-tried:
	case <-time.After(c.osqueryTimeout()):
	case <-ctx.Done():
	}
	err := inTurn(ctx, c, report, func(role context.Context, a *app) error {
		defer offered.use(a)()
		a.awaitStart(c, report)
		if a.recorder != nil {
			_ = keepFolder(role, c, a) // the sensors say why it failed
		}
		<-role.Done()
		return nil
	})
	stop()
	return errors.Join(err, <-ended)
}

// reach waits until osquery answers on its socket, or until ctx ends.
func reach(ctx context.Context, c *config) error {
	err := ping(ctx, c)
	switch {
	case err == nil || ctx.Err() != nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("there is no such socket after %s", c.osqueryTimeout())
	}
	return fmt.Errorf("connect to osquery at %s: %w; is osquery running, with this socket?", c.socket, err)
}

// ping waits for the socket to appear, and then for osquery to answer.
func ping(ctx context.Context, c *config) error {
	client, err := dial(ctx, c, c.osqueryTimeout())
	if err != nil {
		return err
	}
	defer client.close()
	defer context.AfterFunc(ctx, client.close)()
	_, err = client.Ping(ctx)
	return err
}
