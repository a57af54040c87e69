package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"strings"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	osquery "github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"

	"github.com/kmodquery/kmodquery"
)

const (
	extensionName = "kmodquery"
	// transportBuffer is the size of the transport's write buffer. Without one each
	// value is a write of its own, which makes a large reply twelve times slower.
	transportBuffer = 64 << 10
	// forgetWithin is how long osquery may list a dead predecessor, until its next
	// round of pings. An extension that is listed for longer is alive.
	forgetWithin = 30 * time.Second
	// registerEvery is the pause before the tables are registered again. It doubles
	// up to registerMax while osquery is away.
	registerEvery = 250 * time.Millisecond
	registerMax   = 2 * time.Second
	// drainFor is how long requests under way may take after a signal. osquery kills
	// an extension 11 s after it asked it to end.
	drainFor = 5 * time.Second
)

var (
	// errUnlisted says that osquery answers but has dropped this extension. It does
	// so without notice after one ping that was not answered in time.
	errUnlisted = errors.New("osquery no longer lists this extension")
	// errAsked says that osquery asked the extension to end, because osquery ends.
	errAsked = errors.New("it asked its extensions to end")
)

// offer registers the tables and serves them until ctx ends. It registers them again
// whenever osquery has dropped them, went away, or was replaced. It returns an error if
// osquery refuses them for good.
func offer(ctx context.Context, c *config, plugins []osquery.OsqueryPlugin, report *log.Logger) error {
	var (
		pause       = registerEvery
		away        bool      // it was reported that osquery is away
		refused     time.Time // since when osquery refuses, or zero
		refusalSaid bool
	)
	for {
		err := register(ctx, c, plugins, func() {
			if away || refusalSaid {
				report.Print("osquery lists the tables again")
			}
			pause, away, refused, refusalSaid = registerEvery, false, time.Time{}, false
		})
		if ctx.Err() != nil {
			return nil
		}
		var refusal refusalError
		switch {
		case errors.Is(err, errUnlisted):
			report.Print("osquery has dropped the tables; registering them again")
			continue // without a pause: awaitLoss made one
		case errors.As(err, &refusal) && !refusal.isConflict(), errors.Is(err, fs.ErrPermission):
			return err
		case errors.As(err, &refusal):
			if refused.IsZero() {
				refused = time.Now()
			}
			if time.Since(refused) < forgetWithin {
				break
			}
			if !refusalSaid {
				report.Printf("%v; another process has registered the same, which SELECT * FROM osquery_extensions names: end it. Trying again until then", err)
				refusalSaid = true
			}
			pause = registerMax
		default:
			if !away {
				report.Printf("osquery is away: %v; waiting for it", err)
				away = true
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		if away {
			pause = min(2*pause, registerMax)
		}
	}
}

// register registers the tables once and serves them until ctx ends, and then returns
// nil, or until osquery no longer lists them, and then returns why. It calls registered
// when osquery has accepted them. When it returns the tables are no longer served.
func register(ctx context.Context, c *config, plugins []osquery.OsqueryPlugin, registered func()) error {
	client, err := connect(ctx, c)
	if err != nil {
		return fmt.Errorf("connect to osquery at %s: %w", c.socket, err)
	}
	defer client.Close()
	m := &manager{ExtensionManagerClient: client, ctx: ctx, registered: make(chan gen.ExtensionRouteUUID, 1)}
	server, err := osquery.NewExtensionManagerServer(extensionName, c.socket,
		osquery.WithClient(m),
		osquery.ExtensionVersion(kmodquery.Version),
		osquery.ServerTimeout(time.Duration(c.timeout)*time.Second),
		osquery.WithTransportFactory(thrift.NewTBufferedTransportFactory(transportBuffer)),
	)
	if err != nil {
		return fmt.Errorf("connect to osquery at %s: %w", c.socket, err)
	}
	server.RegisterPlugin(plugins...)

	ended := make(chan error, 1)
	// Run would leave a goroutine behind each time.
	go func() { ended <- server.Start() }()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	lost := make(chan error, 1)
	select {
	case uuid := <-m.registered:
		registered()
		go func() { lost <- awaitLoss(watching, c, uuid) }()
	case err := <-ended:
		ended <- err
	}
	select {
	case err = <-ended:
		switch {
		case m.refusal != "":
			err = m.refusal
		case err == nil:
			err = errAsked
		default:
			err = fmt.Errorf("serve osquery at %s: %w", c.socket, err)
		}
		ended <- nil
	case err = <-lost:
	case <-ctx.Done():
		err = nil
	}
	// Whether osquery gets this message does not matter.
	_ = server.Shutdown(context.Background())
	select {
	case <-ended: //nolint:errcheck // the error of a server that was shut down means nothing
	case <-time.After(drainFor):
	}
	return err
}

// A manager is the osquery that a server registers with. It keeps osquery's answer.
type manager struct {
	*osquery.ExtensionManagerClient
	ctx        context.Context             // once it has ended nothing is registered
	registered chan gen.ExtensionRouteUUID // receives the number under which osquery lists the extension
	refusal    refusalError                // why osquery refused; valid when Start has returned
}

func (m *manager) RegisterExtension(info *gen.InternalExtensionInfo, routes gen.ExtensionRegistry) (*gen.ExtensionStatus, error) {
	if err := m.ctx.Err(); err != nil {
		return nil, err
	}
	status, err := m.ExtensionManagerClient.RegisterExtension(info, routes)
	switch {
	case err != nil:
	case status.Code != 0:
		m.refusal = refusalError(status.Message)
	default:
		m.registered <- status.UUID
	}
	return status, err
}

// A refusalError is osquery's message that it refuses the tables.
type refusalError string

func (e refusalError) Error() string { return "osquery refuses the tables: " + string(e) }

// isConflict reports whether osquery refused because it lists an extension or a table
// of the same name already (extensions/interface.cpp, RegistryFactory::addBroadcast).
func (e refusalError) isConflict() bool {
	return strings.Contains(string(e), "Duplicate extension registered") || strings.Contains(string(e), "conflicts with another item")
}

// connect opens a connection to an osquery whose socket exists. It gives up when ctx
// ends.
func connect(ctx context.Context, c *config) (*osquery.ExtensionManagerClient, error) {
	if _, err := os.Stat(c.socket); err != nil {
		return nil, err
	}
	type result struct {
		client *osquery.ExtensionManagerClient
		err    error
	}
	opened := make(chan result)
	go func() {
		client, err := osquery.NewClient(c.socket, time.Duration(c.timeout)*time.Second)
		select {
		case opened <- result{client, err}:
		case <-ctx.Done():
			if err == nil {
				client.Close()
			}
		}
	}()
	select {
	case r := <-opened:
		return r.client, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// awaitLoss returns an error once osquery no longer lists the extension of this number
// or no longer runs. It returns nil when ctx ends.
func awaitLoss(ctx context.Context, c *config, uuid gen.ExtensionRouteUUID) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Duration(c.interval) * time.Second):
		}
		is, err := isListed(ctx, c, uuid)
		var late net.Error
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &late) && late.Timeout():
			// osquery is busy. It sends no pings and drops no extensions then.
		case err != nil:
			return err
		case !is:
			return errUnlisted
		}
	}
}

func isListed(ctx context.Context, c *config, uuid gen.ExtensionRouteUUID) (bool, error) {
	client, err := connect(ctx, c)
	if err != nil {
		return false, err
	}
	defer client.Close()
	extensions, err := client.ExtensionsContext(ctx)
	if err != nil {
		return false, err
	}
	listed := extensions[uuid]
	return listed != nil && listed.Name == extensionName, nil
}
