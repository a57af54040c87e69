package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
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
	// registerEvery is the pause before the tables are registered again.
	registerEvery = 250 * time.Millisecond
)

var (
	// errUnlisted means that osquery answers but has dropped this extension. osquery
	// drops an extension without notice after one ping that was not answered in time.
	errUnlisted = errors.New("osquery no longer lists this extension")
	// errAsked means that osquery asked the extension to end, because osquery ends.
	errAsked = errors.New("it asked its extensions to end")
	// errListed means that osquery lists an extension of this name that has ended.
	errListed = errors.New("osquery lists an extension of this name that has ended")
	// errServed means that osquery lists an extension of this name that runs.
	errServed = errors.New("another process serves these tables to this osquery")
)

// An obstacle is why the tables are not registered.
type obstacle struct {
	patience time.Duration // after which it is reported
	maxPause time.Duration // to which the pause between two tries doubles
	advice   string
}

var (
	// The extensions of an osquery that ends are ended too.
	away = &obstacle{time.Second, 2 * time.Second, "osquery is away: %v; waiting for it"}
	// osquery lists an extension that has ended until its next round of pings.
	listed = &obstacle{30 * time.Second, registerEvery, "%v; restart osquery if it continues to; waiting until it does not"}
	served = &obstacle{0, 2 * time.Second, "%v: use that one, or end it (SELECT * FROM osquery_extensions; extensions.load may name it); waiting until it ends"}
	// osquery logs each refusal as an error.
	refused = &obstacle{0, 30 * time.Second, "%v: end the extension that has them (SELECT * FROM osquery_extensions); trying again until then"}
)

// obstacleOf returns what an error of register means. It returns nil if the tables can
// never be registered.
func obstacleOf(err error) *obstacle {
	var refusal refusalError
	switch {
	case errors.Is(err, errListed):
		return listed
	case errors.Is(err, errServed):
		return served
	case errors.As(err, &refusal) && refusal.isConflict():
		return refused
	case errors.As(err, &refusal), errors.Is(err, fs.ErrPermission):
		return nil
	}
	return away
}

// offer registers the tables and serves them until ctx ends. It registers them again
// when osquery has dropped them or was restarted. It returns an error if osquery refuses
// them for a reason that does not pass. It calls tried after each try.
func offer(ctx context.Context, c *config, o *offeredTables, report *log.Logger, tried func()) error {
	var (
		met      *obstacle // by the last try; nil if the tables were registered
		since    time.Time // when it was met first
		reported *obstacle // last, since the tables were registered
		pause    time.Duration
	)
	for {
		err := register(ctx, c, o, func() {
			o.accepted()
			if reported != nil {
				report.Print("osquery lists the tables again")
			}
			met, reported = nil, nil
			tried()
		})
		tried()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errUnlisted) {
			report.Print("osquery has dropped the tables; registering them again")
			continue // without a pause: awaitLoss made one
		}
		now := obstacleOf(err)
		if now == nil {
			return err
		}
		if now != met {
			met, since, pause = now, time.Now(), registerEvery
		}
		if met != reported && time.Since(since) >= met.patience {
			report.Printf(met.advice, err)
			reported = met
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, met.maxPause)
	}
}

// register registers the tables with osquery and serves them until ctx ends or osquery
// drops them. It returns nil if ctx ended, otherwise the reason. It calls registered once
// osquery has accepted them, before they are served. When it returns, they are no longer
// served.
func register(ctx context.Context, c *config, o *offeredTables, registered func()) error {
	client, err := dial(ctx, c, 0)
	if err == nil {
		defer client.close()
		err = checkFree(ctx, c, client)
	}
	switch {
	case errors.Is(err, errListed), errors.Is(err, errServed):
		return err
	case err != nil:
		return fmt.Errorf("connect to osquery at %s: %w", c.socket, err)
	}
	o.watchdog.read(ctx, client)
	m := &manager{client: client, ctx: ctx, accepted: registered, registered: make(chan gen.ExtensionRouteUUID, 1)}
	server, err := osquery.NewExtensionManagerServer(extensionName, c.socket,
		osquery.WithClient(m),
		osquery.ExtensionVersion(kmodquery.Version),
		osquery.ServerTimeout(c.osqueryTimeout()),
		osquery.WithTransportFactory(thrift.NewTBufferedTransportFactory(transportBuffer)),
	)
	if err != nil {
		return fmt.Errorf("connect to osquery at %s: %w", c.socket, err)
	}
	server.RegisterPlugin(o.plugins...)

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

// checkFree returns an error if osquery lists an extension of this name. osquery would
// refuse another one and log that as an error.
func checkFree(ctx context.Context, c *config, client *client) error {
	extensions, err := client.Extensions(ctx)
	if err != nil {
		return err
	}
	for uuid, extension := range extensions {
		if extension.Name != extensionName {
			continue
		}
		if isListening(fmt.Sprintf("%s.%d", c.socket, uuid)) {
			return errServed
		}
		return errListed
	}
	return nil
}

// A manager is what a server needs of osquery to register with it and to deregister. It
// keeps osquery's answer.
type manager struct {
	osquery.ExtensionManager // nil: a server calls no other method
	client                   *client
	ctx                      context.Context             // RegisterExtension fails once it has ended
	accepted                 func()                      // called when osquery has accepted the tables
	registered               chan gen.ExtensionRouteUUID // receives the number under which osquery lists the extension
	refusal                  refusalError                // why osquery refused; valid when Start has returned
}

func (m *manager) RegisterExtension(info *gen.InternalExtensionInfo, routes gen.ExtensionRegistry) (*gen.ExtensionStatus, error) {
	if err := m.ctx.Err(); err != nil {
		return nil, err
	}
	status, err := m.client.RegisterExtension(context.Background(), info, routes)
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

func (m *manager) DeregisterExtension(uuid gen.ExtensionRouteUUID) (*gen.ExtensionStatus, error) {
	return m.client.DeregisterExtension(context.Background(), uuid)
}

// A refusalError is osquery's message that it refuses the tables.
type refusalError string

func (e refusalError) Error() string { return "osquery refuses the tables: " + string(e) }

// isConflict reports whether osquery refused because it lists an extension or a table
// of the same name already (extensions/interface.cpp, RegistryFactory::addBroadcast).
func (e refusalError) isConflict() bool {
	return strings.Contains(string(e), "Duplicate extension registered") || strings.Contains(string(e), "conflicts with another item")
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
	client, err := dial(ctx, c, 0)
	if err != nil {
		return err
	}
	defer client.close()
	defer context.AfterFunc(ctx, client.close)()
	extensions, err := client.Extensions(ctx)
	if listed := extensions[uuid]; err == nil && (listed == nil || listed.Name != extensionName) {
		return errUnlisted
	}
	return err
}
