package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"time"

	osquery "github.com/osquery/osquery-go"
)

// serve serves the tables to osquery until ctx ends, or until osquery and the process
// that started this one have both ended. It returns nil in both cases. If only osquery
// has ended, serve waits for the next osquery.
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
	return inTurn(ctx, c, report, func(ctx context.Context, a *app) error {
		return offer(ctx, c, a, report)
	})
}

// reach waits until osquery answers on its socket, or until ctx ends.
func reach(ctx context.Context, c *config) error {
	answered := make(chan error, 1)
	go func() { answered <- ping(c.socket, time.Duration(c.timeout)*time.Second) }()
	select {
	case err := <-answered:
		return err
	case <-ctx.Done():
		return nil
	}
}

// ping waits up to timeout for the socket to appear, and again for osquery to answer.
func ping(socket string, timeout time.Duration) error {
	client, err := osquery.NewClient(socket, timeout)
	if err == nil {
		defer client.Close()
		_, err = client.Ping()
	} else if _, missing := os.Stat(socket); errors.Is(missing, fs.ErrNotExist) {
		err = fmt.Errorf("there is no such socket after %s", timeout)
	}
	if err != nil {
		return fmt.Errorf("connect to osquery at %s: %w; is osquery running, with this socket?", socket, err)
	}
	return nil
}
