package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"strings"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	osquery "github.com/osquery/osquery-go"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/tables/sqlite"
)

const (
	extensionName = "kmodquery"
	// transportBuffer makes one write of many: the transport writes every
	// value by itself otherwise, twelve times slower on a large reply.
	transportBuffer = 64 << 10
	// registerFor is how long to offer the tables again to an osquery that
	// still lists a dead predecessor, and registerEvery how often. It forgets
	// a dead extension with its next round of pings.
	registerFor   = 30 * time.Second
	registerEvery = 500 * time.Millisecond
	// drainFor bounds the wait, after a signal, for requests under way. osquery
	// kills an extension 11 s after it asked it to end.
	drainFor = 5 * time.Second
)

// serve offers the tables to osquery until ctx ends or osquery goes away; both
// are a normal end. While another process records into the event store it
// reads, and takes over when that one ends.
func serve(ctx context.Context, c *config, report *log.Logger) error {
	// First, so that a wrong socket is told before anything is started or made.
	if err := reach(ctx, c); err != nil {
		return err
	}
	for ctx.Err() == nil {
		again, err := serveAs(ctx, c, report)
		if err != nil || !again {
			return err
		}
		report.Print("the process that recorded has ended; taking over")
	}
	return nil
}

// serveAs serves as recorder or reader, and reports whether to serve again
// because the recorder has ended.
func serveAs(ctx context.Context, c *config, report *log.Logger) (again bool, err error) {
	a, err := open(ctx, c, report)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if c.verbose {
		a.describe(report)
	}
	role, end := context.WithCancel(ctx)
	defer end()
	if a.recorder == nil {
		go func() {
			defer end()
			awaitUnrecorded(role, c)
		}()
	}
	err = offer(role, c, a.plugins, report)
	return role.Err() != nil && ctx.Err() == nil, err
}

// awaitUnrecorded returns when nobody records into the event store.
func awaitUnrecorded(ctx context.Context, c *config) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(c.interval) * time.Second):
		}
		if free, err := sqlite.Unrecorded(c.stateDir); free && err == nil {
			return
		}
	}
}

// offer registers the tables and serves them, again where osquery still lists
// a dead predecessor or has only missed a ping.
func offer(ctx context.Context, c *config, plugins []osquery.OsqueryPlugin, report *log.Logger) error {
	for deadline := time.Now().Add(registerFor); ; {
		err := register(ctx, c, plugins)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && isDuplicate(err) && time.Now().Before(deadline):
		case errors.Is(err, errUnlisted):
			report.Print("osquery has dropped the tables; registering them again")
			deadline = time.Now().Add(registerFor)
		case err != nil && isGone(err):
			if reach(ctx, c) != nil {
				report.Printf("osquery has gone away: %v", err)
				return nil
			}
			deadline = time.Now().Add(registerFor)
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(registerEvery):
		}
	}
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

// ping gives the socket timeout to appear and osquery timeout to answer there.
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

// register offers the tables once and serves them until ctx or osquery ends.
func register(ctx context.Context, c *config, plugins []osquery.OsqueryPlugin) error {
	server, err := osquery.NewExtensionManagerServer(extensionName, c.socket,
		osquery.ExtensionVersion(kmodquery.Version),
		osquery.ServerTimeout(time.Duration(c.timeout)*time.Second),
		osquery.ServerPingInterval(time.Duration(c.interval)*time.Second),
		osquery.WithTransportFactory(thrift.NewTBufferedTransportFactory(transportBuffer)),
	)
	if err != nil {
		return fmt.Errorf("connect to osquery at %s: %w", c.socket, err)
	}
	server.RegisterPlugin(plugins...)

	ended := make(chan error, 1)
	go func() { ended <- server.Run() }()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	unlisted := make(chan struct{})
	go func() {
		if awaitUnlisted(watching, c) {
			close(unlisted)
		}
	}()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("serve osquery at %s: %w", c.socket, err)
		}
		return nil
	case <-unlisted:
		err = errUnlisted
	case <-ctx.Done():
		err = nil
	}
	// It goes on without osquery, or ends, whether osquery hears this or not.
	_ = server.Shutdown(context.Background())
	select {
	case <-ended: //nolint:errcheck // a server that was shut down ends with its socket gone, whatever it says
	case <-time.After(drainFor):
	}
	return err
}

// errUnlisted says that osquery answers and has dropped this extension. It does
// so after one ping that was not answered in time, and does not say so.
var errUnlisted = errors.New("osquery no longer lists this extension")

// awaitUnlisted returns true once osquery does not list an extension of this
// name that it had listed, or should have by now, and false when ctx ends.
func awaitUnlisted(ctx context.Context, c *config) bool {
	for was := false; ; was = true {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Duration(c.interval) * time.Second):
		}
		is, err := isListed(ctx, c)
		// Whether osquery is there is the server's own affair.
		if err == nil && was && !is {
			return true
		}
	}
}

func isListed(ctx context.Context, c *config) (bool, error) {
	client, err := osquery.NewClient(c.socket, time.Duration(c.timeout)*time.Second)
	if err != nil {
		return false, err
	}
	defer client.Close()
	extensions, err := client.ExtensionsContext(ctx)
	if err != nil {
		return false, err
	}
	for _, extension := range extensions {
		if extension.Name == extensionName {
			return true, nil
		}
	}
	return false, nil
}

// isDuplicate reports whether osquery refused because it lists an extension of
// this name (extensions/interface.cpp).
func isDuplicate(err error) bool {
	return strings.Contains(err.Error(), "Duplicate extension registered")
}

// isGone reports whether osquery no longer answers the pings of an extension
// that it had accepted.
func isGone(err error) bool {
	return strings.Contains(err.Error(), "extension ping failed")
}
