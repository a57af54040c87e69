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
	// transportBuffer is the size of the transport's write buffer. Without a buffer,
	// each value is one write, which makes a large reply twelve times slower.
	transportBuffer = 64 << 10
	// forgetWithin is how long osquery may list an extension that has ended, until its
	// next round of pings. An extension that is listed for longer still runs.
	forgetWithin = 30 * time.Second
	// registerEvery is the pause before the tables are registered again. It doubles
	// up to registerMax while osquery cannot be reached.
	registerEvery = 250 * time.Millisecond
	registerMax   = 2 * time.Second
	// drainFor bounds the requests in progress after a signal. osquery kills an
	// extension 11 s after it asked it to end.
	drainFor = 5 * time.Second
)

var (
	// errUnlisted means that osquery answers but has dropped this extension. osquery
	// drops an extension without notice after one ping that was not answered in time.
	errUnlisted = errors.New("osquery no longer lists this extension")
	// errAsked means that osquery asked the extension to end, because osquery ends.
	errAsked = errors.New("it asked its extensions to end")
)

// offer registers the tables and serves them until ctx ends. It registers them again
// when osquery has dropped them or was restarted. It returns an error if osquery refuses
// them for a reason that does not pass. It tells the cursors of each registration before
// osquery can call the tables.
func offer(ctx context.Context, c *config, a *app, report *log.Logger) error {
	var (
		pause       = registerEvery
		away        bool      // it was reported that osquery cannot be reached
		refused     time.Time // when osquery refused first; zero if it does not refuse
		refusalSaid bool
	)
	for {
		err := register(ctx, c, a, func() {
			a.cursors.registered()
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
				report.Printf("%v; another process has registered the same extension or tables: end the one that SELECT * FROM osquery_extensions shows. Trying again until then", err)
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

// register registers the tables with osquery and serves them until ctx ends or osquery
// drops them. It returns nil if ctx ended, otherwise the reason. It calls registered once
// osquery has accepted them, before they are served. When it returns, they are no longer
// served.
func register(ctx context.Context, c *config, a *app, registered func()) error {
	client, err := connect(ctx, c)
	if err != nil {
		return fmt.Errorf("connect to osquery at %s: %w", c.socket, err)
	}
	defer client.Close()
	a.watchdog.read(ctx, client)
	m := &manager{ExtensionManagerClient: client, ctx: ctx, accepted: registered, registered: make(chan gen.ExtensionRouteUUID, 1)}
	server, err := osquery.NewExtensionManagerServer(extensionName, c.socket,
		osquery.WithClient(m),
		osquery.ExtensionVersion(kmodquery.Version),
		osquery.ServerTimeout(time.Duration(c.timeout)*time.Second),
		osquery.WithTransportFactory(thrift.NewTBufferedTransportFactory(transportBuffer)),
	)
	if err != nil {
		return fmt.Errorf("connect to osquery at %s: %w", c.socket, err)
	}
	server.RegisterPlugin(a.plugins...)

	ended := make(chan error, 1)
	// Run leaks a goroutine in each call, so Start is called instead.
	go func() { ended <- server.Start() }()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	lost := make(chan error, 1)
	select {
	case uuid := <-m.registered:
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
	_ = server.Shutdown(context.Background()) // fails if osquery has ended
	select {
	case <-ended: //nolint:errcheck // a server that was shut down returns an arbitrary error
	case <-time.After(drainFor):
	}
	return err
}

// A manager is the client with which a server registers with osquery. It keeps osquery's
// answer.
type manager struct {
	*osquery.ExtensionManagerClient
	ctx        context.Context             // RegisterExtension fails once it has ended
	accepted   func()                      // called when osquery has accepted the tables
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
		m.accepted()
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
	var client *osquery.ExtensionManagerClient
	var err error
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		client, err = osquery.NewClient(c.socket, time.Duration(c.timeout)*time.Second)
	}()
	select {
	case <-opened:
		return client, err
	case <-ctx.Done():
		go func() {
			if <-opened; err == nil {
				client.Close()
			}
		}()
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
		err := checkListed(ctx, c, uuid)
		var late net.Error
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &late) && late.Timeout():
			// osquery is busy. Meanwhile it sends no pings and drops no extensions.
		case err != nil:
			return err
		}
	}
}

// checkListed returns errUnlisted if osquery does not list the extension of this number.
func checkListed(ctx context.Context, c *config, uuid gen.ExtensionRouteUUID) error {
	client, err := connect(ctx, c)
	if err != nil {
		return err
	}
	defer client.Close()
	extensions, err := client.ExtensionsContext(ctx)
	if listed := extensions[uuid]; err == nil && (listed == nil || listed.Name != extensionName) {
		return errUnlisted
	}
	return err
}
