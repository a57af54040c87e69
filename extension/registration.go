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
	// transportBuffer makes one write of many: the transport writes every
	// value by itself otherwise, twelve times slower on a large reply.
	transportBuffer = 64 << 10
	// forgetWithin is how long osquery may list a dead predecessor: it forgets
	// that with its next round of pings. Who is listed for longer is alive.
	forgetWithin = 30 * time.Second
	// registerEvery is the pause before the tables are offered again. It
	// doubles up to registerMax while osquery is away.
	registerEvery = 250 * time.Millisecond
	registerMax   = 2 * time.Second
	// drainFor bounds the wait, after a signal, for requests under way. osquery
	// kills an extension 11 s after it asked it to end.
	drainFor = 5 * time.Second
)

var (
	// errUnlisted says that osquery answers and has dropped this extension. It
	// does so after one ping that was not answered in time, and does not say so.
	errUnlisted = errors.New("osquery no longer lists this extension")
	// errAsked says that osquery asked the extension to end, as it does when it
	// ends itself.
	errAsked = errors.New("it asked its extensions to end")
)

// offer registers the tables and serves them until ctx ends, and registers them
// again whenever osquery has dropped them, went away, or was replaced. It fails
// where osquery refuses for good.
func offer(ctx context.Context, c *config, plugins []osquery.OsqueryPlugin, report *log.Logger) error {
	var (
		pause       = registerEvery
		away        bool      // said that osquery has gone
		refused     time.Time // since when; zero while it does not refuse
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
			continue // it took a look to find out, and so it does the next time
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

// register offers the tables once and serves them until ctx ends or osquery no
// longer lists them, and returns why; nil when ctx has ended. It calls
// registered when osquery has taken them. The tables are not offered any more
// when it returns.
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
	// Not Run, which leaves a goroutine behind each time.
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
	// It goes on without osquery, or ends, whether osquery hears this or not.
	_ = server.Shutdown(context.Background())
	select {
	case <-ended: //nolint:errcheck // a server that was shut down ends with its socket gone, whatever it says
	case <-time.After(drainFor):
	}
	return err
}

// A manager is osquery as a server registers with it. It knows what osquery
// said to that.
type manager struct {
	*osquery.ExtensionManagerClient
	ctx        context.Context             // when it has ended nothing is registered any more
	registered chan gen.ExtensionRouteUUID // gets the number under which osquery lists the extension
	refusal    refusalError                // or why it does not; set when Start has returned
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

// A refusalError is why osquery did not take the tables, in its own words.
type refusalError string

func (e refusalError) Error() string { return "osquery refuses the tables: " + string(e) }

// isConflict reports whether osquery refused because it lists an extension of
// this name, or a table of the same name of another one (extensions/interface.cpp,
// RegistryFactory::addBroadcast).
func (e refusalError) isConflict() bool {
	return strings.Contains(string(e), "Duplicate extension registered") || strings.Contains(string(e), "conflicts with another item")
}

// connect opens a connection to an osquery whose socket is there now, or gives
// up when ctx ends.
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

// awaitLoss returns once osquery does not list the extension of this number any
// more, or is gone, and why; nil when ctx ends.
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
			// It is busy. While it is, it asks nothing and drops nothing.
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
